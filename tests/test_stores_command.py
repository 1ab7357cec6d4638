"""sfss stores: what the settings say of stores, without asking any."""

import json
from pathlib import Path

import pytest

from sfss.cli import main
from tests.servers import CHECKOUT

GROUPS = """
[[listen]]
address = "127.0.0.1:1"
faces = ["upload", "fetch"]
[cluster]
kind = "replicated"
[replicated]
placement = "groups"
shards = ["one a:1 b:1", "two c:1 d:1"]
preferred = ["d:1"]
read_only = ["a:1"]
"""
SHARDS = """
[cluster]
kind = "replicated"
[replicated]
placement = "jump"
shards = ["one x2 a:1 b:1", "two c:1"]
former_shards = ["one a:1 b:1"]
write_quorum = 1
"""


def printed(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, *more: str) -> str:
    config = tmp_path / "sfss.toml"
    config.write_text(text)
    assert main(["stores", "--config", str(config), *more]) == 0
    return capsys.readouterr().out


def test_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(tmp_path, capsys, GROUPS).splitlines() == [
        "kind replicated, placement groups, write_quorum majority",
        "SHARD  STORE",
        "two    d:1    preferred",
        "two    c:1",
        "one    a:1    only read",
        "one    b:1    only read",
    ]


def test_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(tmp_path, capsys, SHARDS).splitlines() == [
        "kind replicated, placement jump, write_quorum 1",
        "SHARD  STORE  WEIGHT",
        "one    a:1    2",
        "one    b:1    2",
        "two    c:1    1",
        "one    a:1    1       before a change",
        "one    b:1    1       before a change",
    ]
    document = json.loads(printed(tmp_path, capsys, SHARDS, "--json"))
    assert document["stores"][0] == {"shard": "one", "store": "a:1", "weight": 2, "note": ""}


def test_other_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = "[cluster]\nkind = 'nodes'\n[memcached]\nservers = ['a:1', 'b:1']\n"
    assert printed(tmp_path, capsys, nodes) == "kind nodes\nSTORE\na:1\nb:1\n"
    assert printed(tmp_path, capsys, "") == "kind embedded\nSTORE\nvar/store\n"


@pytest.mark.parametrize("name", ["replicated", "photosrv", "filedist", "sos", "embedded"])
def test_the_samples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stores", "--config", str(CHECKOUT / "conf" / f"{name}.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stores"]


def test_settings_that_are_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "sfss.toml"
    config.write_text(GROUPS.replace("d:1", "x:1", 1).replace('["d:1"]', '["y:1"]'))
    assert main(["stores", "--config", str(config)]) == 2
    assert "replicated.preferred" in capsys.readouterr().err
