"""The report page: what it says, that text from records stays text, and that it needs nothing beside itself."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job_dispatch.jobs.building import Job
from job_dispatch.model import Asset, File, Group, Reason, Skipped
from job_dispatch.report import page as report
from job_dispatch.report.charts import Folder, Session
from job_dispatch.report.page import Page, render

INJECTED = "<img src=x onerror=alert(1)>"
SKIPPED_NAME = "behavior_774659_2025-06-07_14-31-15"
DAYS = (date(2025, 6, 2), date(2025, 6, 7))


def sample(**changes: Any) -> Page:
    """Give the page of a run with three workers, two of four assets skipped and text that looks like markup."""
    page = Page(
        headline="6 jobs for 3 of 5 assets on 3 workers",
        amount="10 MB in 3 files",
        command='python code/run_capsule.py \\\n    --docdb_query=\'{"subject.subject_id": "774659"}\'',
        reasons={"without a matching file": 1, "not readable": 2},
        sessions=[
            Session(INJECTED, DAYS[0], False),
            Session("774659", DAYS[0], True),
            Session("774659", DAYS[1], False),
        ],
        assets_by={"project": [(INJECTED, 3), ("Behavior Platform", 2)]},
        funnel=[("records", 5), ("assets", 5), ("with files", 3), ("jobs", 6)],
        factors="3 files × 2 parameter sets",
        folders=[Folder("0", 3, 10_000_000), Folder("1", 2, None), Folder("2", 1, 2_000_000)],
        skipped=[
            Skipped(Reason.NO_FILE, SKIPPED_NAME, detail="without a matching file"),
            Skipped(Reason.NOT_READABLE, f"{SKIPPED_NAME}_processed_2025-06-08_03-49-49", detail="access denied"),
            Skipped(Reason.NOT_READABLE, INJECTED, detail=f"no such bucket: {INJECTED}"),
        ],
        fixed_parameters={"analysis_name": "unit quality", "bins": {"width": 0.025}},
        parameter_sets=[{"method": "kilosort4", "threshold": 0.05}, {"method": "kilosort4", "threshold": 0.1}],
        jobs=[job(worker, size) for worker, size in ((0, 8_000_000), (1, None), (2, 2_000_000))],
        selection='{\n    "subject.subject_id": "774659"\n}',
        first_job='{"a": 1}',
        source="DocDB api.allenneuraldynamics.org v1 metadata_index/data_assets",
        finished="2026-11-22 19:40:12 UTC",
        seconds=[("finding assets and files", 3.14)],
        versions={"aind-analysis-job-dispatch": "0.4.0", "obstore": "0.12.1"},
    )
    return dataclasses.replace(page, **changes)


def placed(
    worker: str,
    name: str,
    assets: Sequence[str],
    files: Sequence[str] | None = None,
    size: int | None = None,
    parameters: dict[str, Any] | None = None,
    group: Mapping[str, Any] | None = None,
) -> tuple[str, Job]:
    """Give a job in a worker folder."""
    listed = None if files is None else tuple(File(file, None) for file in files)
    return worker, Job(name, Group(tuple(Asset("", one, "", "") for one in assets), group), listed, parameters, size)


def job(
    worker: int,
    size: int | None = None,
    files: Sequence[str] | None = (f"a/{INJECTED}.nwb",),
    assets: Sequence[str] | None = None,
) -> tuple[str, Job]:
    name, parameters = f"{worker:08}-4e21-482f-8901-5c38d75d6bcd", {"threshold": 0.05 * worker, "method": "kilosort4"}
    return placed(str(worker), name, assets or (f"asset-{worker}", INJECTED), files, size, parameters)


def large() -> Page:
    """Give a page of 20,000 jobs, each with long names and many files, on 500 workers."""
    name = "multiplane-ophys_774659_2025-06-07_14-31-15_processed_2025-06-08_03-49-49"
    files = tuple(f"pophys/{number:04}.h5" for number in range(300))
    return sample(
        folders=[Folder(str(number), 20 + number % 7, number * 10**9) for number in range(500)],
        assets_by={"project": [(f"Project {number}", 10_000) for number in range(400)]},
        sessions=[
            Session(f"{690_000 + number // 14}", date(2023, 1, 1) + timedelta(days=number % 997), number % 9 == 0)
            for number in range(10_000)
        ],
        skipped=[Skipped(Reason.NOT_READABLE, f"{name}_{number}", detail="timeout") for number in range(12_345)],
        parameter_sets=[{f"parameter_{column}": row * column for column in range(8)} for row in range(1_000)],
        jobs=[
            placed(
                str(number % 500), f"{number:08x}-4e21", (f"{name}_{number}",), files, number, {"window": number % 7}
            )
            for number in range(20_000)
        ],
    )


def everywhere(text: str) -> Page:
    """Give a page in which every text is `text`."""
    return Page(
        headline=text,
        is_preview=True,
        amount=text,
        command=text,
        folder=text,
        reasons={text: 1},
        sessions=[Session(text, day, False) for day in DAYS],
        assets_by={"project": [(text, 1)] * 20},
        funnel=[(text, 2), (text, 1)],
        folders=[Folder(text, 1, 1), Folder(text, 2, None)],
        skipped=[Skipped(Reason.NOT_READABLE, text, text, text, detail=text)],
        fixed_parameters={text: text},
        parameter_sets=[{text: text, "other": {text: [text]}}, {"other": 1}],
        jobs=[placed(text, text, (text,) * 5, (text,) * 5, 1, {text: text}, {text: text})],
        selection=text,
        first_job=text,
        source=text,
        finished=text,
        versions={text: text},
    )


class _Outline(HTMLParser):
    """The elements of a page with the names of their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] not in {"style", "script"}:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def text_of(page: Page) -> str:
    return _Outline(render(page)).text


