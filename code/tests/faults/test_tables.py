"""Exclusions are read as a table of assets is, one asset has one name, and Excel is read as it is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openpyxl
import pytest

from tests.faults.command import Desk, Ended, Record, assert_no_crash, assert_refused

pytestmark = pytest.mark.long

IDS = [f"a1b2c3d4-11aa-4111-8111-11111111111{number}" for number in range(3)]


def record(number: int, *ids: str) -> Record:
    links = {"Code Ocean": list(ids) or [IDS[number]]}
    return {"_id": f"r{number}", "name": f"n{number}", "location": f"s3://b/{number}", "external_links": links}


RECORDS = [record(number) for number in range(3)]
CELLS: dict[str, Callable[[str], str]] = {
    "upper case": str.upper,
    "a formula of text": lambda one: f'="{one}"',
    "quotes": lambda one: f'"""{one}"""',
    "an address of Code Ocean": lambda one: f"https://codeocean.example.org/data-assets/{one}/data",
    "zero-width blanks": lambda one: f"\u200b{one}\ufeff",
}


def test_an_exclusion_is_read_as_the_id_of_a_table(desk: Desk) -> None:
    ids = {form: f"a1b2c3d4-11aa-4111-8111-2222222222{number:02}" for number, form in enumerate(CELLS)}
    records = [{**record(0, one), "_id": form, "name": form, "location": f"s3://b/{one}"} for form, one in ids.items()]
    path = desk.put("done.csv", "\n".join(["asset_id", *(CELLS[form](one) for form, one in ids.items())]) + "\n")
    ended = desk.run([RECORDS[1], *records], f"--exclude={path}")
    assert_no_crash(ended)
    assert ended.assets == ["n1"], ended.stderr


def test_a_failed_formula_among_exclusions_is_no_name_that_passes_in_silence(desk: Desk) -> None:
    path = desk.put("done.csv", f"asset_id\n{IDS[1]}\n#N/A\n")
    ended = desk.run(RECORDS, f"--exclude={path}")
    assert_no_crash(ended)
    assert "#N/A" in ended.stderr, ended.stderr
    assert ended.assets in ([], ["n0", "n2"])


def test_an_asset_that_is_registered_twice_is_excluded_by_its_older_record(desk: Desk) -> None:
    twice = [
        {**record(1), "_id": "older", "created": "2024-01-01T00:00:00Z"},
        {**record(1), "_id": "newer", "created": "2025-01-01T00:00:00Z"},
    ]
    path = desk.put("done.csv", "docdb_record_id\nolder\n")
    ended = desk.run([record(0), *twice], f"--exclude={path}")
    assert_no_crash(ended)
    assert ended.assets == ["n0"], ended.stderr


def test_a_record_with_two_ids_has_one_job_name_by_a_query_and_by_a_table(desk: Desk) -> None:
    two = record(0, IDS[0], IDS[1])
    by_query = desk.run([two])
    desk.put("data_asset_input.csv", f"asset_id\n{IDS[1]}\n")
    by_table = desk.run([two], "--use_data_asset_csv=1", "--overwrite=1")
    assert_no_crash(by_table)
    assert by_table.names == by_query.names
    assert len(by_query.names) == 1


# Excel


def by_excel(desk: Desk, fill: Callable[[Any], None]) -> Ended:
    book = openpyxl.Workbook()
    fill(book)
    book.save(desk.data / "data_asset_input.xlsx")
    return desk.run(RECORDS, "--use_data_asset_csv=1")


def test_rows_that_a_filter_hides_make_no_jobs(desk: Desk) -> None:
    def fill(book: Any) -> None:
        for cell in ("asset_id", *IDS):
            book.active.append([cell])
        book.active.auto_filter.ref = "A1:A4"
        book.active.row_dimensions[3].hidden = True

    ended = by_excel(desk, fill)
    assert_no_crash(ended)
    assert ended.assets == ["n0", "n2"], ended.stderr


def test_a_merged_parameter_reaches_each_of_its_rows(desk: Desk) -> None:
    def fill(book: Any) -> None:
        for row in (("asset_id", "parameters.t"), (IDS[0], 5), (IDS[1], None), (IDS[2], None)):
            book.active.append(row)
        book.active.merge_cells("B2:B4")

    ended = by_excel(desk, fill)
    assert_no_crash(ended)
    if ended.code:
        assert_refused(ended)
    else:
        given = [{**(job.get("fixed_parameters") or {}), **job["distributed_parameters"]} for job in ended.jobs]
        assert [one.get("t") for one in given] == [5, 5, 5]


def test_a_hidden_first_sheet_is_not_the_table(desk: Desk) -> None:
    def fill(book: Any) -> None:
        for cell in ("asset_id", IDS[0]):
            book.active.append([cell])
        book.active.sheet_state = "hidden"
        shown = book.create_sheet("shown")
        for cell in ("asset_id", IDS[2]):
            shown.append([cell])
        book.active = 1

    ended = by_excel(desk, fill)
    assert_no_crash(ended)
    assert ended.assets == ["n2"], ended.stderr
