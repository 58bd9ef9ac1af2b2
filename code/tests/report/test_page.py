"""The report page: what it says, that text from records stays text, and that it needs nothing beside itself."""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job_dispatch.report.page import Folder, JobRow, Page, Skipped, render

INJECTED = "<img src=x onerror=alert(1)>"
SKIPPED_NAME = "behavior_774659_2025-06-07_14-31-15"


def sample(**changes: Any) -> Page:
    """Give the page of a run with three workers, two of four assets skipped and text that looks like markup."""
    page = Page(
        headline="6 jobs for 3 of 5 assets on 3 workers",
        is_preview=False,
        finished="2026-11-22 19:40:12 UTC",
        versions={"aind-analysis-job-dispatch": "0.4.0", "obstore": "0.12.1"},
        source="DocDB api.allenneuraldynamics.org v1 metadata_index/data_assets",
        selection='{\n    "subject.subject_id": "774659"\n}',
        command='python code/run_capsule.py \\\n    --docdb_query=\'{"subject.subject_id": "774659"}\'',
        folders=[Folder("0", 2, 10_000_000), Folder("1", 2, None), Folder("2", 2, 2_000_000)],
        assets_by={
            "project": [(INJECTED, 3), ("Behavior Platform", 2)],
            "subject": [("774659", 5)],
            "day": [("2025-06-02", 1), ("2025-06-07", 4)],
        },
        funnel=[("records", 5), ("assets", 5), ("with files", 3), ("jobs", 6)],
        skipped=[
            Skipped(SKIPPED_NAME, "no matching file"),
            Skipped(f"{SKIPPED_NAME}_processed_2025-06-08_03-49-49", "access denied"),
            Skipped(INJECTED, f"no such bucket: {INJECTED}"),
        ],
        skipped_total=3,
        fixed_parameters={"analysis_name": "unit quality", "bins": {"width": 0.025}},
        parameter_sets=[{"method": "kilosort4", "threshold": 0.05}, {"method": "kilosort4", "threshold": 0.1}],
        jobs=[job(worker, size) for worker, size in ((0, 8_000_000), (1, None), (2, 2_000_000))],
        jobs_total=3,
    )
    return dataclasses.replace(page, **changes)


def job(worker: int, size: int | None = None, files: tuple[str, ...] | None = (f"a/{INJECTED}.nwb",)) -> JobRow:
    return JobRow(str(worker), f"{worker:08}.json", (f"asset-{worker}", INJECTED), files, size, "threshold=0.05", "")


def large() -> Page:
    """Give a page of 10,000 jobs, each with long names and many files, on 500 workers."""
    name = "multiplane-ophys_774659_2025-06-07_14-31-15_processed_2025-06-08_03-49-49"
    files = tuple(f"s3://aind-open-data/{name}/pophys/{number:04}.h5" for number in range(300))
    jobs = [
        JobRow(str(number % 500), "50fa9416-4e21-482f-8901-5c38d75d6bcd.json", (name,), files, number, "1", "a=1, b=2")
        for number in range(1_000)
    ]
    sets = [{f"parameter_{column}": row * column for column in range(8)} for row in range(1_000)]
    return sample(
        folders=[Folder(str(number), 20, number * 10**9) for number in range(500)],
        assets_by={
            "project": [("Behavior Platform", 10_000)],
            "subject": [(str(number), 2) for number in range(5_000)],
            "day": [
                (f"{2000 + number // 300}-{1 + number // 25 % 12:02}-{1 + number % 25:02}", 1)
                for number in range(5_000)
            ],
        },
        skipped=[Skipped(f"{name}_{number}", "no matching file") for number in range(1_000)],
        skipped_total=12_345,
        parameter_sets=sets,
        jobs=jobs,
        jobs_total=10_000,
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


def everywhere(text: str) -> Page:
    """Give a page in which every text is `text`."""
    return Page(
        headline=text,
        is_preview=True,
        finished=text,
        versions={text: text},
        source=text,
        selection=text,
        command=text,
        folders=[Folder(text, 1, 1), Folder(text, 2, None)],
        assets_by={"project": [(text, 1)] * 20, "day": [("2025-06-02", 1), ("2025-06-07", 4), (text, 1)]},
        funnel=[(text, 2), (text, 1)],
        skipped=[Skipped(text, text)],
        skipped_total=1,
        fixed_parameters={text: text},
        parameter_sets=[{text: text, "other": {text: [text]}}, {"other": 1}],
        jobs=[JobRow(text, text, (text,) * 5, (text,) * 5, 1, text, text)],
        jobs_total=1,
    )


HOSTILE = [
    INJECTED,
    '"><script>alert(1)</script>',
    "' onmouseover='alert(1)",
    "</title></script></style></svg><b>",
    "{{ 7 * 7 }}{% raw %}",
    "]]><!--",
    "&lt;b&gt;",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_records_changes_neither_elements_nor_attributes(text: str) -> None:
    outline = _Outline(render(everywhere(text)))
    assert outline.elements == _Outline(render(everywhere("name"))).elements
    assert text in outline.texts


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(), min_size=1, max_size=50))
def test_whatever_a_record_holds_the_page_is_utf_8_and_keeps_its_elements(text: str) -> None:
    page = render(everywhere(text))
    assert _Outline(page).elements == _Outline(render(everywhere("name"))).elements
    assert page.encode()


