"""The documents: Sphinx makes them without a warning, README.rst leads to every page."""

import re
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


def test_the_readme_leads_to_every_page_and_nowhere_else() -> None:
    targets = set(re.findall(r"<([^>\s]+)>`_", (CHECKOUT / "README.rst").read_text()))
    assert [each for each in targets if not (CHECKOUT / each).exists()] == []
    pages = {f"docs/{path.name}" for path in (CHECKOUT / "docs").glob("*.md")} - {"docs/index.md"}
    assert pages <= targets


def test_what_the_pages_name_in_conf_is_there() -> None:
    for page in (CHECKOUT / "README.rst", *(CHECKOUT / "docs").glob("*.md")):
        for name in re.findall(r"\bconf/[\w.-]+\w", page.read_text()):
            assert (CHECKOUT / name).exists(), f"{name} in {page.name}"
