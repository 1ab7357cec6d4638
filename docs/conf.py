"""How Sphinx makes the documents: ``python -m sphinx -W -b html docs var/docs``."""

import re
from pathlib import Path

INIT = Path(__file__).parent.parent / "sfss" / "__init__.py"

project = "sfss"
author = "the sfss authors"
release = version = re.findall(r'^__version__ = "(.+)"$', INIT.read_text("utf-8"), re.MULTILINE)[0]
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"sfss {release}"
html_copy_source = False
html_show_copyright = False
