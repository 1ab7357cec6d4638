"""Credentials from the files that the AWS tools share, which obstore does not read.

It is only for these files: what the environment says, a web identity, a container or the machine,
obstore finds itself. The files come where the AWS tools have them: after the environment, before
containers and machines. https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html
"""

import os
from configparser import ConfigParser
from configparser import Error as ConfigError
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

_REREAD: Final = timedelta(minutes=5)
_FIRST: Final = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE")
"""Whatever of these the environment has comes before the files."""


class SharedCredentials:
    """The keys of ``profile`` in ``file``, which is read again every five minutes."""

    def __init__(self, file: Path, profile: str) -> None:
        self._file, self._profile = file, profile

    @classmethod
    def from_environment(cls) -> "SharedCredentials | None":
        """Return those of AWS_PROFILE in AWS_SHARED_CREDENTIALS_FILE, by default ``default`` in
        ~/.aws/credentials; None where the environment says otherwise, or they have no keys.
        """
        if any(os.environ.get(name) for name in _FIRST):
            return None
        named = os.environ.get("AWS_SHARED_CREDENTIALS_FILE")
        file = Path(named) if named else Path("~/.aws/credentials").expanduser()
        found = cls(file, os.environ.get("AWS_PROFILE") or "default")
        try:
            found()
        except ValueError:
            return None
        return found

    def __call__(self) -> Any:
        """Return the keys as obstore takes them; raise ValueError where there are none."""
        parser = ConfigParser(interpolation=None, default_section="")
        try:
            parser.read_string(self._file.read_text(encoding="utf-8"))
            entries = parser[self._profile]
            key, secret = entries["aws_access_key_id"], entries["aws_secret_access_key"]
        except (OSError, UnicodeDecodeError, ConfigError, KeyError):
            # The text of an error of the parser may quote a secret.
            raise ValueError(f"no keys of {self._profile} in {self._file}") from None
        return {
            "access_key_id": key,
            "secret_access_key": secret,
            "token": entries.get("aws_session_token"),
            "expires_at": datetime.now(UTC) + _REREAD,
        }
