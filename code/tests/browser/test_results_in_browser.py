"""The page of results in Chromium: `make browser-test`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from job_dispatch.results import page
from job_dispatch.results.gathering import Results, Row, Status
from tests.browser.test_page_in_browser import SCHEMES, WIDTHS, check_contrast
from tests.results.test_page import INJECTED, PICTURE, make_row

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator
    from playwright.sync_api import Page as Tab

LONG = "x" * 300

Opened = Callable[..., Any]


def make_rows(number: int = 120) -> list[Row]:
    """Return jobs of which each tenth failed, and the last is left."""
    rows = [
        make_row(place)
        if place % 10
        else make_row(place, status=Status.FAILED, values={}, reason="ValueError: no reward", where="psth.py:41")
        for place in range(number - 1)
    ]
    left: dict[str, Any] = {"values": {}, "attempts": 0, "seconds": None, "peak_memory": None, "start": ""}
    return [*rows, make_row(number - 1, status=Status.LEFT, **left)]


def hard_rows() -> list[Row]:
    """Return jobs with names that are hard to fit."""
    fields: dict[str, Any] = {
        "asset_name": (LONG, LONG),
        "subject": LONG,
        "parameters": {LONG: LONG, "other": LONG},
        "values": {LONG: 1e-30, "y" * 300: LONG, "rate": -123456.789},
        "host": LONG,
    }
    failed = make_row(2, status=Status.FAILED, reason=LONG, where=LONG, **fields)
    return [make_row(0), make_row(1, **fields), failed]


def written(rows: list[Row], folder: Path) -> Path:
    """Write the page of jobs whose results are in a folder."""
    placed = [dataclasses.replace(row, folder=folder / row.job) for row in rows]
    return page.write(Results(folder, tuple(placed)))


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Opened:
    """Open a page in a tab of its own: `with opened(rows, width=400, scheme="dark") as tab`."""

    @contextmanager
    def open_page(
        rows: list[Row] | None = None, width: int = 1_280, scheme: Any = "light", script: bool = True
    ) -> Iterator[Tab]:
        path = written(rows or make_rows(), tmp_path)
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script
        )
        try:
            tab = context.new_page()
            tab.goto(path.as_uri())
            yield tab
        finally:
            context.close()

    return open_page


def cells(tab: Tab, label: str) -> list[str]:
    """Return what the table shows of a column."""
    return [text.strip() for text in tab.locator(f'#table td[data-label="{label}"]').all_inner_texts()]


def header(tab: Tab, label: str) -> Locator:
    return tab.locator("#table th", has_text=re.compile(f"^{label}$"))


def points(tab: Tab, value: str) -> int:
    """Return how many dots the plot of a value has."""
    paths = tab.locator(".plot", has=tab.get_by_role("heading", name=value, exact=True)).locator(".points")
    return sum(len(re.findall("M", path.get_attribute("d") or "")) for path in paths.all())


def choose(tab: Tab, words: str, shown: str) -> None:
    """Type into the filter and wait until the page says how many jobs fit."""
    tab.locator("#words").fill(words)
    tab.locator("#shown", has_text=re.compile(f"^{shown}$")).wait_for()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_opens_without_a_word_on_the_console_and_asks_for_nothing_but_itself(
    browser: Browser, tmp_path: Path, width: int, scheme: Any
) -> None:
    path = written(make_rows(), tmp_path)
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    context.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri(), wait_until="networkidle")
    choose(tab, "700001", "40 of 120 jobs")
    tab.locator("#against").select_option("parameters.window")
    tab.locator("#log").check()
    tab.locator("#table tr.job").first.click()
    context.close()
    assert said == []
    assert [one for one in asked if not one.startswith("data:")] == [path.as_uri()]


@pytest.mark.parametrize("rows", [make_rows(), hard_rows()], ids=["sample", "long names"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows_even_where_names_are_long_and_everything_is_unfolded(
    opened: Opened, rows: list[Row], width: int
) -> None:
    with opened(rows, width) as tab:
        tab.locator("#table tr.job").nth(1).click()
        for _ in range(2):
            assert tab.evaluate("document.scrollingElement.scrollWidth") <= width
            tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")


def test_jobs_sort_by_a_value_with_those_that_have_none_last_in_both_directions(opened: Opened) -> None:
    with opened(make_rows(12)) as tab:
        header(tab, "peak_rate").get_by_role("button").click()
        assert cells(tab, "peak_rate")[:2] == ["1.50012", "2.50025"]
        assert cells(tab, "peak_rate")[-3:] == ["", "", ""]
        assert header(tab, "peak_rate").get_attribute("aria-sort") == "ascending"
        header(tab, "peak_rate").get_by_role("button").press("Enter")
        assert cells(tab, "peak_rate")[:2] == ["9.50111", "8.50098"]
        assert cells(tab, "peak_rate")[-3:] == ["", "", ""]
        assert header(tab, "peak_rate").get_attribute("aria-sort") == "descending"


def test_jobs_sort_by_time_as_seconds_and_not_as_text(opened: Opened) -> None:
    rows = [make_row(number, seconds=seconds) for number, seconds in enumerate((9_000.0, 600.0, 2.0, 80.0))]
    with opened(rows) as tab:
        header(tab, "time").get_by_role("button").click()
        assert cells(tab, "time") == ["2.0 s", "80 s", "10 min", "2.5 h"]


@pytest.mark.parametrize(
    ("words", "jobs"),
    [
        ("700001 GOOD", 36),
        ("peak_rate>100", 17),
        ("peak_rate>=100 window=0.5", 8),
        ("status=failed", 12),
        ("subject=700001", 40),
        ("no reward", 12),
        ("nowhere", 0),
        ("a<b", 0),
    ],
)
def test_the_filter_takes_words_and_comparisons(opened: Opened, words: str, jobs: int) -> None:
    with opened() as tab:
        choose(tab, words, f"{jobs} of 120 jobs")
        assert tab.locator("#table tr.job").count() == min(jobs, 50)
        tab.get_by_role("button", name="Clear").click()
        tab.locator("#shown", has_text=re.compile("^120 jobs$")).wait_for()


def test_a_click_on_a_status_shows_its_jobs_alone_and_a_second_click_all(opened: Opened) -> None:
    with opened() as tab:
        failed = tab.locator(".states").get_by_role("button", name="12 failed")
        failed.click()
        assert set(cells(tab, "status")) == {"failed"}
        assert tab.locator("#range").inner_text() == "1 to 12 of 12"
        failed.click()
        assert tab.locator("#range").inner_text() == "1 to 50 of 120"


def test_the_table_is_paged_and_its_ends_are_known(opened: Opened) -> None:
    with opened() as tab:
        first, back, on, last = (tab.get_by_role("button", name=name) for name in ("First", "Previous", "Next", "Last"))
        assert back.is_disabled()
        on.click()
        assert tab.locator("#range").inner_text() == "51 to 100 of 120"
        last.click()
        assert tab.locator("#table tr.job").count() == 20
        assert on.is_disabled()
        first.click()
        assert tab.locator("#range").inner_text() == "1 to 50 of 120"


def test_plots_have_a_dot_for_each_job_with_the_value_and_follow_the_filter(opened: Opened) -> None:
    with opened() as tab:
        assert points(tab, "peak_rate") == 107
        assert points(tab, "time") == 119
        choose(tab, "subject=700001", "40 of 120 jobs")
        assert points(tab, "peak_rate") == 36


@pytest.mark.parametrize(
    ("against", "labels"),
    [
        ("subject", ["700000", "700001", "700002"]),
        ("parameters.window", ["0.5", "1"]),
        ("session", ["2025-06-01", "2025-06-28"]),
    ],
)
def test_values_are_plotted_against_what_is_chosen(opened: Opened, against: str, labels: list[str]) -> None:
    with opened() as tab:
        tab.locator("#against").select_option(against)
        assert points(tab, "peak_rate") == 107
        shown = tab.locator("#value-plots .plot").first.locator("svg text").all_text_contents()
        assert [label for label in shown if label in labels] == labels


def test_values_of_a_parameter_stand_in_the_order_of_numbers(opened: Opened) -> None:
    thresholds = [0.1, 10, 0.05, 2]
    rows = [make_row(number, parameters={"threshold": one}) for number, one in enumerate(thresholds)]
    with opened(rows) as tab:
        tab.locator("#against").select_option("parameters.threshold")
        shown = tab.locator("#value-plots .plot").first.locator("svg text").all_text_contents()
        assert [float(text) for text in shown[-4:]] == sorted(thresholds)


def test_the_distribution_has_bars_that_add_up_to_no_more_than_the_plot_is_high(opened: Opened) -> None:
    with opened() as tab:
        bars = tab.locator("#value-plots .bins").first.bounding_box()
        dots = tab.locator("#value-plots .points").first.bounding_box()
        assert bars
        assert dots
        assert bars["x"] > dots["x"] + dots["width"]
        assert bars["y"] + 4 > dots["y"]
        assert bars["y"] + bars["height"] < dots["y"] + dots["height"] + 4


def test_a_click_on_a_dot_opens_its_job(opened: Opened) -> None:
    rows = [make_row(0, values={"rate": 1}), make_row(1, values={"rate": 2}), make_row(3, values={"rate": 9})]
    with opened(rows) as tab:
        tab.locator("#against").select_option("")
        path = tab.evaluate(
            "[...document.querySelectorAll('#value-plots .points')].map((one) => one.getAttribute('d')).join('')"
        )
        spots = [(float(x), float(y)) for x, y in re.findall(r"M([\d.]+) ([\d.]+)h0", path)]
        x, y = min(spots, key=lambda spot: spot[1])
        svg = tab.locator("#value-plots svg").first
        svg.hover(position={"x": x, "y": y})
        assert tab.locator(".tip").first.inner_text().startswith("9 · 700000")
        svg.click(position={"x": x, "y": y})
        assert tab.locator("#table tr.job").count() == 1
        assert tab.locator("#table tr.more").inner_text().count(rows[2].job) == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_a_row_opens_to_everything_that_is_known_of_its_job(opened: Opened, width: int) -> None:
    with opened(width=width) as tab:
        tab.locator("#table tr.job").nth(1).get_by_role("button").click()
        more = tab.locator("#table tr.more")
        for text in (make_row(1).job, "laptop", "0.025", "fit.r"):
            assert more.get_by_text(text, exact=True).is_visible()
        assert more.get_by_role("link", name="Log").get_attribute("href") == f"./{make_row(1).job}/log.txt"
        tab.locator("#table tr.job").nth(1).get_by_role("button").click()
        assert tab.locator("#table tr.more").count() == 0


def test_of_a_long_list_the_table_shows_the_beginning_and_the_row_that_opens_all(opened: Opened) -> None:
    numbers = [round(0.1 * number, 1) for number in range(30)]
    with opened([make_row(0, values={"trace": numbers}), make_row(1)]) as tab:
        assert cells(tab, "trace")[0] == f"{str(numbers)[:40]}…"
        tab.locator("#table tr.job").first.get_by_role("button").click()
        assert tab.locator("#table tr.more").get_by_text(str(numbers), exact=True).is_visible()


def test_columns_can_be_shown_and_hidden(opened: Opened) -> None:
    with opened() as tab:
        assert cells(tab, "host") == []
        tab.locator("#jobs summary").click()
        tab.get_by_role("checkbox", name="host").check()
        tab.get_by_role("checkbox", name="asset").uncheck()
        assert cells(tab, "host")[0] == "laptop"
        assert cells(tab, "asset") == []


def test_pictures_show_whether_they_are_in_the_page_or_beside_it(opened: Opened, tmp_path: Path) -> None:
    rows = [make_row(number) for number in range(2)]
    for row, padding in zip(rows, ("", " " * 400_000), strict=True):
        (tmp_path / row.job / "a b").mkdir(parents=True)
        (tmp_path / row.job / "a b" / "psth#1.svg").write_text(PICTURE + padding)
    with opened(rows) as tab:
        images = tab.locator("#gallery img")
        images.first.scroll_into_view_if_needed()
        for number, begin in enumerate(("data:", "./")):
            image = images.nth(number)
            assert (image.get_attribute("src") or "").startswith(begin)
            image.evaluate("(one) => one.decode()")
            assert image.evaluate("(one) => one.naturalWidth") > 0


def test_a_name_that_looks_like_markup_shows_as_text(opened: Opened) -> None:
    fields: dict[str, Any] = {
        "subject": INJECTED,
        "values": {INJECTED: 1, "rate": 1},
        "parameters": {INJECTED: INJECTED},
    }
    with opened([make_row(0, **fields), make_row(1)]) as tab:
        tab.locator("#table tr.job").first.click()
        assert tab.locator("img").count() == 0
        assert tab.locator("#table tr.job").get_by_text(INJECTED, exact=True).first.is_visible()


@pytest.mark.parametrize("width", WIDTHS)
def test_without_script_counts_failures_and_the_way_to_the_table_are_there(opened: Opened, width: int) -> None:
    with opened(width=width, script=False) as tab:
        assert tab.locator("h1").inner_text() == "107 of 120 jobs done, 12 failed, 1 left"
        assert tab.get_by_text("ValueError: no reward").first.is_visible()
        assert tab.get_by_role("link", name="table.csv").count() == 2
        assert tab.locator("input, button, select").locator("visible=true").count() == 0


def test_with_10_000_jobs_the_page_keeps_few_elements_and_finds_one_job(opened: Opened) -> None:
    with opened(make_rows(10_000)) as tab:
        assert tab.evaluate("document.querySelectorAll('*').length") < 5_000
        choose(tab, make_row(7_777).job, "1 of 10,000 jobs")
        assert cells(tab, "subject") == ["700001"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_and_pictures_stand_out_from_the_page_in_both_schemes(opened: Opened, scheme: str) -> None:
    with opened(scheme=scheme) as tab:
        parts = (("rect.done", "fill"), ("rect.failed", "fill"), (".points.c0", "stroke"), (".points.c1", "stroke"))
        check_contrast(tab, scheme, *parts)
