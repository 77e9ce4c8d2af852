"""Both pages in headless Chromium: no network, no warnings, every figure, sortable tables; on a phone and on paper."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from elongate.report.comparison import write_comparison
from elongate.report.page import write_report

from .fake import EVALUATIONS, fake_config, fake_results, with_reach, write_run

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs Debian's chromium and chromium-driver"),
]

HEADINGS = {
    "comparison.html": [
        "Side by side",
        "Loss by position after the extension",
        "Quality against cost",
        "How far back the text is used",
        "Lost in the middle?",
        "The strategies and their verification",
    ],
    "yarn-0/report.html": [
        "Loss by position",
        "Needle",
        "Lost in the middle?",
        "How far back the text is used",
        "Gain of context",
        "Retrieval",
        "Training",
        "Budget",
        "The strategy and its verification",
        "Data",
        "Configuration",
    ],
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Name the driver by its path: otherwise selenium looks for one on the network.
    try:
        driver = Chrome(options=options, service=Service(DRIVER))
    except WebDriverException as fault:
        pytest.skip(f"Chromium does not start here: {str(fault).splitlines()[0]}")
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three strategies with two seeds; a needle of one of them was not measured."""
    sweep = tmp_path_factory.mktemp("sweep")
    for context in ("yarn", "none", "pi"):
        for seed in (0, 1):
            results = with_reach(fake_results(context, seed))
            if context == "none":
                del results["needle"]
            write_run(sweep / f"{context}-{seed}", results, fake_config(context, seed), metrics=True)
    write_comparison(sweep)
    write_report(sweep / "yarn-0", EVALUATIONS)
    return sweep


