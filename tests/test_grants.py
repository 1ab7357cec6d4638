"""Tokens and rules: what they allow, how they are written, and who is meant by anybody."""

import socket
from datetime import UTC, datetime
from hashlib import sha256
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.config_access import ADMIN_TOKEN, rules_of, warnings_of
from sfss.config_reading import load
from sfss.errors import SettingError
from sfss.grants import EVERYDAY, OPEN, SCOPES, Grant, Rules, read_token, write_token
from sfss.listening import Listen, is_loopback
from sfss.web.server import is_local

HASH = sha256(b"secret").hexdigest()
NAMES = st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True)
PREFIXES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\"), min_size=1, max_size=20
).filter(lambda text: not text.startswith("/") and "//" not in text)
DAYS = st.dates(datetime(1971, 1, 1).date(), datetime(9000, 1, 1).date())


@given(
    NAMES,
    st.lists(st.sampled_from(SCOPES), min_size=1, unique=True),
    st.lists(st.one_of(PREFIXES, PREFIXES.map("until={}".format)), max_size=3),
    st.none() | DAYS,
)
def test_what_is_written_is_read(
    name: str, scopes: list[str], prefixes: list[str], day: datetime | None
) -> None:
    text = write_token("a secret", name, scopes, prefixes, day.isoformat() if day else "")
    digest, grant = read_token(text)
    assert digest == sha256(b"a secret").digest()
    assert (grant.name, grant.scopes) == (name, frozenset(scopes))
    assert grant.prefixes == tuple(prefixes)
    assert "a secret" not in text
    assert "," not in text  # what separates them in the environment
    assert (grant.until_s == inf) == (day is None)


def test_a_day_is_good_to_its_end() -> None:
    _, grant = read_token(f"a sha256:{HASH} read until=2026-12-31")
    assert grant.until_s == datetime(2027, 1, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"sha256:{HASH} read",
        f"a b sha256:{HASH} read",
        f"a sha256:{HASH[1:]} read",
        f"a sha256:{HASH.upper()} read",
        f"a sha1:{HASH} read",
        f"a sha256:{HASH}",
        f"a sha256:{HASH} ",
        f"a sha256:{HASH} look",
        f"a sha256:{HASH} read+read",
        f"a sha256:{HASH} read+",
        f"a sha256:{HASH} read,write",
        f"a sha256:{HASH} read until=tomorrow",
        f"a sha256:{HASH} read until=2026-02-30",
        f"a sha256:{HASH} read until=",
        f"a sha256:{HASH} read %ff",
        f"a sha256:{HASH} read %zz",
        f"a sha256:{HASH} read photos//",
        f"a  sha256:{HASH} read",
        f"a sha256:{HASH} read\n",
    ],
)
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(ValueError):
        read_token(text)
    with pytest.raises(SettingError, match=r"access\.tokens"):
        load(f"[access]\ntokens = [{text!r}]")


def test_names_and_secrets_are_different() -> None:
    one = f"a sha256:{HASH} read"
    for other in (one.replace("a ", "b ", 1), one.replace(HASH, "0" * 64)):
        with pytest.raises(SettingError, match="different"):
            load(f"[access]\ntokens = [{one!r}, {other!r}]")


@pytest.mark.parametrize("word", ["/", "/%20 photos/ /"])
def test_a_slash_is_all_there_is(word: str) -> None:
    _, grant = read_token(f"a sha256:{HASH} read {word}")
    assert grant.allows("read", None) and grant.prefixes == ()


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("photos/a", True),
        ("photos/", True),
        ("photos", False),
        ("photo", False),
        ("", False),
        (None, False),
        ("a b", True),
    ],
)
def test_a_prefix_is_how_a_path_begins(path: str | None, allowed: bool) -> None:
    _, grant = read_token(f"a sha256:{HASH} read+list photos/ a%20")
    assert grant.allows("read", path) == allowed
    assert not grant.allows("write", path)
    assert Grant("b", frozenset({"read"})).allows("read", path)


def test_what_anybody_may_needs_no_prefix() -> None:
    grant = Grant("a", frozenset({"write"}), ("photos/",), free=frozenset({"read"}))
    assert grant.allows("read", None)
    assert grant.allows("write", "photos/a")
    assert not grant.allows("write", "a")


