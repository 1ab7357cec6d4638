"""What ``sfss nginx`` refuses to write, and what it writes. Whether nginx takes it, and does what
is meant, is tested in ``test_nginx_node`` and ``test_nginx_front``.
"""

from pathlib import Path

import pytest

from sfss.cli import main as sfss
from sfss.errors import SettingError
from sfss.nginx_conf import CHILDREN_LIMIT, Front, Node, Process, front_conf, node_conf

PROCESS = Process(work="/var/nginx", listen="127.0.0.1:80")

WRONG_NODES = {
    "--root": [{"root": root} for root in ("", "/", "//", "a/b", "/a\nb", "/a\x00", "/\udc80")],
    "--listen": [
        {"process": Process("/w", listen)}
        for listen in (
            "80",
            "a:b",
            "127.0.0.1:0",
            "127.0.0.1:65536",
            "a b:80",
            "a;:80",
            "{:80",
            "$a:1",
        )
    ],
    "--work": [{"process": Process(work, "a:80")} for work in ("", "w", "/", "/a\rb")],
    "--user": [{"process": Process("/w", "a:80", user=name)} for name in ("a b", "a;", "-a", "$u")],
    "--workers": [{"process": Process("/w", "a:80", workers=-1)}],
    "--body-limit": [{"process": Process("/w", "a:80", body_limit=-1)}],
    "--prefix": [
        {"prefix": prefix}
        for prefix in (
            "",
            "files",
            "//",
            "/a//b",
            "/.a",
            "/a b",
            "/a;",
            "/a{",
            "/$a",
            "/a/..",
            "/@a",
        )
    ],
    "--child": [
        {"children": [child]}
        for child in (
            "",
            "127.0.0.1:80",
            "https://a",
            "http://a;b",
            "http://a/$b",
            "http://a/%41",
            "http://a/../b",
            "http://a b",
            "http://u:p@a",
            "http://a?b",
            "http://a:0",
            "http://a:99999/b",
            'http://a/"',
        )
    ]
    + [{"children": ["http://a"] * (CHILDREN_LIMIT + 1)}],
    "--child-timeout": [{"child_timeout_s": 0}],
    "--delete-depth": [{"delete_depth": 0}],
    "--allow": [
        {"writers": [text]} for text in ("", "all", "10.0.0.1/8", "a", "10.0.0.0/8;", "::/x")
    ],
    "--propfind": [{"propfind": "/a\n"}],
}
WRONG_FRONTS = {
    "--gateway": [{"gateways": []}, {"gateways": ["a"]}, {"gateways": ["a:1;"]}],
    "--certificate": [
        {"certificate": "/a"},
        {"key": "/a"},
        {"certificate": "/a$b", "key": "/k"},
        {"certificate": "a", "key": "/k"},
    ],
    "--key": [{"certificate": "/a", "key": "/a$b"}, {"certificate": "/a", "key": "k"}],
}


@pytest.mark.parametrize(
    ("flag", "wrong"), [(flag, wrong) for flag, all in WRONG_NODES.items() for wrong in all]
)
def test_what_could_be_misread_in_a_node_is_refused(flag: str, wrong: dict[str, object]) -> None:
    right = {"process": PROCESS, "root": "/srv/files"}
    with pytest.raises(SettingError) as raised:
        node_conf(Node(**{**right, **wrong}))  # type: ignore[arg-type]
    assert raised.value.key == flag


@pytest.mark.parametrize(
    ("flag", "wrong"), [(flag, wrong) for flag, all in WRONG_FRONTS.items() for wrong in all]
)
def test_what_could_be_misread_in_a_front_is_refused(flag: str, wrong: dict[str, object]) -> None:
    with pytest.raises(SettingError) as raised:
        front_conf(Front(**{"process": PROCESS, "gateways": ["a:1"], **wrong}))  # type: ignore[arg-type]
    assert raised.value.key == flag


def test_addresses_of_every_form_are_taken() -> None:
    children = ["http://[::1]:8080/a", "http://node-1.example", "http://10.0.0.1:81/a/b/"]
    text = node_conf(Node(Process("/w", "[::1]:80"), "/srv", "/f", children, ["10.0.0.0/8", "::1"]))
    for line in (
        "listen [::1]:80;",
        "server [::1]:8080;",
        "server node-1.example;",
        "allow 10.0.0.0/8;",
        "allow ::1/128;",
        'rewrite "(?s)^/f/(.*)$" "/a/b/$1" break;',
    ):
        assert f"    {line}\n" in text


def test_only_this_machine_may_write_unless_told() -> None:
    assert "allow 127.0.0.1/32;" in node_conf(Node(PROCESS, "/srv"))
    assert "allow 127.0.0.1" not in node_conf(Node(PROCESS, "/srv", writers=["10.0.0.0/8"]))


def test_root_is_told_that_workers_are_somebody_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for user_id, options, is_told in (
        (0, [], True),
        (0, ["--user", "root"], False),
        (1000, [], False),
    ):
        monkeypatch.setattr("os.geteuid", lambda found=user_id: found)
        assert sfss(["nginx", "node", "--root", "/srv/files", *options]) == 0
        assert ("--user NAME" in capsys.readouterr().err) == is_told


def test_a_user_has_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert sfss(["nginx", "node", "--root", "/srv/files", "--user", "no-such-user"]) == 2
    assert "--user: is 'no-such-user'" in capsys.readouterr().err


def test_it_goes_to_standard_output_or_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sfss(["nginx", "node", "--root", "/srv/files"]) == 0
    text = capsys.readouterr().out
    assert '    client_body_temp_path "/srv/files/.uploads";\n' in text
    assert 'pid "/srv/files/.nginx/nginx.pid";\n' in text
    file = tmp_path / "nginx.conf"
    root = ["--root", str(tmp_path / "files")]
    assert sfss(["nginx", "node", *root, "--output", str(file)]) == 0
    own = text.replace("/srv", str(tmp_path))
    assert (file.read_text(), capsys.readouterr().out) == (own, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["node", "--root", "/a", "--listen", "80"],
        ["node", "--root", ".", "--output", "/none/such/file"],
        ["front", "--gateway", "a"],
    ],
)
def test_a_wrong_value_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sfss(["nginx", *arguments]) == 2
    assert arguments[-2] in capsys.readouterr().err
