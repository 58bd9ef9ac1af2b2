"""`results.html`: what it shows, that text from records stays text, and that it stays small."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from job_dispatch.results import gathering, page
from job_dispatch.results.gathering import Results, Row, Status
from tests.results.conftest import Desk

INJECTED = "<img src=x onerror=alert(1)>"
PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 3"><rect width="4" height="3" fill="#1f5f99"/></svg>'
HOSTILE = [
    INJECTED,
    "</script><script>alert(1)</script>",
    '"><b onclick="alert(1)">',
    "{{ 7 * 7 }}{% raw %}",
    "]]><!--",
    "\ud800 half a character",
    "\x1b[31mred",
]


def make_row(number: int = 0, **changes: Any) -> Row:
    """Return a job that is done; every second one has another window, every third another subject."""
    subject = f"70000{number % 3}"
    name = f"multiplane-ophys_{subject}_2025-06-07_14-31-15_processed_2025-06-08_03-49-{number:05}"
    job = f"{number:08x}-e21d-582f-8901-5c38d75d6bcd"
    given: dict[str, Any] = {
        "job": job,
        "status": Status.DONE,
        "folder": Path("analysis_results") / job,
        "asset_name": (name,),
        "subject": subject,
        "session": f"2025-06-{number % 28 + 1:02}T14:31:15-07:00",
        "parameters": {"window": 0.5 * (number % 2 + 1), "bins": {"width": 0.025}},
        "values": {"peak_rate": number * 1.000123 + 0.5, "fit": {"r": number % 7}, "quality": "good"},
        "start": "2026-11-28T03:00:00+00:00",
        "seconds": 10.0 + number,
        "peak_memory": 300_000_000 + number,
        "host": "laptop",
        "attempts": 1,
    }
    return Row(**given | changes)


def make_results(*rows: Row) -> Results:
    return Results(Path("analysis_results"), rows, 2)


def data_of(text: str) -> dict[str, Any]:
    """Return what the script of a page shows."""
    [found] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    loaded: dict[str, Any] = json.loads(found)
    return loaded


def column(text: str, label: str) -> list[Any]:
    """Return the values of a column, one per job."""
    data = data_of(text)
    [one] = [one for one in data["columns"] if one["label"] == label]
    if one.get("same"):
        return list(one["values"] * data["rows"])
    return [one["values"][code] for code in one["codes"]] if "codes" in one else list(one["values"])


class Outline(HTMLParser):
    """The elements of a page, its addresses and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.elements[-1:] not in (["style"], ["script"]):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def test_the_headline_and_the_bar_count_the_jobs_of_each_status() -> None:
    rows = [
        make_row(0),
        make_row(1),
        make_row(2, status=Status.FAILED, reason="ValueError: no reward", attempts=2),
        make_row(3, status=Status.LEFT, changed="input"),
    ]
    text = page.render(make_results(*rows))
    outline = Outline(text)
    assert "2 of 4 jobs done, 1 failed, 1 left" in outline.text
    bars = re.findall(r'<rect class="(\w+)" x="([\d.]+)%" width="([\d.]+)%"', text)
    assert bars == [("done", "0.000", "50.000"), ("failed", "50.000", "25.000"), ("left", "75.000", "25.000")]
    assert "1 left (1 changed since)" in outline.text


def test_the_page_tells_the_median_and_the_longest_time_and_what_is_left() -> None:
    rows = [make_row(number) for number in range(9)] + [make_row(9, status=Status.LEFT, seconds=None)]
    text = Outline(page.render(make_results(*rows))).text
    assert "median 14 s, longest 18 s" in text
    assert "about 14 s ±" in text


