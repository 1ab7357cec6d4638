"""Signed URLs: what is signed, and that nothing else is allowed; the recipes of the docs."""

import re
import shutil
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.signing import BadSignature, Claim, Signed, check, query_of, signature_of
from tests.servers import CHECKOUT, lacking

KEYS = {"one": b"the secret of one", "two": b"the secret of two"}
NOW_S = 1_800_000_000.0
SIGNED = Signed("GET", "photos/ä b.jpg", 1_800_000_001, "one")

PATHS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)
SIGNED_ONES = st.builds(
    Signed,
    st.sampled_from(["GET", "PUT"]),
    PATHS,
    st.integers(int(NOW_S) + 1, 10**12 - 1),
    st.sampled_from(["one", "two"]),
)


def claim_of(signed: Signed) -> Claim:
    """Return what a signed URL says."""
    found = re.fullmatch(
        "expires=(.*)&key=(.*)&signature=(.*)", query_of(signed, KEYS[signed.name])
    )
    assert found is not None
    return Claim(*found.groups())


def test_what_is_signed_are_five_lines() -> None:
    assert SIGNED.text == "sfss1\nGET\nphotos/ä b.jpg\n1800000001\none".encode()
    # As `openssl dgst -sha256 -hmac` has it: this does not change, or URLs would end.
    assert signature_of(SIGNED, KEYS["one"]) == "QS9VxYYFfcKa7hfgezt31O7_NZI9nZR0vLGNeXnEPcQ"


@given(SIGNED_ONES)
def test_what_is_signed_is_good(signed: Signed) -> None:
    claim = claim_of(signed)
    assert check(claim, signed.method, signed.path, KEYS, NOW_S) == signed.name
    if signed.method == "GET":
        assert check(claim, "HEAD", signed.path, KEYS, NOW_S) == signed.name


@given(SIGNED_ONES, SIGNED_ONES)
def test_it_is_good_for_nothing_else(signed: Signed, other: Signed) -> None:
    signature = claim_of(signed).signature
    claim = Claim(str(other.expires_s), other.name, signature)
    if other == signed:
        check(claim, other.method, other.path, KEYS, NOW_S)
        return
    with pytest.raises(BadSignature):
        check(claim, other.method, other.path, KEYS, NOW_S)


@given(st.text(max_size=50) | st.none(), st.text(max_size=20) | st.none(), st.text() | st.none())
def test_what_is_made_up_is_not_good(
    expires: str | None, name: str | None, signature: str | None
) -> None:
    for claim in (Claim(expires, name, signature), Claim("1800000001", "one", signature)):
        with pytest.raises(BadSignature):
            check(claim, "GET", SIGNED.path, KEYS, NOW_S)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"expires": None}, "has expires, key and signature"),
        ({"name": None}, "has expires, key and signature"),
        ({"name": "three"}, "is not known"),
        ({"name": "two"}, "is not that of"),
        ({"expires": "1800000002"}, "is not that of"),
        ({"expires": "01800000001"}, "no number|not a number"),
        ({"expires": " 1800000001"}, "not a number"),
        ({"expires": "\u0661800000001"}, "not a number"),
        ({"expires": "1e9"}, "not a number"),
        ({"expires": "9" * 13}, "not a number"),
        ({"signature": ""}, "is not that of"),
        ({"signature": claim_of(SIGNED).signature + "="}, "is not that of"),
        ({"signature": "QS9VxYYFfcKa7hfgezt31O7_NZI9nZR0vLGNeXnEPcR"}, "is not that of"),
        ({"signature": "\udcff"}, "is not that of"),
    ],
)
def test_what_is_wrong_with_it(change: dict[str, Any], words: str) -> None:
    claim = claim_of(SIGNED)
    assert check(claim, "GET", SIGNED.path, KEYS, NOW_S)
    with pytest.raises(BadSignature, match=words):
        check(claim._replace(**change), "GET", SIGNED.path, KEYS, NOW_S)


def test_it_ends() -> None:
    claim = claim_of(SIGNED)
    assert check(claim, "GET", SIGNED.path, KEYS, 1_800_000_000.999)
    with pytest.raises(BadSignature, match="has expired"):
        check(claim, "GET", SIGNED.path, KEYS, 1_800_000_001.0)
    # Who has no key is not told.
    with pytest.raises(BadSignature, match="is not that of"):
        check(claim._replace(signature="x"), "GET", SIGNED.path, KEYS, 1_800_000_001.0)


def recipe(language: str) -> str:
    """Return the recipe in the docs."""
    page = (CHECKOUT / "docs" / "access.md").read_text()
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return str(found)


VALUES = {
    "method": "PUT",
    "path": "photos/ä b%41+c.jpg",
    "expires": "1800000001",
    "name": "one",
    "secret": KEYS["one"].decode(),
}
EXPECTED = signature_of(Signed("PUT", VALUES["path"], 1_800_000_001, "one"), KEYS["one"])


def test_the_recipe_for_python() -> None:
    names: dict[str, Any] = dict(VALUES)
    exec(recipe("python"), names)
    assert names["signature"] == EXPECTED


def test_the_recipe_for_a_shell() -> None:
    if shutil.which("openssl") is None:
        lacking("openssl is not installed")
    done = subprocess.run(
        ["sh", "-c", recipe("sh") + 'printf %s "$signature"'],
        env={"PATH": "/usr/bin:/bin", **VALUES},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode() == EXPECTED
