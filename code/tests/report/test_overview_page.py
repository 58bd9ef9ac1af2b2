"""The page of a description stays small, holds every cell, and lets nothing in it become markup."""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
from typing import Any

import pytest

from job_dispatch.cohort.describing import Cell, FieldUses, Overview
from job_dispatch.report import overview
from job_dispatch.report.overview import Base

BASE = Base(["python", "run_capsule.py"], None, {}, "0")
QUALITIES = ((), (("ecephys", "Pass"),), (("ecephys", "Fail"),), (("behavior", "Pending"), ("ecephys", "Pass")))


@functools.cache
def fields() -> FieldUses:
    """Fields of a thousand records, more than a page shows."""
    made = FieldUses()
    for number in range(1_000):
        values = {f"field_{field}": {"value": "x" * 70 + str(number % 9)} for field in range(300)}
        made.add([{"_id": f"{number}", **values}])
    return made


def cohort(records: int, projects: int, months: int, subjects: int) -> Overview:
    draw = random.Random(1)
    made = Overview(fields=fields())
    modalities = [
        one for size in (0, 1, 2) for one in itertools.combinations(("behavior", "ecephys", "pophys", "SPIM"), size)
    ]
    names = [f"Project number {number} of the laboratory" for number in range(projects)]
    days = [f"{2015 + month // 12}-{month % 12 + 1:02d}-{day:02d}" for month in range(months) for day in range(1, 29)]
    made.cells.update(
        map(
            Cell,
            draw.choices(names, k=records),
            draw.choices(modalities, k=records),
            draw.choices(("raw", "derived"), k=records),
            draw.choices(days, k=records),
            draw.choices([f"{number}" for number in range(subjects)], k=records),
            draw.choices(QUALITIES, k=records),
        )
    )
    return made


def data(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    parsed: dict[str, Any] = json.loads(found[1])
    return parsed


def decoded(page: dict[str, Any]) -> dict[tuple[int, ...], int]:
    """Read the cells as the page's script does."""
    cells, place = {}, 0
    for token in page["cells"].split():
        distance, _, assets = token.partition(":")
        place += int(distance, 36)
        parts, rest = [], place
        for size in reversed(page["sizes"]):
            rest, part = divmod(rest, size)
            parts.append(part)
        cells[tuple(reversed(parts))] = int(assets or "1", 36)
    return cells


@pytest.mark.parametrize("shape", [(200_000, 60, 120, 20_000), (200_000, 5_000, 120, 200_000), (1_000, 3, 12, 50)])
@pytest.mark.long
def test_a_page_of_200_000_records_has_at_most_2_mb_and_loses_none(shape: tuple[int, int, int, int]) -> None:
    made = cohort(*shape)
    html = overview.render(made, BASE, "a catalog")
    assert len(html.encode()) <= 2_000_000
    assert sum(decoded(data(html)).values()) == shape[0]


@pytest.mark.long
def test_every_cell_is_on_the_page_as_it_was_counted() -> None:
    made = cohort(5_000, 5, 24, 50)
    page = data(overview.render(made, BASE, "a catalog"))
    read = {}
    for (project, number, level, day, quality, subject), assets in decoded(page).items():
        cell = Cell(
            page["values"]["project"][project - 1],
            tuple(page["sets"][number]),
            page["values"]["level"][level - 1],
            page["days"][day - 1],
            page["values"]["subject"][subject - 1],
            tuple(map(tuple, page["qualities"][quality])),
        )
        read[cell] = assets
    assert read == dict(made.cells)


def test_nothing_that_records_hold_becomes_markup() -> None:
    nasty = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
    made = Overview()
    made.cells[Cell(nasty, (nasty,), nasty, "2025-01-01", nasty, ((nasty, "Pass"),))] = 1
    made.fields.add([{"_id": nasty, nasty: {nasty: nasty}}])
    html = overview.render(made, Base([nasty], {nasty: nasty}, {"project": [nasty]}, "0"), nasty)
    assert "<script>alert" not in html
    assert "<img" not in html
    assert html.count("<script") == html.count("</script>") == 2
    assert data(html)["values"]["project"] == [nasty]


@pytest.mark.parametrize("value", ["a\nb", "\x00", "\ud800", "\u202ereversed", "x" * 300])
def test_a_value_that_no_command_line_could_hold_is_counted_and_not_offered(value: str) -> None:
    made = Overview()
    made.cells[Cell(value, (), "raw", "", "")] = 2
    made.cells[Cell("plain", (), "raw", "", "")] = 3
    made.fields.add([{"_id": "1", "field": value}])
    html = overview.render(made, BASE, "a catalog")
    html.encode()
    assert data(html)["values"]["project"] == ["plain"]
    assert sum(decoded(data(html)).values()) == 5


def test_fields_that_differ_in_every_record_are_left_out_and_counted() -> None:
    made = FieldUses()
    made.add(
        [{"_id": f"{number}", "name": f"{number}", "weight": number, "sex": "MF"[number % 2]} for number in range(30)]
    )
    assert [one.path for one in made.uses(10, 3)] == ["sex", "weight"]
    assert (len(made), made.unique) == (2, 2)
    few = FieldUses()
    few.add([{"_id": "1", "subject": "a"}, {"_id": "2", "subject": "b"}])
    assert [one.path for one in few.uses(10, 3)] == ["subject"]