def section(page: Page, name: str) -> str:
    """Return one section as HTML, empty where the page has none."""
    found = re.search(rf'<section id="{name}".*?</section>', render(page), flags=re.DOTALL)
    return found[0] if found else ""


def table(page: Page, name: str) -> dict[str, list[Any]]:
    """Return the table `job` or `skipped` as the page's script reads it: the values of each column by its label."""
    found = re.search(rf'id="{name}-rows">(.*?)</script>', render(page), flags=re.DOTALL)
    assert found
    columns = json.loads(found[1])["columns"]
    return {
        one["label"]: [one["values"][code] for code in one["codes"]] if "codes" in one else one["values"]
        for one in columns
    }


HOSTILE = [
    INJECTED,
    '"><script>alert(1)</script>',
    "</title></script></style></svg><b>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_records_changes_neither_elements_nor_attributes(text: str) -> None:
    outline = _Outline(render(everywhere(text)))
    assert outline.elements == _Outline(render(everywhere("name"))).elements
    assert text in outline.texts
    assert table(everywhere(text), "skipped")["Name"] == [text]


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(), min_size=1, max_size=50))
def test_whatever_a_record_holds_the_page_is_utf_8_and_keeps_its_elements(text: str) -> None:
    page = render(everywhere(text))
    assert _Outline(page).elements == _Outline(render(everywhere("name"))).elements
    assert page.encode()


def test_bytes_that_are_not_utf_8_and_control_characters_are_shown_escaped() -> None:
    name = b"caf\xe9\x1b[31m".decode(errors="surrogateescape")
    page = sample(skipped=[Skipped(Reason.NO_RECORD, name)], assets_by={"project": [(name, 1)]})
    assert table(page, "skipped")["Name"] == [r"caf\udce9\x1b[31m"]
    assert r"caf\udce9\x1b[31m" in text_of(page)


def test_the_page_needs_nothing_beside_itself_and_runs_its_own_script_and_style_only() -> None:
    page = render(sample())
    attributes = _Outline(page).attributes
    assert not [value for name, value in attributes if name in {"src", "srcset", "action", "style", "background"}]
    assert all(value.startswith(("#", "data:,")) for name, value in attributes if name in {"href", "xlink:href"})
    assert not [name for name, _ in attributes if name.startswith("on")]
    assert "url(" not in page
    assert "@import" not in page
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="(.*?)"', page)[0])
    assert policy.startswith("default-src 'none'")
    for kind in ("style", "script"):
        [sources] = re.findall(rf"{kind}-src ([^;]*)", policy)
        assert re.fullmatch(r"'sha256-[\w+/]{43}='", sources)


@pytest.mark.long
def test_20_000_jobs_with_long_names_and_many_files_stay_below_2_mb_and_the_page_says_what_it_leaves_out() -> None:
    page = render(large())
    assert len(page.encode()) < 2_000_000
    assert "The first 5,000 of 20,000; jobs.csv has all." in page
    assert "The first 5,000 of 12,345; skipped.csv has all." in page