def test_failed_jobs_are_grouped_by_reason_whatever_the_numbers_in_it_are() -> None:
    failed = [make_row(number, status=Status.FAILED, reason=f"IndexError: index {number} of 3") for number in range(10)]
    other = make_row(99, status=Status.FAILED, reason="timed out after 60 min", where="psth.py:41 in rate")
    text = Outline(page.render(make_results(other, *failed))).text
    assert "10 × IndexError: index 0 of 3" in text
    assert "and 7 more jobs" in text
    assert text.index("10 ×") < text.index("1 × timed out after 60 min")
    assert "at psth.py:41 in rate" in text


def test_the_end_of_a_failed_jobs_log_is_on_the_page_without_the_codes_of_a_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "log.txt").write_text(
        "".join(f"line {number}\n" for number in range(1_000)) + "\x1b[31mno reward\x1b[0m\n"
    )
    row = make_row(status=Status.FAILED, folder=folder, reason="ValueError: no reward")
    text = Outline(page.render(Results(tmp_path, (row,)))).text
    assert "line 998 line 999 no reward" in text
    assert "line 900" not in text


def test_the_table_has_what_each_job_is_and_what_it_returned() -> None:
    text = page.render(make_results(*(make_row(number) for number in range(4))))
    assert column(text, "peak_rate") == [0.5, 1.50012, 2.50025, 3.50037]
    assert column(text, "fit.r") == [0, 1, 2, 3]
    assert column(text, "window") == [0.5, 1.0, 0.5, 1.0]
    assert column(text, "bins.width") == [0.025] * 4
    assert column(text, "subject") == ["700000", "700001", "700002", "700000"]
    assert column(text, "time") == [10.0, 11.0, 12.0, 13.0]


def test_the_table_shows_parameters_that_differ_and_the_others_on_request() -> None:
    rows = [make_row(0), make_row(1), make_row(2, status=Status.LEFT, parameters={})]
    shown = {one["label"]: one["shown"] for one in data_of(page.render(make_results(*rows)))["columns"]}
    assert shown["window"]
    assert not shown["bins.width"]


def test_a_job_that_is_not_done_has_no_value_rather_than_zero() -> None:
    text = page.render(make_results(make_row(0), make_row(1, status=Status.FAILED, values={}, reason="x")))
    assert column(text, "peak_rate") == [0.5, None]


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**400])
def test_a_number_that_no_browser_can_read_leaves_a_gap(value: float) -> None:
    text = page.render(make_results(make_row(0, values={"rate": value}), make_row(1, values={"rate": 1})))
    assert column(text, "rate") == [None, 1]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_text_from_records_changes_no_element_of_the_page(hostile: str, tmp_path: Path) -> None:
    def rendered(text: str) -> str:
        fields: dict[str, Any] = {
            "asset_name": (text,),
            "subject": text,
            "project": text,
            "parameters": {text: text},
            "values": {text: {text: [text]}},
            "host": text,
        }
        failed = make_row(1, status=Status.FAILED, reason=text, where=text, **fields)
        return page.render(make_results(make_row(0, **fields), failed))

    text = rendered(hostile)
    assert Outline(text).elements == Outline(rendered("plain")).elements
    assert text.encode()
    assert data_of(text)["rows"] == 2


def test_a_folder_with_a_hostile_name_becomes_a_relative_address(tmp_path: Path) -> None:
    name = 'javascript:alert(1)//"><img src=x> #?'
    row = make_row(job=name, folder=tmp_path / "x", status=Status.FAILED, reason="no")
    text = page.render(Results(tmp_path, (row,)))
    addresses = [value for name, value in Outline(text).attributes if name == "href"]
    assert all(value.startswith(("./", "data:,")) for value in addresses)
    assert data_of(text)["folders"] == {"0": "./x"}


def test_the_page_asks_for_nothing_beyond_its_own_folder() -> None:
    text = page.render(make_results(*(make_row(number) for number in range(10))))
    outline = Outline(text)
    [policy] = [value for name, value in outline.attributes if name == "content" and "default-src" in value]
    assert "default-src 'none'" in policy
    assert "img-src data: 'self' file:" in policy
    assert "http" not in policy
    assert not [name for name, _ in outline.attributes if name.startswith("on") or name in ("style", "src")]
    assert re.findall(r"(?<!xmlns=\")https?://[^\s\"')]+", text) == ["http://www.w3.org/2000/svg"]