def opened(browser: Any, page: Path, width: int = 1280) -> Any:
    """The page at that width, with empty logs."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page.as_uri())
    return browser


@pytest.fixture(params=[1280, 390], ids=["desk", "phone"])
def width(request: pytest.FixtureRequest) -> int:
    return request.param


pages = pytest.mark.parametrize("page", HEADINGS)


@pages
def test_it_opens_without_warnings_and_without_the_network(browser: Any, sweep: Path, page: str, width: int) -> None:
    opened(browser, sweep / page, width)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert (sweep / page).as_uri() in requested
    assert [url for url in requested if not url.startswith(("file:", "data:"))] == []


@pages
def test_every_part_and_every_figure_is_shown(browser: Any, sweep: Path, page: str, width: int) -> None:
    opened(browser, sweep / page, width)
    assert browser.execute_script("return [...document.querySelectorAll('h2')].map(h => h.innerText)") == HEADINGS[page]
    images = browser.execute_script("return [...document.images].map(i => [i.complete && i.naturalWidth, i.clientWidth, i.alt])")
    assert len(images) == {"comparison.html": 4, "yarn-0/report.html": 6}[page]
    for natural, shown, alt in images:
        assert natural >= shown > 300
        assert len(alt) > 20


@pages
def test_a_table_that_is_cut_off_shows_a_shadow(browser: Any, sweep: Path, page: str) -> None:
    """The right edge of a table that scrolls is darker than the paper, except at the end of the scroll."""
    opened(browser, sweep / page, 390)
    browser.execute_script(
        "const wide = [...document.querySelectorAll('.scroll')].find(box => box.scrollWidth > box.clientWidth + 20 && box.offsetHeight);"
        "wide.scrollIntoView(); window.wide = wide;"
    )

    def shade_at_the_edge() -> int:
        box = browser.execute_script("const r = wide.getBoundingClientRect(); return [r.right, r.top, r.height]")
        image = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("L")
        x = int(box[0]) - 2
        # The median over the height: letters and lines of the table are a part of it only.
        return sorted(image.getpixel((x, int(box[1]) + y)) for y in range(2, int(box[2]) - 2))[int(box[2]) // 2]

    assert shade_at_the_edge() < 235
    browser.execute_script("wide.scrollLeft = wide.scrollWidth")
    assert shade_at_the_edge() > 250


@pages
def test_the_page_is_not_wider_than_a_phone(browser: Any, sweep: Path, page: str) -> None:
    opened(browser, sweep / page, 390)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    # A pinned name must not cover its table: scrolling would never show the figures.
    pinned = "return [...document.querySelectorAll('.pinned tbody th')].map(h => h.offsetWidth / h.closest('.scroll').clientWidth)"
    assert max(browser.execute_script(pinned)) < 0.6


@pages
def test_the_printed_page_shows_folded_parts_and_whole_tables(browser: Any, sweep: Path, page: str) -> None:
    opened(browser, sweep / page, 720)  # pixels of A4 within its margins
    shown = "return [...document.querySelectorAll('details > :not(summary)')].map(e => e.checkVisibility({contentVisibilityAuto: true}))"
    assert set(browser.execute_script(shown)) == {False}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    # Folded parts are drawn one frame after their layout.
    browser.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))")
    assert set(browser.execute_script(shown)) == {True}
    # Paper has no scroll bar.
    boxes = "return [document.documentElement, ...document.querySelectorAll('.scroll, pre')].map(e => e.scrollWidth - e.clientWidth)"
    assert max(browser.execute_script(boxes)) <= 1
    assert browser.execute_script("return Math.min(...[...document.images].map(i => i.clientWidth))") > 300


def column(browser: Any, table: int, head: int) -> list[str]:
    """The cells of a column as shown, without the error below a figure."""
    script = (
        "const rows = document.querySelectorAll('table.sortable')[arguments[0]].tBodies[0].rows;"
        "return [...rows].map(r => r.cells[arguments[1]].firstChild.textContent.trim())"
    )
    return browser.execute_script(script, table, head)


def heads(browser: Any, table: int) -> list[Any]:
    return browser.execute_script("return [...document.querySelectorAll('table.sortable')[arguments[0]].tHead.rows[0].cells]", table)


def in_order(cells: list[str], reverse: bool) -> list[str]:
    """Numbers in order, `none` as the smallest, missing values last."""
    known = [cell for cell in cells if cell != "–"]
    try:
        known.sort(key=lambda cell: 0.0 if cell == "none" else float(cell.replace(",", "")), reverse=reverse)
    except ValueError:
        known.sort(reverse=reverse)
    return known + ["–"] * (len(cells) - len(known))


CLICKS = """
const table = document.querySelectorAll("table.sortable")[arguments[0]];
const heads = [...table.tHead.rows[0].cells];
const cells = (index) => [...table.tBodies[0].rows].map((row) => row.cells[index].firstChild.textContent.trim());
return heads.map((head, index) => ["ascending", "descending", "ascending"].map((name) => {
  const before = cells(index);
  head.querySelector("button").click();
  return [name, before, cells(index), heads.map((one) => one.getAttribute("aria-sort")), index];
}));
"""


def test_every_column_sorts_in_both_directions(browser: Any, sweep: Path) -> None:
    opened(browser, sweep / "comparison.html")
    tables = browser.execute_script("return document.querySelectorAll('table.sortable').length")
    assert tables == 5
    changed = 0
    for table in range(tables):
        for clicks in browser.execute_script(CLICKS, table):
            for name, before, after, sorts, index in clicks:
                assert after == in_order(before, name == "descending")
                assert sorts == [name if i == index else None for i in range(len(sorts))]
                changed += after != before
    assert changed > 20


def test_sorting_moves_whole_rows(browser: Any, sweep: Path) -> None:
    opened(browser, sweep / "comparison.html")
    rows = "return [...document.querySelectorAll('table.sortable')[0].tBodies[0].rows].map(r => r.innerText)"
    before = browser.execute_script(rows)
    heads(browser, 0)[0].find_element("tag name", "button").click()
    after = browser.execute_script(rows)
    assert after != before
    assert sorted(after) == sorted(before)


@pytest.mark.parametrize("key", ["\ue007", " "], ids=["enter", "space"])
def test_tables_can_be_sorted_with_the_keyboard(browser: Any, sweep: Path, key: str) -> None:
    opened(browser, sweep / "comparison.html", 390)
    loss = next(number for number, head in enumerate(heads(browser, 0)) if head.text.startswith("loss at"))
    for _ in range(loss + 1):  # from the top of the page, one Tab per column
        browser.switch_to.active_element.send_keys("\ue004")
    for reverse in (False, True):
        before = column(browser, 0, loss)
        browser.switch_to.active_element.send_keys(key)
        assert column(browser, 0, loss) == in_order(before, reverse)
    assert column(browser, 0, loss) != before


def test_without_its_script_the_page_is_complete(browser: Any, sweep: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened(browser, sweep / "comparison.html")
        table = browser.find_element("css selector", "table.sortable")
        assert not table.find_elements("tag name", "button")
        assert table.text.startswith("strategy loss at")
        assert "context=yarn" in table.text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