def test_a_page_with_a_huge_query_and_huge_names_is_cut_and_says_so() -> None:
    jobs = [job(number, assets=(f"{number}" + "a" * 450,)) for number in range(10_000)]
    page = render(sample(jobs=jobs, selection='"' * 3_000_000))
    assert len(page.encode()) < 2_000_000
    assert "cut here; 3,000,000 characters in all" in page
    assert "The first 1,000 of 10,000; jobs.csv has all." in page


def test_the_headline_the_amount_what_is_skipped_and_the_command_come_first_and_the_versions_last() -> None:
    page = render(sample())
    places = [
        page.index(text)
        for text in (
            "<h1>6 jobs for 3 of 5 assets on 3 workers</h1>",
            "10 MB in 3 files",
            "<b>1</b> without a matching file",
            "<b>2</b> not readable",
            '<code id="command">python code/run_capsule.py',
            'data-copies="command"',
            'id="assets"',
            'id="jobs"',
            "Finished</dt><dd>2026-11-22 19:40:12 UTC",
            "finding assets and files 3.1 s",
            "obstore 0.12.1",
        )
    ]
    assert places == sorted(places)


def test_only_a_preview_says_that_nothing_was_written_and_only_a_failed_run_why_it_stopped() -> None:
    assert "nothing was written" in text_of(sample(is_preview=True))
    assert "nothing was written" not in text_of(sample())
    failed = text_of(sample(headline="2 ids", details=["one <id>", "another"], has_failed=True))
    assert failed.startswith("Stopped: 2 ids Stopped: no job was written 2 ids one <id> another")


def test_folders_are_drawn_with_jobs_and_bytes_and_one_of_unknown_size_has_no_bar() -> None:
    work = section(sample(), "work")
    for title in ("worker 0: 3", "worker 0: 10 MB", "worker 2: 2 MB"):
        assert f"<title>{title}</title>" in work
    assert work.count("<rect") == 5
    assert (
        "3 folders, 1 to 3 jobs, median 2; 2 MB to 10 MB, median 6 MB. 1 folder of unknown size is not drawn." in work
    )


def test_without_any_size_there_is_no_picture_of_bytes_and_none_of_jobs_where_folders_have_the_same_number() -> None:
    work = section(sample(folders=[Folder("0", 2, None), Folder("1", 2, None)]), "work")
    assert "<figure>" not in work
    assert "2 folders, 2 jobs each. Sizes are not known." in work


@pytest.mark.parametrize(
    ("size", "sentence"),
    [(2_460_000_000, "One worker folder, 0, with 1 job and 2.46 GB."), (None, "One worker folder, 0, with 1 job.")],
)
def test_a_single_folder_is_described_in_a_sentence(size: int | None, sentence: str) -> None:
    page = sample(folders=[Folder("0", 1, size)])
    assert "<figure>" not in section(page, "work")
    assert sentence in text_of(page)


def test_many_folders_are_drawn_from_the_largest_to_the_smallest() -> None:
    folders = [Folder(str(number), 1 + number % 4, None) for number in range(500)]
    work = section(sample(folders=folders), "work")
    heights = [float(height) for height in re.findall(r'<rect .*? height="([\d.]+)"', work)]
    assert len(heights) == 500
    assert heights == sorted(heights, reverse=True)
    assert ">largest</text>" in work


def test_assets_beyond_the_first_twelve_values_are_behind_a_line_that_counts_them() -> None:
    subjects = [(str(number), 30 - number) for number in range(14)]
    assets = section(sample(assets_by={"subject": subjects}), "assets")
    bars, _, rest = assets.partition("<summary>2 more subjects</summary>")
    assert bars.count('<th scope="row">') == 12
    assert rest.count('<th scope="row">') == 2


def matrix(*days: str) -> str:
    sessions = [Session("774659", date.fromisoformat(day), number % 2 == 1) for number, day in enumerate(days)]
    return section(sample(sessions=sessions), "assets")