def test_bytes_that_are_not_utf_8_and_control_characters_are_shown_escaped() -> None:
    name = b"caf\xe9\x1b[31m".decode(errors="surrogateescape")
    assert r"caf\udce9\x1b[31m" in text_of(sample(skipped=[Skipped(name, "no matching file")], skipped_total=1))


def test_the_page_asks_for_nothing_beside_itself() -> None:
    page = render(large())
    attributes = _Outline(page).attributes
    assert not [
        value for name, value in attributes if name in {"src", "srcset", "data", "action", "style", "background"}
    ]
    assert all(value.startswith("#") for name, value in attributes if name in {"href", "xlink:href"})
    assert not [name for name, _ in attributes if name.startswith("on")]
    assert set(re.findall(r"url\((.*?)\)", page)) == {"#hatch"}
    assert "@import" not in page
    assert "default-src 'none'" in page


@pytest.mark.parametrize("kind", ["style", "script"])
def test_the_policy_allows_the_pages_own_style_and_script_by_their_hashes_only(kind: str) -> None:
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="(.*?)"', render(sample()))[0])
    [sources] = re.findall(rf"{kind}-src ([^;]*)", policy)
    assert re.fullmatch(r"'sha256-[\w+/]{43}='", sources)


def test_10_000_jobs_with_long_names_and_many_files_stay_below_1_mb() -> None:
    page = render(large())
    assert len(page.encode()) < 1_000_000
    assert page.count("50fa9416-4e21-482f-8901-5c38d75d6bcd.json") == 1_000
    assert "The first 1,000 of 10,000; the rest is in jobs.csv." in page


def test_a_page_that_would_still_be_too_large_shows_fewer_rows_and_says_so() -> None:
    jobs = [dataclasses.replace(job(number), assets=("a" * 1_500,)) for number in range(1_000)]
    page = render(sample(jobs=jobs, jobs_total=1_000, selection='"' * 3_000_000))
    assert len(page.encode()) < 1_000_000
    assert "The first 100 of 1,000; the rest is in jobs.csv." in page
    assert "cut here; 3,000,000 characters in all" in page


def test_the_top_tells_the_run_in_a_sentence_with_when_and_which_versions() -> None:
    text = text_of(sample())
    for part in ("6 jobs for 3 of 5 assets on 3 workers", "Finished 2026-11-22 19:40:12 UTC", "obstore 0.12.1"):
        assert part in text


def test_only_a_preview_says_that_nothing_was_written() -> None:
    assert "nothing was written" in text_of(sample(is_preview=True))
    assert "nothing was written" not in text_of(sample())


