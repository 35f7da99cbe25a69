"""The page in a real browser: Chromium, headless, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pdray.report.page import write_report
from tests.report.cases import make_run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; make setup installs it")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no browser: chromium is not on PATH and the variable CHROMIUM names none"
)
HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'><svg onload='window.hacked = 3'>",
    "\u202e\u2066 turned round \" ' </div></details> \x00\x1b" + "w" * 5000,
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where a page full of hostile texts and long names lies."""
    root = tmp_path_factory.mktemp("run")
    aspects = ["<script>window.hacked = 4</script>", "a_name_without_any_space_" * 4, "safe"]
    made = make_run(root / ("r" * 100), 40, texts=dict.fromkeys(range(40), HOSTILE),
                    aspects=aspects, notes={"corpus": ["<script>window.hacked = 5</script>", "n" * 400]})  # fmt: skip
    return f"file://{write_report([str(made.run)])}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser: Any, report: str, said: list[str] | None = None, **options: Any) -> Any:
    """The page; what it says on the console, asks for and pops up goes to ``said``."""
    page = browser.new_context(**{"viewport": {"width": 1100, "height": 800}} | options).new_page()
    heard = [] if said is None else said
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("dialog", lambda dialog: heard.append(dialog.message))
    page.on("request", lambda request: heard.append(request.url) if request.url != report else None)
    page.goto(report)
    return page


def test_no_request_no_error_and_no_stranger_runs(browser: Any, report: str) -> None:
    said: list[str] = []
    page = opened(browser, report, said)
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.wait_for_timeout(200)
    assert [one for one in said if one != "data:,"] == []
    assert page.evaluate("window.hacked") is None
    assert page.locator("script").count() == 1
    assert page.locator("#samples img, #samples .words svg").count() == 0
    assert "window.hacked = 1" in page.locator(".pair .words").first.inner_text()


def test_a_script_that_got_in_would_not_run(browser: Any, report: str, tmp_path: Path) -> None:
    harmed = tmp_path / "harmed.html"
    html = Path(report.removeprefix("file://")).read_text(encoding="utf-8")
    harmed.write_text(html.replace("<main>", "<main><script>window.hacked = 6</script>"), encoding="utf-8")
    said: list[str] = []
    page = opened(browser, f"file://{harmed}", said)
    assert page.evaluate("window.hacked") is None
    assert any("Content Security Policy" in one for one in said)


@pytest.mark.parametrize("width", [360, 768])
def test_nothing_is_wider_than_the_screen(browser: Any, report: str, width: int) -> None:
    page = opened(browser, report, viewport={"width": width, "height": 800})
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("Math.min(...[...document.querySelectorAll('figure')].map((one) => one.clientWidth))") > 300


def test_a_row_that_goes_on_beyond_a_phone_is_one_line_high(browser: Any, report: str) -> None:
    page = opened(browser, report, viewport={"width": 390, "height": 800})
    heights = "[...document.querySelectorAll('#proxies .scroll tr')].map((row) => row.offsetHeight)"
    found = page.evaluate(heights)
    assert len(found) == 4 and max(found) < 45, found


def test_the_plots_follow_the_theme(browser: Any, report: str) -> None:
    drawn = "getComputedStyle(document.querySelector('#divergence svg text')).fill"
    colours = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color, " + drawn + "]"
    light, dark = (opened(browser, report, color_scheme=one).evaluate(colours) for one in ("light", "dark"))
    assert all(one != other for one, other in zip(light, dark, strict=True)), (light, dark)


def test_search_and_filter(browser: Any, report: str) -> None:
    page = opened(browser, report)
    shown = page.locator(".pair:not([hidden])")
    every = shown.count()
    page.select_option("#find-aspect", "2")
    aspects = set(page.locator(".pair:not([hidden])").evaluate_all("found => found.map((one) => one.dataset.aspect)"))
    assert aspects == {"2"} and 0 < shown.count() < every
    page.select_option("#find-aspect", "")
    page.fill("#find-text", "TURNED round")
    assert shown.count() == every
    name = page.locator(".pair .id").first.inner_text()
    page.fill("#find-text", name)
    assert 0 < shown.count() < every and shown.locator(".id").all_inner_texts() == [name] * shown.count()
    page.fill("#find-text", "no such words")
    assert shown.count() == 0 and page.locator("#found").inner_text() == f"0 of {every} pairs"
    assert page.locator(".group:not([hidden])").count() == 0


def test_the_page_is_whole_without_scripts(browser: Any, report: str) -> None:
    page = opened(browser, report, java_script_enabled=False)
    assert not page.locator(".find").is_visible()
    pair = page.locator(".pair").first
    assert not pair.locator(".words").first.is_visible()
    pair.locator("summary").click()
    assert pair.locator(".words").first.is_visible()
