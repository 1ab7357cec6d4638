"""The documents: Sphinx makes them without a warning, and every page is in the contents."""

import subprocess
import sys
from pathlib import Path

from tests.servers import CHECKOUT


def test_sphinx_makes_the_documents_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    folders = ["-d", str(tmp_path / "read"), str(CHECKOUT / "docs"), str(tmp_path / "html")]
    made = subprocess.run([*command, *folders], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    pages = {path.stem for path in (CHECKOUT / "docs").glob("*.md")} | {"settings"}
    assert {path.stem for path in (tmp_path / "html").glob("*.html")} >= pages