def test_work_is_drawn_for_each_folder_with_jobs_and_bytes_and_unknown_bytes_are_hatched() -> None:
    work = section(sample(), "work")
    for title in ("worker 0: 2", "worker 0: 10 MB", "worker 2: 2 MB", "worker 1: size unknown"):
        assert f"<title>{title}</title>" in work
    assert "2 jobs each" in work
    assert "2 MB to 10 MB, median 6 MB" in work
    assert work.count('class="hatched"') == 1
    assert "1 folder of unknown size, hatched." in work


def test_without_any_size_there_is_no_picture_of_bytes() -> None:
    work = section(sample(folders=[Folder("0", 1, None), Folder("1", 3, None)]), "work")
    assert work.count("<figure>") == 1
    assert "Sizes are not known." in work
    assert "1 to 3 jobs, median 2" in work


@pytest.mark.parametrize(
    ("size", "sentence"),
    [(2_460_000_000, "One worker folder, 0, with 1 job and 2.46 GB."), (None, "One worker folder, 0, with 1 job.")],
)
def test_a_single_folder_is_told_in_a_sentence(size: int | None, sentence: str) -> None:
    page = sample(folders=[Folder("0", 1, size)])
    assert "<figure>" not in section(page, "work")
    assert sentence in text_of(page)


def test_many_folders_are_drawn_as_one_outline_from_the_largest_to_the_smallest() -> None:
    folders = [Folder(str(number), 1 + number % 4, None) for number in range(500)]
    work = section(sample(folders=folders), "work")
    assert "<rect" not in work
    [outline] = re.findall(r' d="M0 1000(.*?)V1000z"', work)
    heights = [int(height) for height in re.findall(r"V(\d+)h1", outline)]
    assert len(heights) == 500
    assert heights == sorted(heights)
    assert "the largest first" in work


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (2_460_000_000, "2.46 GB"),
        (10**15, "1 PB"),
        (12 * 10**18, "12,000 PB"),
    ],
)
def test_sizes_are_readable_and_exact_to_hover_for(size: int, text: str) -> None:
    assert f'title="{size:,} bytes">{text}</td>' in section(sample(jobs=[job(0, size)]), "jobs")


def test_assets_beyond_the_first_twelve_values_are_behind_a_line_that_counts_them() -> None:
    subjects = [(str(number), 30 - number) for number in range(14)]
    assets = section(sample(assets_by={"subject": subjects}), "assets")
    bars, _, rest = assets.partition("<summary>2 more subjects</summary>")
    assert bars.count('<th scope="row">') == 12
    assert rest.count('<th scope="row">') == 2


def days(*values: str) -> str:
    return section(sample(assets_by={"day": [(value, 1) for value in values]}), "assets")


@pytest.mark.parametrize(
    ("last", "title"),
    [
        ("2025-06-30", "Assets by day"),
        ("2026-06-30", "Assets by week, named by its Monday"),
        ("2030-06-30", "Assets by month"),
        ("2099-06-30", "Assets by year"),
    ],
)
def test_days_are_drawn_on_a_scale_of_time_by_the_period_that_suits_their_span(last: str, title: str) -> None:
    assert f"<figcaption>{title}<span>" in days("2025-06-02", last)


def test_days_without_an_asset_take_their_place_in_the_picture() -> None:
    drawn = re.findall(r'<rect class="column" x="([\d.]+)%"', days("2025-06-01", "2025-06-02", "2025-06-10"))
    first, second, third = (float(x) for x in drawn)
    assert third - second == pytest.approx(8 * (second - first), abs=0.1)


def test_assets_of_unknown_day_are_counted_beside_the_picture() -> None:
    assert "1 asset of unknown day not drawn." in days("2025-06-01", "2025-06-02", "unknown")
    assert "<figure>" not in days("unknown")