def test_what_anybody_may_lasts() -> None:
    grant = Grant("a", frozenset({"list", "read"}), until_s=100.0, free=frozenset({"read"}))
    assert grant.lasts("list", 99.0) and not grant.lasts("list", 100.0)
    assert grant.lasts("read", 100.0)


def test_a_token_is_found_by_what_it_is() -> None:
    rules = rules_of(load(f"[access]\ntokens = ['a sha256:{HASH} read']").access)
    found = rules.find(b"secret")
    assert found is not None and found.name == "a"
    for wrong in (b"", b"secre", b"secret ", b"Secret", HASH.encode(), b"a"):
        assert rules.find(wrong) is None
    assert rules.has_token("read") and not rules.has_token("write")


def test_the_token_of_before_opens_what_it_opened() -> None:
    rules = rules_of(load().access, "a token of admins")
    found = rules.find(b"a token of admins")
    assert found == Grant(ADMIN_TOKEN, frozenset({"admin"}))


def test_what_anybody_may_by_default() -> None:
    rules = rules_of(load().access)
    assert rules.free(is_local=True) == frozenset(EVERYDAY)
    assert rules.free(is_local=False) == {"read", "list"}
    assert rules.find(b"") is None
    assert OPEN.free(is_local=True) == OPEN.free(is_local=False) == frozenset(EVERYDAY)


@pytest.mark.parametrize(
    ("text", "local", "network"),
    [
        ("anonymous = []", "", ""),
        ("anonymous = ['read']", "read", "read"),
        ("open_to_the_network = ['write']", "delete list read write", "list read write"),
        ("open_to_the_network = ['delete', 'write']", "delete list read write", None),
        ("anonymous = ['admin']", "admin", ""),
        ("anonymous = ['admin', 'read']\nopen_to_the_network = ['admin']", "admin read", None),
    ],
)
def test_what_anybody_may(text: str, local: str, network: str | None) -> None:
    rules = rules_of(load(f"[access]\n{text}").access)
    assert sorted(rules.free(is_local=True)) == local.split()
    assert sorted(rules.free(is_local=False)) == (local if network is None else network).split()


@pytest.mark.parametrize(
    "text",
    [
        "open_to_the_network = ['admin']",
        "anonymous = ['read']\nopen_to_the_network = ['write']",
        "open_to_the_network = ['read']",
        "anonymous = ['look']",
        "anonymous = ['read', 'read']",
        "anonymous = 'read'",
    ],
)
def test_what_cannot_be_opened(text: str) -> None:
    with pytest.raises(SettingError, match="access"):
        load(f"[access]\n{text}")


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),
        ("::", False),
        ("::ffff:0.0.0.0", False),
        ("10.0.0.1", False),
        ("192.168.1.1", False),
        ("fe80::1%eth0", False),
        ("localhost.example.org", False),
        ("some-host", False),
        ("", False),
        ("127.1", False),
    ],
)
def test_who_reaches_a_host(host: str, local: bool) -> None:
    assert is_loopback(host) == local


def test_a_socket_of_this_machine_is_local() -> None:
    with socket.socket() as bound, socket.socket(socket.AF_UNIX) as unix:
        bound.bind(("127.0.0.2", 0))
        assert is_local(bound)
        assert is_local(unix)


LISTEN = [Listen("127.0.0.1:1", ("native",)), Listen("[::1]:1", ("native",))]
FACES = Listen("0.0.0.0:2", ("native",))
FIGURES = Listen("[::]:3", ("metrics",))


def said(rules: Rules, *listeners: Listen) -> str:
    """Return what is said at a start."""
    return "\n".join(warnings_of(rules, (*LISTEN, *listeners)))


def test_what_is_said_at_a_start() -> None:
    closed, opened = rules_of(load().access), OPEN
    assert said(closed) == said(opened) == said(closed, FIGURES) == ""
    assert "nobody may write at 0.0.0.0:2" in said(closed, FACES)
    assert "sfss token" in said(closed, FACES)
    assert "WHOEVER REACHES 0.0.0.0:2 MAY WRITE, DELETE" in said(opened, FACES)
    tokens = f"[access]\ntokens = ['a sha256:{HASH} write']"
    assert said(rules_of(load(tokens).access), FACES, FIGURES) == ""