def test_small_pictures_are_embedded_and_large_ones_are_linked(tmp_path: Path) -> None:
    folder = tmp_path / "analysis_results" / "job"
    (folder / "all plots").mkdir(parents=True)
    (folder / "small.svg").write_text(PICTURE)
    (folder / "all plots" / "large#1.png").write_bytes(bytes(400_000))
    (folder / "notes.txt").write_text("no picture")
    data = data_of(page.render(Results(folder.parent, (make_row(folder=folder),))))
    named = {data["names"][one[1]]: one for one in data["pictures"]}
    assert named["small.svg"][3].startswith("data:image/svg+xml;base64,")
    assert named["all plots/large#1.png"][2:] == ["all%20plots/large%231.png"]
    assert len(named) == 2


def test_pictures_are_linked_once_two_megabytes_are_embedded(tmp_path: Path) -> None:
    rows = []
    for number in range(12):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "a.png").write_bytes(bytes(250_000))
        rows.append(make_row(number, folder=folder))
    text = page.render(Results(tmp_path, tuple(rows)))
    assert [len(one) for one in data_of(text)["pictures"]] == [4] * 8 + [2] * 4
    assert len(text) < 3_000_000


@pytest.mark.long
def test_10_000_jobs_with_a_dozen_values_and_long_names_stay_below_10_megabytes() -> None:
    values = {f"value_{number}": 0.123456789 * (number + 1) for number in range(12)}
    rows = [
        make_row(number, values={name: value * number for name, value in values.items()})
        if number % 10
        else make_row(number, status=Status.FAILED, values={}, reason=f"ValueError: {number} " + "x" * 500)
        for number in range(10_000)
    ]
    text = page.render(make_results(*rows))
    assert len(text.encode()) < 10_000_000
    assert data_of(text)["rows"] == 10_000


def test_columns_for_which_there_is_no_room_are_named_and_left_to_the_table() -> None:
    values = {f"text_{number}": f"{number} " + "x" * 150 for number in range(10)}
    rows = [
        make_row(number, values={name: f"{number} {text}" for name, text in values.items()}) for number in range(10_000)
    ]
    text = page.render(make_results(*rows))
    assert len(text.encode()) < 10_000_000
    assert re.search(r"Columns only in table\.csv: text_\d(, text_\d)*\.", Outline(text).text)
    assert len(column(text, "job")) == 10_000


@pytest.mark.long
def test_of_more_jobs_than_a_page_can_hold_the_first_are_shown_and_all_are_counted() -> None:
    rows = [make_row(number) for number in range(25_000)]
    text = page.render(make_results(*rows))
    assert len(text.encode()) < 10_000_000
    assert "All 25,000 jobs are done" in text
    assert "The first 20,000 of 25,000 jobs; table.csv has all." in Outline(text).text


def test_run_and_collect_write_the_page_beside_the_table_and_name_it(desk: Desk) -> None:
    job = desk.job("mouse", f"(results / 'psth.svg').write_text({PICTURE!r}); print('hello')")
    failing = desk.job("rat", "raise ValueError('no reward')")
    ended = desk.run()
    path = desk.folder / "analysis_results" / "results.html"
    assert "page:  analysis_results/results.html" in ended.stdout
    text = path.read_text()
    assert column(text, "letters") == [5, None]
    assert column(text, "job") == [job, failing]
    assert "ValueError: no reward" in Outline(text).text
    assert data_of(text)["names"] == ["psth.svg"]
    path.unlink()
    assert "page:  analysis_results/results.html" in desk.call("collect").stdout
    assert path.read_text().count("</html>") == 1
    assert gathering.gather(desk.folder / "analysis_results").counts["done"] == 1