def test_the_funnel_tells_what_each_step_lost_and_draws_what_grows_on_its_own_scale() -> None:
    rows = re.findall(r"<tr>.*?</tr>", section(sample(), "funnel"))
    assert [_Outline(row).text for row in rows] == [
        "records 5",
        "assets 5",
        "with files 3 2 fewer",
        "jobs 6 2 × 3, on a scale of its own",
    ]
    assert [re.findall(r'rect class="(\w+)" width="(.*?)"', row) for row in rows] == [
        [("column", "100.0%")],
        [("column", "100.0%")],
        [("column", "60.0%")],
        [("hatched", "100.0%")],
    ]


def test_what_the_cap_left_off_stands_beside_the_jobs_on_the_scale_of_all_jobs() -> None:
    steps = [("records", 20), ("assets", 20), ("jobs asked for", 200), ("jobs", 50)]
    rows = re.findall(r"<tr>.*?</tr>", section(dataclasses.replace(sample(), funnel=steps), "funnel"))
    assert _Outline(rows[-1]).text == "jobs 50 150 left off"
    assert 'width="25.0%"' in rows[-1]


def test_every_skipped_asset_stands_with_its_reason() -> None:
    skipped = section(sample(), "skipped")
    assert f"<td>{SKIPPED_NAME}</td><td>no matching file</td>" in skipped
    assert "3 left out." in skipped
    assert "The first" not in skipped


def test_ids_of_what_was_skipped_stand_beside_it_and_columns_that_nothing_fills_do_not() -> None:
    skipped = [Skipped("a", "not readable", "the-asset-id", "the-record-id"), Skipped("b", "not readable")]
    both = section(sample(skipped=skipped, skipped_total=2), "skipped")
    assert '<td class="file">the-asset-id</td><td class="file">the-record-id</td>' in both
    neither = section(sample(skipped=skipped[1:], skipped_total=1), "skipped")
    assert "Asset id" not in neither
    assert "Record id" not in neither


def test_parameter_sets_beyond_ten_are_folded() -> None:
    sets = [{"x": number} for number in range(12)]
    shown = section(sample(parameter_sets=sets), "parameters")
    before, _, folded = shown.partition("<summary>2 more sets</summary>")
    assert re.findall(r'<td class="set">(\d+)</td>', before) == [f"{number}" for number in range(1, 11)]
    assert re.findall(r'<td class="set">(\d+)</td>', folded) == ["11", "12"]


def test_assets_come_before_worker_folders() -> None:
    page = render(sample())
    assert page.index('id="assets"') < page.index('id="funnel"') < page.index('id="work"')


def test_the_page_tells_how_long_each_step_took_and_where_to_run_it_again() -> None:
    page = sample(seconds=[("finding assets and files", 3.14), ("writing jobs", 0.2)], folder="/home/<me>")
    text = text_of(page)
    assert "finding assets and files 3.1 s writing jobs 0.2 s" in text
    assert "In the folder /home/<me> :" in text


def test_the_page_of_a_run_that_failed_tells_why() -> None:
    page = sample(headline="2 ids", details=["one <id>", "another"], has_failed=True)
    text = text_of(page)
    assert text.startswith("Stopped: 2 ids Stopped: no job was written 2 ids one <id> another")


def test_skipped_assets_beyond_the_first_thousand_are_counted() -> None:
    assert "12,345 left out. The first 1,000 of 12,345; skipped.csv has all." in text_of(large())


def test_one_and_no_skipped_asset_are_told_in_a_sentence() -> None:
    one = section(sample(skipped=[Skipped("a", "no matching file")], skipped_total=1), "skipped")
    assert "<p>1 left out. </p>" in one
    none = section(sample(skipped=[], skipped_total=0), "skipped")
    assert "Nothing was skipped." in none
    assert "<table" not in none


def headers(sets: Sequence[Mapping[str, object]]) -> list[str]:
    found = re.findall(
        r'<th scope="col".*?</th>', section(sample(parameter_sets=sets, fixed_parameters={}), "parameters")
    )
    return [_Outline(header).text for header in found]


def test_what_differs_between_parameter_sets_is_marked_in_words() -> None:
    assert headers(sample().parameter_sets) == ["Set", "method", "differs threshold"]


