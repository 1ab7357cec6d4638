"""A prefix of paths is written in one form, whichever setting it stands in."""

import subprocess
from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.checks import read_rewrites
from sfss.config import Settings
from sfss.config_access import rules_of
from sfss.config_answers import read_caching
from sfss.config_reading import load
from sfss.errors import BadPath, SettingError
from sfss.keys import check_path
from sfss.prefixes import read_prefix, read_prefixes, write_prefix
from tests.servers import PYTHON_ENVIRON, SFSS

HASH = sha256(b"secret").hexdigest()


def of_token(settings: Settings) -> str:
    (grant,) = rules_of(settings.access).tokens.values()
    return "".join(grant.prefixes)


def of_quota(settings: Settings) -> str:
    return settings.quota.quotas()[0].prefix


def of_trusted(settings: Settings) -> str:
    return read_prefixes(settings.answers.trusted)[0]


def of_caching(settings: Settings) -> str:
    return read_caching(settings.answers.cache_control)[0][0]


def of_rewrites(settings: Settings) -> str:
    return read_rewrites(settings.paths.rewrites)[0][0][1:]


SETTINGS = pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"[access]\ntokens = ['a sha256:{HASH} read PREFIX']", of_token),
        ("[quota]\nprefixes = ['PREFIX 1GiB -']", of_quota),
        ("[answers]\ntrusted = ['PREFIX']", of_trusted),
        ("[answers]\ncache_control = ['PREFIX no-cache']", of_caching),
        ("[paths]\nrewrites = ['PREFIX /to/']", of_rewrites),
    ],
)


@SETTINGS
@pytest.mark.parametrize(
    ("written", "prefix"),
    [
        ("photos/", "photos/"),
        ("/photos/", "photos/"),
        ("photos", "photos"),
        ("фото/+&?#;", "фото/+&?#;"),
        ("my%20photos/", "my photos/"),
        ("100%25/", "100%/"),
        ("%D1%84/", "ф/"),
        ("/", ""),
    ],
)
def test_a_prefix_is_written_in_one_form(
    text: str, found: Callable[[Settings], str], written: str, prefix: str
) -> None:
    assert found(load(text.replace("PREFIX", written))) == prefix


@SETTINGS
@pytest.mark.parametrize("written", ["100%/", "a%2", "a%zz/", "%ff/", "a//b", "//"])
def test_what_is_no_prefix_is_refused(
    text: str, found: Callable[[Settings], str], written: str
) -> None:
    with pytest.raises(SettingError, match=r'"%" (in them )?as "%25"') as caught:
        load(text.replace("PREFIX", written))
    assert written in str(caught.value)


def test_a_space_is_plain_where_it_ends_nothing() -> None:
    assert of_trusted(load("[answers]\ntrusted = ['my photos/']")) == "my photos/"
    assert of_quota(load("[quota]\nprefixes = ['my photos/ 1GiB -']")) == "my photos/"


@pytest.mark.parametrize("text", ["['a/', '/a/']", "['a b', 'a%20b']"])
def test_one_prefix_in_two_forms_is_one(text: str) -> None:
    with pytest.raises(SettingError, match="different"):
        load(f"[answers]\ntrusted = {text}")


def is_prefix(text: str) -> bool:
    try:
        check_path(text)
    except BadPath:
        return False
    return True


@given(st.text(max_size=20).filter(is_prefix))
def test_what_is_written_is_read(prefix: str) -> None:
    assert read_prefix(write_prefix(prefix)) == prefix
    assert write_prefix(prefix).isascii() and " " not in write_prefix(prefix)


@pytest.mark.parametrize("prefix", ["", "a//b", "a\\b"])
def test_a_token_is_not_made_for_a_prefix_that_is_none(prefix: str) -> None:
    # An empty one would be good for all: it is more likely a variable that is not set.
    command = [*SFSS, "token", "me", "--prefix", prefix]
    ended = subprocess.run(command, env=PYTHON_ENVIRON, capture_output=True, text=True, check=False)
    assert ended.returncode and not ended.stdout
    assert "--prefix" in ended.stderr and repr(prefix) in ended.stderr
