"""``sfss members``: who belongs to the cluster of this gateway, and changes of that."""

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sfss.command_parsers import NewParser, add_cluster
from sfss.config import Settings
from sfss.config_joined import is_joined
from sfss.discovery import NOT_BEGUN, read_view
from sfss.errors import SettingError, Unreachable
from sfss.member_files import StateFile
from sfss.member_messages import ask
from sfss.member_state import State
from sfss.member_talk import BadWord, Reply, question, read_reply
from sfss.members import CannotChange, Member
from sfss.settings_file import read_settings
from sfss.talking import TalkOptions, begun

PATIENCE_S: Final = 30.0
"""Seconds that the own gateway may take to have a change agreed on."""

_BEGINS: Final = "this gateway begins a cluster, unless it hears of one"
_ACTIONS: Final = ("show", "found", "leave", "forget")


def add_members(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = new(
        description="Shows who belongs to the cluster that the gateway of these settings has"
        " joined. found: this gateway is the first member of a new cluster, and begins it, unless"
        " others call it, for then it has lost its disk. leave: the member gives its files to the"
        " others, and can then be stopped. forget: the member will not come back; what only it had"
        ' is lost. For cluster.kind "joined"; to be started where that gateway runs.',
    )
    add_cluster(parser)
    parser.add_argument("action", choices=_ACTIONS, nargs="?", default="show")
    parser.add_argument("address", nargs="?", default="", help="what the member advertises")
    parser.add_argument(
        "--force",
        action="store_true",
        help="forget it although no majority of the members can be asked: for when the others are"
        " lost for good, never for when they cannot be reached",
    )
    parser.add_argument(
        "--json", action="store_true", dest="as_json", help="print one JSON document"
    )


def run_members(options: argparse.Namespace) -> int:
    """Do what is asked; return 0, or 1 where it was refused. Raises ``SettingError``."""
    settings = read_settings(options.config, None, options.cluster)
    _check_joined(settings)
    folder = Path(settings.embedded.folder)
    if not folder.is_dir():
        found, wanted = f"is {str(folder)!r}", "a folder is expected: no gateway has run here yet"
        raise SettingError("settings", "embedded.folder", found, wanted)
    state = StateFile(folder).load()
    if options.action == "show":
        note = _note(settings, state)
        print(json.dumps(_view(folder, state)) if options.as_json else _table(folder, state, note))
        return 0
    if options.action == "found":
        options.address = settings.discovery.advertise
    if not options.address:
        raise SettingError("command line", "address", "is missing", "the member has to be named")
    return _change(settings, state, options)


def begin_cluster(settings: Settings) -> None:
    """Note, before anything is served, that the gateway of ``settings`` is the first member of a
    new cluster, if it belongs to none yet. Raises ``SettingError`` where it cannot be.
    """
    _check_joined(settings)
    options, file = settings.discovery, StateFile(Path(settings.embedded.folder))
    talking = TalkOptions(options.advertise, options.tag, options.join)

    def change(state: State) -> tuple[State, None]:
        return state if state.membership is not None else begun(state, talking), None

    try:
        file.change(change)
    except CannotChange:
        found, wanted = f"is {list(options.join)}", "the first member names nobody, or itself first"
        raise SettingError("settings", "discovery.join", found, wanted) from None


def _check_joined(settings: Settings) -> None:
    if not is_joined(settings):
        found = f'is "{settings.cluster.kind}"'
        raise SettingError("settings", "cluster.kind", found, '"joined" is expected')


def _change(settings: Settings, state: State, options: argparse.Namespace) -> int:
    try:
        answer = asyncio.run(_asked(settings, state, options))
    except (Unreachable, BadWord) as error:
        print(f"sfss: {error}", file=sys.stderr)
        return 1
    if answer.refused:
        print(f"sfss: refused: {answer.refused}", file=sys.stderr)
        return 1
    if options.action == "found":
        print(f"noted: {_BEGINS}")
    else:
        print(f"agreed: {options.action} {options.address}")
    return 0


async def _asked(settings: Settings, state: State, options: argparse.Namespace) -> Reply:
    discovery = settings.discovery
    member = Member(discovery.advertise, state.store)
    more = {"address": options.address, "force": options.force}
    text = question(discovery.tag, options.action, member, state, **more)
    found = await ask(discovery.advertise, discovery.secret, text, PATIENCE_S)
    return read_reply(found, discovery.tag)


def _view(folder: Path, state: State) -> Mapping[str, Any]:
    """Return what the gateway has noted of the members last."""
    view = read_view(folder)
    return {"state": "left" if state.left else "known" if state.membership else "alone", **view}


def _note(settings: Settings, state: State) -> str:
    """Return what has to be said of a gateway that is no member."""
    options = settings.discovery
    if state.left:
        return "this gateway has left"
    if state.membership is not None:
        return ""
    if state.begins:
        return _BEGINS
    is_first = TalkOptions(options.advertise, options.tag, options.join).is_first
    return NOT_BEGUN if is_first else "no cluster was found yet"


def _table(folder: Path, state: State, note: str) -> str:
    view = _view(folder, state)
    lines = [f"epoch {view['epoch']}"]
    for address, shown in view["members"].items():
        notes = ["live" if shown["live"] else "away"]
        notes += ["leaving"] if shown["leaves"] else []
        if shown["live"] and shown["adopted"] < view["epoch"]:
            # With that, all wait.
            notes += [f"has a process that goes by epoch {shown['adopted']}"]
        if view["moving"] is not None:
            notes.append("has moved" if shown["moved"] >= view["epoch"] else "has files to move")
        lines.append(f"{address}  {', '.join(notes)}")
    lines += [note] if note else []
    if view["moving"]:
        moving = view["moving"].items()
        lines.append("moving: " + ", ".join(f"{name} {value}" for name, value in moving))
    return "\n".join(lines)
