"""The page of a description in Chromium: the command that it composes selects exactly what it says."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from job_dispatch.main import main
from tests.conftest import CODE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PANEL = CODE.parent / ".codeocean" / "app-panel.json"
NASTY = 'O\'Neill, "A" & <b>$HOME'
PROJECTS = ("Behavior Platform", "Ephys Platform", NASTY, "[x]")
MODALITIES = ("behavior", "ecephys", "pophys")
STATUSES = ("Pass", "Pending", "Fail")
DAYS = ("2024-11-30", "2024-12-01", "2025-01-31", "2025-02-28", "2025-04-15")


def make_records(number: int) -> list[dict[str, Any]]:
    """Give records of both versions of the metadata, some of them judged, some with little in them."""
    draw = random.Random(7)
    records = []
    for place in range(number):
        modalities = [{"abbreviation": one} for one in draw.sample(MODALITIES, draw.randint(1, 2))]
        description = {"project_name": draw.choice(PROJECTS), "data_level": draw.choice(("raw", "derived"))}
        start = f"{draw.choice(DAYS)}T{draw.randint(0, 23):02d}:30:00-07:00"
        record: dict[str, Any] = {
            "_id": f"r{place:03d}",
            "name": f"asset_{place:03d}",
            "location": f"s3://bucket/asset_{place:03d}",
            "subject": {"subject_id": str(draw.randint(1, 6))},
        }
        history = [{"status": draw.choice(STATUSES), "timestamp": "2025-01-01T00:00:00Z"}]
        if place % 2:
            record["data_description"] = {**description, "modality": modalities}
            record["session"] = {"session_start_time": start}
            judged = [{"modality": one, "metrics": [{"status_history": history}]} for one in modalities]
            record["quality_control"] = draw.choice([None, {"evaluations": judged}])
        else:
            record["data_description"] = {**description, "modalities": modalities}
            record["acquisition"] = {"acquisition_start_time": start}
            judged = [{"modality": one, "status_history": history, "tags": {}} for one in modalities]
            record["quality_control"] = draw.choice([None, {"metrics": judged}])
        records.append(record)
    records += [{"_id": "bare", "name": "bare", "location": "s3://bucket/bare", "data_description": None}]
    return records


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab with blanks")
    (folder / "data").mkdir()
    (folder / "catalog.jsonl").write_text("".join(json.dumps(record) + "\n" for record in make_records(150)))
    return folder


def command(lab: Path, *flags: str) -> list[str]:
    places = (f"--metadata_catalog={lab}/catalog.jsonl", f"--input_directory={lab}/data")
    return ["python", "run_capsule.py", *places, *flags]


def run(arguments: list[str]) -> None:
    """Run a command line in this process."""
    assert main(arguments[2:]) == 0


def jobs(text: str, lab: Path) -> int:
    """Dispatch what a command selects and give the number of jobs, one an asset."""
    output = lab / "results"
    run([*shlex.split(text), f"--output_directory={output}", "--overwrite=1", "--log_level=ERROR"])
    return len(list(output.glob("*/*.json")))


Described = Callable[..., Any]


@pytest.fixture
def described(browser: Browser, lab: Path, tmp_path: Path) -> Iterator[Described]:
    """Describe a selection and open the page; whatever it asks the network for, or says in its log, fails the test."""
    context = browser.new_context(offline=True)
    tab = context.new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on(
        "request",
        lambda request: complaints.append(request.url) if not request.url.startswith(("file:", "data:")) else None,
    )

    def describe(*flags: str) -> Page:
        run(command(lab, *flags, "--describe=1", f"--report_directory={tmp_path}/report"))
        tab.goto((tmp_path / "report" / "describe.html").as_uri())
        return tab

    yield describe
    context.close()
    assert complaints == []


def choose(tab: Page, *values: str) -> None:
    for value in values:
        tab.get_by_role("checkbox", name=value, exact=True).check()


def shown(tab: Page) -> tuple[str, int]:
    """Give the command and the number of assets that the page shows."""
    return tab.locator("#command").inner_text(), int(tab.locator("#assets").inner_text().replace(",", ""))


CHOICES: list[tuple[str, ...]] = [
    (),
    ("Behavior Platform", NASTY),
    (NASTY, "[x]", "ecephys"),
    ("raw", "derived", "Ephys Platform"),
    ("behavior", "pophys"),
    ("pass",),
    ("ecephys", "pass"),
    ("ecephys", "behavior", "not_fail", "derived"),
    ("2025-01", "2025-02"),
    ("2024-12", "2025-02"),
    ("2024-11-30", "2025-02-28"),
    ("2024-12-01", "2025-01-31", "raw"),
    ("2024-11", "2025-04-15", "pophys", "raw", "not_fail", "Ephys Platform"),
    ("2025-01", "2025-04", "pass"),
    ("1", "3"),
    ("2", "5", "behavior", "2025-01", "not_fail"),
]


def test_the_command_selects_exactly_as_many_assets_as_the_page_says(described: Described, lab: Path) -> None:
    tab = described()
    for values in CHOICES:
        tab.get_by_role("button", name="Clear").click()
        choose(tab, *values)
        text, assets = shown(tab)
        assert assets > 0
        assert jobs(text, lab) == assets, values
        assert tab.locator("#bound").is_hidden()


def number_of(tab: Page, value: str) -> int:
    item = tab.locator("li", has=tab.get_by_role("checkbox", name=value, exact=True))
    return int(item.locator(".number").inner_text().replace(",", ""))


@pytest.mark.parametrize("ticked", [("ecephys", "2025-01"), ("pass", "raw", "3")])
def test_each_value_has_the_number_of_assets_that_ticking_it_would_select(
    described: Described, ticked: tuple[str, ...]
) -> None:
    tab = described()
    choose(tab, *ticked)
    kinds = [
        ("Ephys Platform", NASTY),
        ("behavior", "pophys", "ecephys"),
        ("derived", "raw"),
        ("2025-04", "2025-01-31", "2025-01", "2024-12-01", "2025-02-28"),
        ("1", "3"),
        ("not_fail", "pass"),
    ]
    for value in (one for kind in kinds if not {*ticked} & {*kind} for one in kind):
        told = number_of(tab, value)
        choose(tab, value)
        assert shown(tab)[1] == told, value
        tab.get_by_role("checkbox", name=value, exact=True).uncheck()


def test_projects_a_range_of_days_and_a_modality_are_flags_and_no_query(described: Described, lab: Path) -> None:
    tab = described()
    choose(tab, "Behavior Platform", "Ephys Platform", "ecephys")
    tab.get_by_label("From").fill("2024-12-01")
    tab.get_by_label("To").fill("2025-02-27")
    text, assets = shown(tab)
    flags = shlex.split(text)[len(command(lab)) :]
    assert flags == [
        "--project=Behavior Platform,Ephys Platform",
        "--modality=ecephys",
        "--from=2024-12-01",
        "--to=2025-02-27",
    ]
    assert jobs(text, lab) == assets > 0


def test_pictures_over_time_and_by_subject_follow_the_ticks(described: Described) -> None:
    tab = described()
    for picture, values in (("over-time", ("2025-01-31",)), ("by-subject", ("1", "2"))):
        tab.get_by_role("button", name="Clear").click()
        all_bars, drawn = (
            tab.locator(f"#{picture} path.{name}").get_attribute("d") or "" for name in ("all", "column")
        )
        assert drawn == all_bars
        choose(tab, *values)
        drawn = tab.locator(f"#{picture} path.column").get_attribute("d") or ""
        assert drawn.count("M") == len(values)
        assert all(bar in all_bars for bar in drawn.split("M"))


def test_the_flag_of_a_value_is_seen_where_the_pointer_or_the_focus_is(described: Described) -> None:
    tab = described()
    box = tab.get_by_role("checkbox", name="ecephys", exact=True)
    flag = tab.locator("li", has=box).locator("code")
    assert flag.is_hidden()
    box.hover()
    assert flag.inner_text() == "--modality=ecephys"
    tab.mouse.move(0, 0)
    assert flag.is_hidden()
    box.focus()
    assert flag.is_visible()


def test_the_values_for_the_app_panel_are_those_of_the_command(described: Described, lab: Path) -> None:
    tab = described()
    choose(tab, NASTY, "raw", "pass", "2024-12", "2025-02", "pophys")
    text, _ = shown(tab)
    tab.get_by_text("Values for the app panel").click()
    labels = {parameter["name"]: parameter["param_name"] for parameter in json.loads(PANEL.read_text())["parameters"]}
    filled = [line.partition(": ") for line in tab.locator("#panel").inner_text().splitlines()]
    assert [f"--{labels[label]}={value}" for label, _, value in filled] == shlex.split(text)[len(command(lab)) :]


def test_what_was_selected_before_stays_selected(described: Described, lab: Path) -> None:
    query = {"data_description.data_level": "derived"}
    flags = (
        f"--docdb_query={json.dumps(query)}",
        "--modality",
        "ecephys",
        "--from=2024-12-01",
        "--to=2025-04-14",
        "--qc=not_fail",
    )
    tab = described(*flags)
    text, assets = shown(tab)
    assert jobs(text, lab) == assets == jobs(shlex.join(command(lab, *flags)), lab)
    choose(tab, "behavior", "2025-01", "2025-02")
    text, fewer = shown(tab)
    assert 0 < fewer < assets
    assert jobs(text, lab) == fewer


def test_a_table_stays_selected(described: Described, lab: Path) -> None:
    (lab / "data" / "data_asset_input.csv").write_text("name\nasset_001\nasset_002\nasset_003\nasset_004\nasset_005\n")
    tab = described("--use_data_asset_csv=1")
    assert shown(tab)[1] == 5
    choose(tab, "raw")
    text, assets = shown(tab)
    assert "--use_data_asset_csv=1" in shlex.split(text)
    assert jobs(text, lab) == assets < 5


def test_clear_search_and_one_of_quality_control(described: Described) -> None:
    tab = described()
    before = shown(tab)
    choose(tab, "pass", "not_fail", "ecephys")
    tab.get_by_label("From").fill("2025-01-01")
    assert not tab.get_by_role("checkbox", name="pass", exact=True).is_checked()
    tab.get_by_role("button", name="Clear").click()
    assert shown(tab) == before
    field = tab.locator("#fields-values tr")
    tab.locator("#fields").get_by_role("searchbox").fill("data_level")
    assert field.locator("visible=true").count() == 1
    field.locator("visible=true").first.locator("li").first.hover()
    assert field.locator("code").locator("visible=true").inner_text().startswith("--docdb_query='{")


@pytest.mark.parametrize("width", [400, 1_280])
def test_nothing_is_wider_than_the_window(described: Described, width: int) -> None:
    tab = described()
    tab.set_viewport_size({"width": width, "height": 900})
    choose(tab, "2024-12", "2025-02", NASTY)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    lefts = {
        round((tab.locator(f"#{name}").bounding_box() or {})["x"]) for name in ("project", "modality", "level", "day")
    }
    assert len(lefts) == (1 if width == 400 else 2)
    assert tab.locator("#fields td.number").first.evaluate("(one) => getComputedStyle(one).whiteSpace") == "nowrap"
