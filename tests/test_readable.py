"""Sizes and times as people read them."""

import pytest

import simple_client
from sfss.readable import readable_size, readable_span

SIZES = {
    0: "0 B",
    1: "1 B",
    1023: "1023 B",
    1023.5: "1 KiB",
    1024: "1 KiB",
    1075: "1 KiB",
    1076: "1.1 KiB",
    1280: "1.3 KiB",
    12_595: "12.3 KiB",
    1_048_524: "1023.9 KiB",
    1_048_525: "1 MiB",
    1_500_000: "1.4 MiB",
    16 * 1024**2: "16 MiB",
    3 * 1024**3: "3 GiB",
    1024**4 - 1: "1 TiB",
    1024**5 * 2.5: "2.5 PiB",
    1024**6 * 2: "2048 PiB",
}
"""Bytes, and how they are written; the pages are held against the same."""


@pytest.mark.parametrize(("count", "text"), SIZES.items())
def test_a_size_is_readable(count: float, text: str) -> None:
    assert readable_size(count) == text
    if count < 1024**5:
        assert simple_client.readable(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (7.9, "0:00:07"), (90, "0:01:30"), (90_061, "25:01:01")]
)
def test_a_span_is_readable(seconds: float, text: str) -> None:
    assert readable_span(seconds) == text
