"""``sfss migrate``: the move of all files to other stores while the service goes on.

The state is in a file that all workers of the gateways see; what is copied, is copied by a run of
the tool "migrate", here, in a process of its own.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from sfss.config_checks import migrates
from sfss.errors import Refused, SettingError
from sfss.migration import Migration, State, Status
from sfss.repair_commands import Options, run_tool
from sfss.replicas import open_migration

ACTIONS: Final = ("start", "status", "finish", "abort")

_REFUSED: Final = 1
_WAITS_S: Final = 10.0
"""Seconds that a run waits for the one before it, which notices that it is not wanted any more."""
_EXPLAIN: Final[Mapping[State, str]] = {
    State.OLD: "files are in the old places; sfss migrate start begins",
    State.BOTH: "writes go to the new places, reads look in both",
    State.BACK: "writes go to the old places again, reads look in both; sfss migrate abort copies"
    " on",
    State.NEW: "files are in the new places: make them those of [replicated], empty [migration]",
}


@dataclass(frozen=True, slots=True)
class Migrate:
    """What is to be done: one of ``ACTIONS``; ``tool`` says how files are copied."""

    action: str
    tool: Options
    force: bool = False

    def run(self) -> int:
        """Do it, and return the exit status: that of the run that copies (``run_tool``), or 1 for
        what is refused. Raises ``SettingError``.
        """
        settings = self.tool.settings
        if settings.cluster.kind != "replicated" or not migrates(settings):
            wanted = '[migration] with the new stores, and cluster.kind "replicated", are expected'
            raise SettingError("settings", "migration", "is empty", wanted)
        migration = open_migration(settings)
        try:
            return self._run(migration)
        except Refused as error:
            print(f"sfss: {error}", file=sys.stderr)
            return _REFUSED
        finally:
            migration.close()

    def _run(self, migration: Migration) -> int:
        if self.action == "status":
            return self._show(migration)
        if self.tool.dry_run:
            if migration.state() is State.OLD:
                raise Refused(
                    "--dry-run shows what is left to be copied, and nothing is before"
                    " sfss migrate start; sfss check looks at files where they are"
                )
            return self._copy(migration, migration.status())
        status = migration.take(self.action, self.force)
        if self.action == "finish":
            return self._show(migration)
        exit_status = self._copy(migration, status)
        if migration.status().since_us != status.since_us:
            raise Refused("the state was changed by somebody else while files were copied")
        if exit_status:
            return exit_status
        migration.copied(status.since_us)
        if self.action == "abort":
            migration.take("finish")
        return 0 if self.tool.as_json else self._show(migration)

    def _copy(self, migration: Migration, status: Status) -> int:
        since_us = status.since_us

        def goes_on() -> bool:
            return migration.status().since_us == since_us

        run = replace(self.tool, since_us=since_us, goes_on=goes_on, waits_s=_WAITS_S)
        return run_tool(run)

    def _show(self, migration: Migration) -> int:
        status = migration.status()
        if self.tool.as_json:
            print(json.dumps(status.document()))
            return 0
        print(f"{status.state.value}: {_EXPLAIN[status.state]}{_what_is_left(status)}")
        return 0


def _what_is_left(status: Status) -> str:
    if status.state is not State.BOTH:
        return ""
    if status.is_copied:
        return "; everything has been copied: sfss migrate finish ends it"
    return "; not everything has been copied yet: sfss migrate start goes on"
