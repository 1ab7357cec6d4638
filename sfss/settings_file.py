"""The settings, read from a file and the environment."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sfss.config import Setting, Settings
from sfss.config_reading import load
from sfss.errors import SettingError

CONFIG_VARIABLE: Final = "SFSS_CONFIG"
CLUSTER_VARIABLE: Final = "SFSS_CLUSTER"


def read_settings(
    file: str | None = None,
    options: Mapping[str, Setting] | None = None,
    cluster: str | None = None,
) -> Settings:
    """Return the settings in ``file``, overridden by the environment and then by ``options``.

    Without ``file`` the one that SFSS_CONFIG names is read, if any; without ``cluster``, the one
    of its clusters that SFSS_CLUSTER names. Raises ``SettingError``, also when a file cannot be
    read.
    """
    cluster = cluster or os.environ.get(CLUSTER_VARIABLE, "")
    file = file or os.environ.get(CONFIG_VARIABLE)
    try:
        text = Path(file).read_text(encoding="utf-8") if file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(str(file), "file", str(error), "a TOML file is expected") from None
    return load(text, file or "settings", os.environ, options, cluster)
