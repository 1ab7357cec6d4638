"""The fixture itself: what no page may do is noticed."""

from playwright.async_api import Page

from tests.browser.conftest import IN_THE_BROWSER, Complaints

pytestmark = IN_THE_BROWSER

_BAD = """<!DOCTYPE html>
<meta http-equiv="Content-Security-Policy" content="style-src 'none'">
<body><p style="color:red">red</p><img src="http://127.0.0.2:9/other">
<script>console.error("it broke"); throw Error("thrown")</script>
"""


async def test_what_no_page_may_do_is_noticed(page: Page, complaints: Complaints) -> None:
    await page.set_content(_BAD)
    for each in ("it broke", "exception: thrown", "another host", "Content Security Policy"):
        assert any(each in text for text in complaints.found), (each, complaints.found)
    complaints.expect(".*")
    assert not complaints.unexpected()
