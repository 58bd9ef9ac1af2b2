"""The report page in Chromium: `make browser-test`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from job_dispatch.report.page import Folder, Page, Skipped, render
from tests.report.test_page import INJECTED, SKIPPED_NAME, job, large, sample

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


def rows(tab: Tab, table: str) -> Locator:
    return tab.locator(f"#{table}-table tbody tr").locator("visible=true")


def first_cells(tab: Tab, table: str) -> list[str]:
    return [text.strip() for text in tab.locator(f"#{table}-table tbody td:first-child").all_inner_texts()]


def run(**changes: Any) -> Page:
    """Give the sample with names that are hard to fit."""
    skipped = [*sample().skipped, Skipped(LONG, LONG)]
    assets_by = {**sample().assets_by, "subject": [(LONG, 5), ("774659", 1)]}
    folders = [*sample().folders, Folder(LONG, 1, 10**15)]
    sets = [{LONG: LONG, "threshold": 1}, {LONG: LONG, "threshold": 2}]
    hard: dict[str, Any] = {
        "skipped": skipped, "skipped_total": 4, "assets_by": assets_by, "folders": folders, "parameter_sets": sets,
        "fixed_parameters": {LONG: LONG}, "source": LONG, "selection": LONG, "command": LONG, "headline": LONG,
        "versions": {LONG: "1"}, "jobs": [job(0, 1, (LONG,)), *sample().jobs],
    }  # fmt: skip
    return sample(**hard | changes)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
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
    tab.locator("#skipped-table-filter").fill("behavior")
    tab.locator("#jobs-table th button").first.click()
    context.close()
    assert said == []
    assert asked == [path.as_uri()]


@pytest.mark.parametrize("page", [sample(), run(), large()], ids=["sample", "long names", "10,000 jobs"])
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
    jobs = [dataclasses.replace(one, assets=(name,), parameter_set='{"window": 1}') for one in sample().jobs]
    with opened(sample(jobs=jobs), width=1_280) as tab:
        cell = tab.locator("#jobs-table td.assets").first
        lines = cell.evaluate(
            "cell => { const range = document.createRange(); range.selectNodeContents(cell);"
            " return new Set([...range.getClientRects()].map(one => Math.round(one.top))).size }"
        )
        assert lines <= 2


def test_filtering_the_skipped_to_one_name_leaves_one_row_though_another_name_begins_with_it(opened: Opened) -> None:
    with opened(sample()) as tab:
        assert rows(tab, "skipped").count() == 3
        tab.get_by_label("Filter by name, reason or id").fill(SKIPPED_NAME)
        assert rows(tab, "skipped").count() == 1
        assert "1 of 3 shown: exactly this; 1 more contains it" in tab.locator("#skipped output").inner_text()


@pytest.mark.parametrize(("typed", "left"), [("774659 DENIED", 1), ("14-31", 2), ("nowhere", 0), ("", 3)])
def test_a_row_stays_that_holds_all_words_of_the_filter_in_whatever_case(opened: Opened, typed: str, left: int) -> None:
    with opened(sample()) as tab:
        tab.get_by_label("Filter by name, reason or id").fill("xyz")
        tab.get_by_label("Filter by name, reason or id").fill(typed)
        assert rows(tab, "skipped").count() == left
        assert tab.locator("#skipped output").inner_text() == f"{left} of 3 shown"


def test_jobs_sort_by_size_with_the_unknown_last_in_both_directions(opened: Opened) -> None:
    with opened(sample()) as tab:
        header = tab.locator("#jobs-table th", has_text="Size")
        header.get_by_role("button").click()
        assert first_cells(tab, "jobs") == ["2", "0", "1"]
        assert header.get_attribute("aria-sort") == "ascending"
        header.get_by_role("button").press("Enter")
        assert first_cells(tab, "jobs") == ["0", "2", "1"]
        assert header.get_attribute("aria-sort") == "descending"
        assert tab.locator("#jobs-table th:not([aria-sort=none])").count() == 1


def test_worker_numbers_sort_as_numbers_and_names_in_the_order_of_words(opened: Opened) -> None:
    with opened(sample(jobs=[job(worker) for worker in (10, 9, 100)])) as tab:
        tab.locator("#jobs-table th", has_text="Worker").get_by_role("button").click()
        assert first_cells(tab, "jobs") == ["9", "10", "100"]
        tab.locator("#skipped-table th", has_text="Reason").get_by_role("button").click()
        assert first_cells(tab, "skipped")[0] == f"{SKIPPED_NAME}_processed_2025-06-08_03-49-49"


def test_a_filter_survives_sorting(opened: Opened) -> None:
    with opened(sample()) as tab:
        tab.get_by_label("Filter by name, reason or id").fill("denied")
        tab.locator("#skipped-table th button").first.click()
        assert rows(tab, "skipped").count() == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_a_name_that_looks_like_markup_shows_as_text(opened: Opened, width: int) -> None:
    with opened(sample(), width) as tab:
        assert tab.locator("img").count() == 0
        assert tab.locator("#skipped-table").get_by_text(INJECTED, exact=True).is_visible()
        assert tab.locator("#assets").get_by_text(INJECTED, exact=True).is_visible()
        assert tab.locator("#jobs").get_by_text(f"a/{INJECTED}.nwb", exact=True).first.is_visible()


@pytest.mark.parametrize("width", WIDTHS)
def test_without_script_every_row_is_there_and_no_control_that_does_nothing(opened: Opened, width: int) -> None:
    with opened(sample(), width, script=False) as tab:
        assert rows(tab, "skipped").count() == 3
        assert rows(tab, "jobs").count() == 3
        assert tab.locator("input, button").locator("visible=true").count() == 0
        tab.locator("#work summary").click()
        assert tab.locator("#work details table").is_visible()


LUMINANCE = """([one, property]) => {
  const channels = getComputedStyle(document.querySelector(one))[property].match(/[\\d.]+/g).slice(0, 3);
  const [r, g, b] = channels.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}"""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_and_pictures_stand_out_from_the_page_in_both_schemes(opened: Opened, scheme: str) -> None:
    with opened(sample(), scheme=scheme) as tab:
        page = tab.evaluate(LUMINANCE, ["body", "backgroundColor"])
        assert (page < 0.1) == (scheme == "dark")
        for one, property_, least in (
            ("body", "color", 7),
            (".soft", "color", 4.5),
            ("a", "color", 4.5),
            ("svg text", "fill", 4.5),
            (".column", "fill", 3),
        ):
            shade = tab.evaluate(LUMINANCE, [one, property_])
            assert (max(page, shade) + 0.05) / (min(page, shade) + 0.05) >= least, one


@pytest.mark.parametrize("width", WIDTHS)
def test_labels_below_a_picture_do_not_touch(opened: Opened, width: int) -> None:
    page = sample(
        folders=[Folder(str(number), 1, number) for number in range(100)],
        assets_by={"day": [("2025-06-02", 1), ("2025-09-08", 4)]},
    )
    with opened(page, width) as tab:
        for number in range(tab.locator("svg[role=img]").count()):
            labels = tab.locator("svg[role=img]").nth(number).locator("text")
            boxes = [labels.nth(index).bounding_box() for index in range(labels.count())]
            ends = [(box["x"], box["x"] + box["width"]) for box in boxes if box]
            assert len(ends) >= 2
            assert all(right + 4 < left for (_, right), (left, _) in itertools.pairwise(ends))
