"""The report page in Chromium: `make browser-test`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from job_dispatch.model import Reason, Skipped
from job_dispatch.report.charts import Folder, Session
from job_dispatch.report.page import Page, render
from tests.report.test_page import DAYS, INJECTED, SKIPPED_NAME, job, large, placed, sample

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator
    from playwright.sync_api import Page as Tab

SCHEMES = ("light", "dark")
WIDTHS = (400, 1_280)
LONG = "x" * 300


Opened = Callable[..., Any]


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Opened:
    """Open a page in a tab of its own: `with opened(page, width=400, scheme="dark") as tab`."""

    @contextmanager
    def open_page(page: Page, width: int = 1_280, scheme: Any = "light", script: bool = True) -> Iterator[Tab]:
        path = tmp_path / "report.html"
        path.write_text(render(page), encoding="utf-8")
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


def cells(tab: Tab, table: str, label: str) -> list[str]:
    """Return what a table shows of a column."""
    return [text.strip() for text in tab.locator(f'#{table} td[data-label="{label}"]').all_inner_texts()]


def column(tab: Tab, table: str, label: str) -> Locator:
    return tab.locator(f"#{table} th", has_text=label)


def run(**changes: Any) -> Page:
    """Give the sample with names that are hard to fit."""
    skipped = [*sample().skipped, Skipped(Reason.NOT_READABLE, LONG, detail=LONG)]
    assets_by = {**sample().assets_by, "subject": [(LONG, 5), ("774659", 1)]}
    sessions = [*sample().sessions, Session(LONG, DAYS[0], False)]
    folders = [*sample().folders, Folder(LONG, 1, 10**15)]
    sets = [{LONG: LONG, "threshold": 1}, {LONG: LONG, "threshold": 2}]
    hard: dict[str, Any] = {
        **dict.fromkeys(("source", "selection", "command", "first_job", "headline", "amount"), LONG),
        "skipped": skipped,
        "reasons": {LONG: 4},
        "assets_by": assets_by,
        "sessions": sessions,
        "folders": folders,
        "parameter_sets": sets,
        "fixed_parameters": {LONG: LONG},
        "versions": {LONG: "1"},
        "jobs": [job(0, 1, (LONG,)), *sample().jobs],
    }
    return sample(**hard | changes)


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1_280, "light")])
def test_opens_without_a_word_on_the_console_and_asks_for_nothing_but_itself(
    browser: Browser, tmp_path: Path, width: int, scheme: Any
) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(sample()), encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(dialog.message))
    context.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri(), wait_until="networkidle")
    tab.get_by_label("Filter by name, reason or id").fill("behavior")
    tab.locator("#jobs th button").first.dispatch_event("click")
    tab.locator(".matrix [data-rows]").first.hover()
    context.close()
    assert said == []
    assert asked == [path.as_uri()]


@pytest.mark.parametrize("page", [sample(), run(), large()], ids=["sample", "long names", "20,000 jobs"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows_even_where_names_are_long_and_everything_is_unfolded(
    opened: Opened, page: Page, width: int
) -> None:
    with opened(page, width) as tab:
        for _ in range(2):
            assert tab.evaluate("document.scrollingElement.scrollWidth") <= width
            tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")


def test_the_name_of_a_processed_asset_takes_two_lines_at_most_on_a_laptop(opened: Opened) -> None:
    name = "multiplane-ophys_774659_2025-06-07_14-31-15_processed_2025-06-08_03-49-49"
    jobs = [job(worker, assets=(name,)) for worker in range(3)]
    with opened(sample(jobs=jobs), width=1_280) as tab:
        cell = tab.locator("#jobs td.asset").first
        lines = cell.evaluate(
            "cell => { const range = document.createRange(); range.selectNodeContents(cell);"
            " return new Set([...range.getClientRects()].map(one => Math.round(one.top))).size }"
        )
        assert lines <= 2


@pytest.mark.parametrize(
    ("typed", "left", "said"),
    [
        ("774659 DENIED", 1, "1 of 3 shown"),
        ("14-31", 2, "2 of 3 shown"),
        ("nowhere", 0, "0 of 3 shown"),
        (SKIPPED_NAME, 1, "1 of 3 shown: exactly this; 1 more contains it"),
        ("", 3, ""),
    ],
)
def test_the_filter_keeps_rows_with_all_words_and_of_an_exact_name_that_row_alone(
    opened: Opened, typed: str, left: int, said: str
) -> None:
    with opened(sample()) as tab:
        tab.get_by_label("Filter by name, reason or id").fill("xyz")
        tab.get_by_label("Filter by name, reason or id").fill(typed)
        assert len(cells(tab, "skipped", "Name")) == left
        assert tab.locator("#skipped .filter output").inner_text() == said


def test_a_click_on_a_reason_shows_what_was_skipped_for_it_also_after_sorting(opened: Opened) -> None:
    with opened(sample()) as tab:
        tab.get_by_role("link", name="2 not readable").click()
        assert cells(tab, "skipped", "Reason") == ["not readable"] * 2
        column(tab, "skipped", "Name").get_by_role("button").click()
        assert cells(tab, "skipped", "Name")[0] == INJECTED


def test_jobs_sort_by_number_with_the_unknown_last_in_both_directions(opened: Opened) -> None:
    jobs = [job(10, 8_000_000), job(9, None), job(100, 2_000_000)]
    with opened(sample(jobs=jobs)) as tab:
        size = column(tab, "jobs", "Size")
        size.get_by_role("button").click()
        assert cells(tab, "jobs", "Size") == ["2 MB", "8 MB", "unknown"]
        assert size.get_attribute("aria-sort") == "ascending"
        size.get_by_role("button").press("Enter")
        assert cells(tab, "jobs", "Size") == ["8 MB", "2 MB", "unknown"]
        assert tab.locator("#jobs th:not([aria-sort=none])").count() == 1
        column(tab, "jobs", "Worker").get_by_role("button").click()
        assert cells(tab, "jobs", "Worker") == ["9", "10", "100"]


@pytest.mark.parametrize(("width", "rows"), [(400, 20), (1_280, 50)])
def test_20_000_jobs_are_shown_page_by_page_and_one_is_found_by_the_name_of_its_file(
    opened: Opened, width: int, rows: int
) -> None:
    jobs = [placed("0", f"{number:08x}-4e21-482f-8901-5c38d75d6bcd", ("a",)) for number in range(20_000)]
    with opened(sample(jobs=jobs), width) as tab:
        assert len(cells(tab, "jobs", "Job")) == rows
        assert tab.evaluate("document.scrollingElement.scrollHeight") < 12_000
        tab.get_by_role("button", name="Last").click()
        assert tab.locator("#jobs .pager output").inner_text() == f"{20_000 - rows + 1:,} to 20,000 of 20,000"
        tab.get_by_label("Filter by job, asset, file").fill(f"{jobs[7_777][1].name}.json")
        assert cells(tab, "jobs", "Job") == [jobs[7_777][1].name[:8]]


def test_many_files_of_a_job_are_folded_and_those_left_out_are_counted(opened: Opened) -> None:
    files = [tuple("abcd"), (), tuple(f"{number}" for number in range(2_020))]
    with opened(sample(jobs=[job(0, files=one) for one in files])) as tab:
        assert cells(tab, "jobs", "Files") == ["4 files", "none", "2,020 files"]
        tab.locator("#jobs summary").nth(1).click()
        assert "2,000 more in jobs.csv" in cells(tab, "jobs", "Files")[2]


def test_the_command_is_copied_by_a_button(opened: Opened) -> None:
    with opened(sample()) as tab:
        tab.get_by_role("button", name="Copy").click()
        assert tab.evaluate("getSelection().toString()").strip() == sample().command
        assert tab.get_by_role("button", name="Copied").is_visible()


def test_a_cell_of_the_matrix_tells_subject_day_and_number_where_the_pointer_is(opened: Opened) -> None:
    with opened(sample()) as tab:
        cells_of_matrix = tab.locator(".matrix [data-rows]").nth(1)
        cells_of_matrix.hover(position={"x": 5, "y": 5})
        assert tab.locator(".tip:not([hidden])").inner_text() == "774659, 2 Jun 2025: 1 skipped"


def test_a_name_that_looks_like_markup_shows_as_text(opened: Opened) -> None:
    with opened(sample()) as tab:
        assert tab.locator("img").count() == 0
        assert tab.locator("#skipped td").get_by_text(INJECTED, exact=True).first.is_visible()
        assert tab.locator("#assets th").get_by_text(INJECTED, exact=True).is_visible()
        assert tab.locator("#jobs").get_by_text(f"a/{INJECTED}.nwb", exact=True).first.is_visible()


def test_without_script_pictures_are_there_and_the_tables_of_rows_are_named(opened: Opened) -> None:
    with opened(sample(), script=False) as tab:
        assert tab.locator("input, button").locator("visible=true").count() == 0
        assert tab.locator(".matrix path").count() == 4
        assert tab.get_by_text("skipped.csv has all rows").is_visible()
        assert tab.get_by_text("jobs.csv has all rows").is_visible()
        tab.locator("#work summary").click()
        assert tab.locator("#work details table").is_visible()


LUMINANCE = """([one, property]) => {
  const channels = getComputedStyle(document.querySelector(one))[property].match(/[\\d.]+/g).slice(0, 3);
  const [r, g, b] = channels.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}"""


def check_contrast(tab: Tab, scheme: str, *pictures: tuple[str, str]) -> None:
    """Check that text, and parts of pictures by selector and property, stand out from the page."""
    page = tab.evaluate(LUMINANCE, ["body", "backgroundColor"])
    assert (page < 0.1) == (scheme == "dark")
    texts = (("body", "color", 7), (".soft", "color", 4.5), ("a", "color", 4.5), ("svg text", "fill", 4.5))
    for one, property_, least in (*texts, *((*picture, 3) for picture in pictures)):
        shade = tab.evaluate(LUMINANCE, [one, property_])
        assert (max(page, shade) + 0.05) / (min(page, shade) + 0.05) >= least, one


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_and_pictures_stand_out_from_the_page_in_both_schemes(opened: Opened, scheme: str) -> None:
    with opened(sample(), scheme=scheme) as tab:
        check_contrast(tab, scheme, (".column", "fill"), (".skipped", "fill"))


@pytest.mark.parametrize("width", WIDTHS)
def test_labels_below_a_picture_do_not_touch(opened: Opened, width: int) -> None:
    days = [date(2025, 6, 2) + timedelta(days=7 * number) for number in range(52)]
    page = sample(
        folders=[Folder(str(number), 1, number) for number in range(100)],
        sessions=[Session(INJECTED, day, False) for day in days],
    )
    with opened(page, width) as tab:
        for number in range(tab.locator("svg[role=img]").count()):
            labels = tab.locator("svg[role=img]").nth(number).locator("text:not(.total)").locator("visible=true")
            boxes = [labels.nth(index).bounding_box() for index in range(labels.count())]
            ends = [(box["x"], box["x"] + box["width"]) for box in boxes if box]
            assert len(ends) >= 2
            assert all(right + 4 < left for (_, right), (left, _) in itertools.pairwise(ends))