@pytest.mark.parametrize(
    ("last", "period", "labels"),
    [
        ("2025-06-10", "day", [f"{day} Jun" for day in range(2, 11)]),
        ("2025-08-30", "day", ["9 Jun", "23 Jun", "7 Jul", "21 Jul", "4 Aug", "18 Aug"]),
        (
            "2026-06-30",
            "week",
            ["Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "2026", "Feb", "Mar", "Apr", "May", "Jun"],
        ),
        ("2030-06-30", "month", ["Jul", "2026", "Jul", "2027", "Jul", "2028", "Jul", "2029", "Jul", "2030"]),
        ("2099-06-30", "year", ["2030", "2040", "2050", "2060", "2070", "2080", "2090"]),
    ],
)
def test_time_is_drawn_by_the_period_that_suits_its_span_and_labelled_at_weeks_months_or_years(
    last: str, period: str, labels: list[str]
) -> None:
    drawn = matrix("2025-06-02", last)
    assert f"Assets by subject and {period}<span>2 Jun 2025 to " in drawn
    axis = [_Outline(text).text for text in re.findall(r'<text[^>]*text-anchor="start">.*?</text>', drawn)]
    assert axis == labels


def test_each_asset_has_its_place_in_the_matrix_and_the_skipped_are_in_a_colour_of_their_own() -> None:
    drawn = matrix("2025-06-01", "2025-06-03", "2025-06-10", "2025-06-10")
    cells = re.findall(r'<path class="(\w+)" d="(.*?)"', drawn)
    places = [(name, re.findall(r"M(\d+) (\d+)", path)) for name, path in cells[2:]]
    assert places == [
        ("column", [("1", "1"), ("91", "1")]),
        ("skipped", [("21", "1"), ("91", "5")]),
    ]
    bars = [(name, re.findall(r"M(\d+) (\d+)v-(\d+)", path)) for name, path in cells[:2]]
    assert bars == [
        ("column", [("1", "1000", "500"), ("91", "1000", "500")]),
        ("skipped", [("21", "1000", "500"), ("91", "500", "500")]),
    ]


def test_the_matrix_draws_forty_subjects_and_counts_what_it_does_not_draw() -> None:
    sessions = [Session(f"{number}", DAYS[number % 2], False) for number in range(45)]
    text = _Outline(section(sample(sessions=[*sessions, None, None]), "assets")).text
    assert "These are the 40 subjects with the most assets. The bars at the top count 5 other subjects, too." in text
    assert "2 assets without a known subject or day are not drawn." in text


def test_without_two_days_there_is_no_matrix() -> None:
    assert "<figure>" not in matrix("2025-06-01")


def test_assets_and_jobs_are_counted_down_apart_since_their_numbers_have_different_scales() -> None:
    steps = [("records", 20), ("assets", 15), ("jobs asked for", 200), ("jobs", 50)]
    funnel = section(sample(funnel=steps), "funnel")
    rows = [_Outline(row).text for row in re.findall(r"<tr>.*?</tr>", funnel)]
    assert rows == ["records 20", "assets 15 5 skipped", "jobs asked for 200", "jobs 50 150 left out"]
    assert re.findall(r'rect class="column" width="(.*?)"', funnel) == ["100.0%", "75.0%", "100.0%", "25.0%"]
    assert "6: 3 files × 2 parameter sets" in text_of(sample())


def test_every_skipped_asset_has_its_reason_and_ids_and_columns_that_nothing_fills_are_left_out() -> None:
    assert table(sample(), "skipped") == {
        "Name": [one.name for one in sample().skipped],
        "Reason": ["without a matching file", "not readable", "not readable"],
        "Detail": ["", "access denied", f"no such bucket: {INJECTED}"],
    }
    skipped = [
        Skipped(Reason.EXCLUDED, "a", "the-asset-id", "the-record-id", detail="excluded"),
        Skipped(Reason.EXCLUDED, "b", detail="excluded"),
    ]
    assert table(sample(skipped=skipped), "skipped") == {
        "Name": ["a", "b"],
        "Reason": ["excluded", "excluded"],
        "Asset id": ["the-asset-id", ""],
        "Record id": ["the-record-id", ""],
    }


def test_jobs_are_known_by_8_characters_and_only_parameters_that_differ_are_columns() -> None:
    assert table(sample(), "job") == {
        "Job": ["00000000", "00000001", "00000002"],
        "Worker": [0, 1, 2],
        "Assets": [f"asset-{number}\n{INJECTED}" for number in range(3)],
        "Files": [f"a/{INJECTED}.nwb"] * 3,
        "Size": [8_000_000, None, 2_000_000],
        "threshold": [0.0, 0.05, 0.1],
    }


def test_fields_of_groups_are_columns_and_columns_that_no_job_fills_are_left_out() -> None:
    bare = placed("0", "name", ["a"], group={"subject": "774659", "a": {"b": None}})
    assert list(table(sample(jobs=[bare]), "job")) == ["Job", "Worker", "Assets", "subject", "a.b"]


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("nwb/behavior_774659_2025-06-07_14-31-15.nwb", "nwb/….nwb"),
        ("behavior_774659_2025-06-07_14-31-15_processed_2025-06-08/a.csv", "…/a.csv"),
        ("behavior_774659_2025-06-07_eye.mp4", "…eye.mp4"),
        ("behavior_774659_2025-06-07x.mp4", "…07x.mp4"),
        ("behavior.json", "behavior.json"),
    ],
)
def test_paths_are_those_within_the_asset_without_what_repeats_its_name(path: str, short: str) -> None:
    name = "behavior_774659_2025-06-07_14-31-15_processed_2025-06-08"
    asset = Asset("r", name, f"s3://bucket/{name}", "")
    assert report._short_path(f"s3://bucket/{name}/{path}", [asset]) == short
    assert report._short_path(f"s3://elsewhere/{path}", [asset]) == f"s3://elsewhere/{path}"