@pytest.mark.parametrize(
    ("first", "second"),
    [({"a": 1}, {"a": "1"}), ({"a": 1}, {"a": True}), ({"a": None}, {}), ({"a": "x" * 900}, {"a": "x" * 899 + "y"})],
)
def test_values_that_only_look_alike_differ(first: dict[str, object], second: dict[str, object]) -> None:
    assert headers([first, second]) == ["Set", "differs a"]


def test_parameters_within_parameters_are_marked_one_by_one() -> None:
    sets: list[Mapping[str, object]] = [{"filter": {"rate": 1, "isi": 2}}, {"filter": {"isi": 2, "rate": 3}}]
    assert headers(sets) == ["Set", "differs filter.rate", "filter.isi"]


def test_nothing_is_marked_where_there_is_one_parameter_set() -> None:
    parameters = section(sample(parameter_sets=[{"threshold": 0.1}]), "parameters")
    assert "1 parameter set<" in parameters
    assert "differs" not in parameters


def test_text_that_reads_as_another_value_is_quoted_and_a_missing_one_is_named() -> None:
    sets = [{"a": "1", "b": "plain", "c": ""}, {"a": 1, "b": [1, "x"]}]
    cells = re.findall(r"<td.*?</td>", section(sample(parameter_sets=sets, fixed_parameters={}), "parameters"))
    assert [_Outline(cell).text for cell in cells] == ["1", '"1"', "plain", '""', "2", "1", '[1, "x"]', "not set"]


def test_jobs_stand_with_their_worker_assets_files_and_size() -> None:
    row = re.findall(r"<tr><td.*?</tr>", section(sample(), "jobs"), flags=re.DOTALL)[0]
    assert _Outline(row).text == f"0 00000000.json asset-0 {INJECTED} a/{INJECTED}.nwb 8 MB threshold=0.05"


def test_columns_that_no_job_fills_are_left_out() -> None:
    bare = dataclasses.replace(job(0, files=None), parameter_set="")
    assert _Outline(section(sample(jobs=[bare]), "jobs")).text.count("Worker Job Assets 0 ") == 1


def test_files_of_a_job_are_collapsed_where_there_are_many_and_told_apart_from_none_and_not_listed() -> None:
    jobs = [job(0, files=tuple("abcd")), job(1, files=()), job(2, files=None)]
    rows = re.findall(r"<tr><td.*?</tr>", section(sample(jobs=jobs), "jobs"), flags=re.DOTALL)
    assert "<details><summary>4 files</summary>" in rows[0]
    assert "none" in rows[1]
    assert "not listed" in rows[2]


def test_more_files_than_a_row_can_hold_are_counted() -> None:
    many = tuple(str(number) for number in range(2_020))
    assert "and 2,000 more in jobs.csv" in section(sample(jobs=[job(0, files=many)]), "jobs")


def test_query_and_command_stand_character_by_character() -> None:
    page = sample(command="python 'a  b' \\\n\t--x='\u00a0é'")
    blocks = re.findall(r"<pre.*?><code.*?>(.*?)</code>", render(page), flags=re.DOTALL)
    assert [html.unescape(block) for block in blocks] == [page.selection, page.command]


def test_a_run_without_anything_shows_no_empty_section() -> None:
    page = sample(
        folders=[], assets_by={"day": []}, funnel=[], skipped=[], skipped_total=0, fixed_parameters={},
        parameter_sets=[], jobs=[], jobs_total=0, selection="", command="", versions={},
    )  # fmt: skip
    text = render(page)
    assert re.findall(r'<section id="(\w+)"', text) == ["skipped"]
    assert re.findall(r'href="#(\w+)"', text) == ["skipped"]


def test_every_link_picture_and_filter_points_to_something_on_the_page() -> None:
    attributes = _Outline(render(sample())).attributes
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    pointers = {"href", "for", "aria-labelledby", "aria-controls"}
    targets = [target for name, value in attributes if name in pointers for target in value.replace("#", "").split()]
    assert set(targets) <= set(ids)