def test_parameter_sets_beyond_ten_are_folded() -> None:
    sets = [{"x": number} for number in range(12)]
    shown = section(sample(parameter_sets=sets), "parameters")
    before, _, folded = shown.partition("<summary>2 more sets</summary>")
    assert re.findall(r'<td class="set">(\d+)</td>', before) == [f"{number}" for number in range(1, 11)]
    assert re.findall(r'<td class="set">(\d+)</td>', folded) == ["11", "12"]


def headers(sets: Sequence[Mapping[str, object]]) -> list[str]:
    parameters = section(sample(parameter_sets=sets, fixed_parameters={}), "parameters")
    return [_Outline(header).text for header in re.findall(r'<th scope="col".*?</th>', parameters)]


@pytest.mark.parametrize(
    ("first", "second", "marked"),
    [
        ({"a": 1, "b": 1}, {"a": 1, "b": 2}, ["a", "differs b"]),
        ({"a": 1}, {"a": "1"}, ["differs a"]),
        ({"a": 1}, {"a": True}, ["differs a"]),
        ({"a": None}, {}, ["differs a"]),
        ({"a": "x" * 900}, {"a": "x" * 899 + "y"}, ["differs a"]),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 2, "b": 3}}, ["differs a.b", "a.c"]),
    ],
)
def test_parameters_that_differ_between_sets_are_marked_in_words(
    first: dict[str, object], second: dict[str, object], marked: list[str]
) -> None:
    assert headers([first, second]) == ["Set", *marked]
    assert headers([first])[1:] == [name.removeprefix("differs ") for name in marked][: len(headers([first])) - 1]


def test_text_that_reads_as_another_value_is_quoted_and_a_missing_one_is_named() -> None:
    sets = [{"a": "1", "b": "plain", "c": ""}, {"a": 1, "b": [1, "x"]}]
    cells = re.findall(r"<td.*?</td>", section(sample(parameter_sets=sets, fixed_parameters={}), "parameters"))
    assert [_Outline(cell).text for cell in cells] == ["1", '"1"', "plain", '""', "2", "1", '[1, "x"]', "not set"]


def test_query_command_and_first_job_are_there_character_by_character() -> None:
    page = sample(command="python 'a  b' \\\n\t--x='\u00a0é'")
    blocks = re.findall(r"<pre.*?><code.*?>(.*?)</code>", render(page), flags=re.DOTALL)
    assert [html.unescape(block) for block in blocks] == [page.command, page.first_job, page.selection]


def test_a_run_without_anything_shows_no_empty_section() -> None:
    page = render(Page("nothing"))
    assert re.findall(r'<section id="(\w+)"', page) == ["run"]
    assert re.findall(r'href="#(\w+)"', page) == ["run"]


def test_every_link_and_table_points_to_something_on_the_page() -> None:
    attributes = _Outline(render(sample())).attributes
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    pointers = {"href", "for", "aria-labelledby", "data-table", "data-filters", "data-copies"}
    targets = [target for name, value in attributes if name in pointers for target in value.replace("#", "").split()]
    assert set(targets) <= {*ids, "data:,"}
