"""What the names of files and folders say about subject and session."""

from __future__ import annotations

from typing import Any

import pytest

from job_dispatch.messages import RequestError
from job_dispatch.metadata.asset_records import NamePattern, fill, from_conventions

START, MADE = "2025-01-01T10:00:00", "2025-01-02T11:30:59"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "ecephys_700001_2025-01-01_10-00-00",
            {"modality": ["ecephys"], "subject": "700001", "session": START, "created": START, "level": "raw"},
        ),
        (
            "700001_2025-01-01_10-00-00",
            {"subject": "700001", "session": START, "created": START, "level": "raw"},
        ),
        (
            "ecephys_700001_2025-01-01_10-00-00_sorted-ks25_2025-01-02_11-30-59",
            {
                "modality": ["ecephys"],
                "subject": "700001",
                "session": START,
                "created": MADE,
                "level": "derived",
                "raw": "ecephys_700001_2025-01-01_10-00-00",
            },
        ),
        (
            "multiplane-ophys_7_2025-01-01_10-00-00_a_2025-01-01_12-00-00_b_c_2025-01-02_11-30-59",
            {
                "modality": ["multiplane-ophys"],
                "subject": "7",
                "session": START,
                "created": MADE,
                "level": "derived",
                "raw": "multiplane-ophys_7_2025-01-01_10-00-00",
            },
        ),
        ("ecephys_700001_2025-13-01_10-00-00", {}),
        ("ecephys_700001_2025-01-01", {}),
        ("ecephys_700001_2025-01-01_10-00-00_notes", {}),
        ("participants", {}),
    ],
)
def test_a_name_of_the_allen_institute_tells_subject_session_level_and_raw_asset(
    name: str, expected: dict[str, Any]
) -> None:
    assert from_conventions(f"s3://bucket/{name}") == expected


def test_a_file_in_an_asset_of_the_allen_institute_belongs_to_its_session() -> None:
    named = from_conventions("file:///lab/behavior_7_2025-01-01_10-00-00/nwb/trials.nwb")
    assert (named["subject"], named["session"]) == ("7", START)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("sub-01", {"subject": "01"}),
        ("sub-01/ses-baseline", {"subject": "01", "session": "baseline"}),
        ("sub-01/ses-20250607", {"subject": "01", "session": "2025-06-07"}),
        ("sub-01/ses-2025-06-07", {"subject": "01", "session": "2025-06-07"}),
        ("sub-01/ses-20251399", {"subject": "01", "session": "20251399"}),
        ("sub-01_ses-20250607T143115", {"subject": "01", "session": "2025-06-07T14:31:15"}),
        ("sub-01/sub-01_ses-1_ecephys.nwb", {"subject": "01", "session": "1", "modality": ["ecephys"]}),
        (
            "sub-A/sub-A_ses-1_obj-1x2y_behavior+ophys.nwb",
            {"subject": "A", "session": "1", "modality": ["behavior", "ophys"]},
        ),
        ("sub-A/ses-1/ecephys/sub-A_ses-1_task-rest_run-1_ecephys.nwb.zarr", None),
        ("rawdata/sub-A/ses-1/eeg", {"subject": "A", "session": "1"}),
        ("ses-1/readme.txt", {}),
        ("subject-01", {}),
        ("sub-01_ses-1_probe2", {"subject": "01", "session": "1"}),
    ],
)
def test_the_parts_of_a_path_of_bids_or_dandi_tell_subject_session_and_modality(
    path: str, expected: dict[str, Any] | None
) -> None:
    expected = {"subject": "A", "session": "1", "modality": ["ecephys"]} if expected is None else expected
    assert from_conventions(f"file:///lab/{path}") == expected


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        (
            "{session:%Y-%m-%d}_{subject}_{run}",
            "2025-06-07_M12_3",
            {"session": "2025-06-07", "subject": "M12", "run": "3"},
        ),
        (
            "{session:%Y-%m-%d}_{subject}_{run:d}",
            "2025-06-07_M12_3",
            {"session": "2025-06-07", "subject": "M12", "run": 3},
        ),
        ("{session:%y%m%d-%H%M}-{subject}", "250607-1431-M12", {"session": "2025-06-07T14:31:00", "subject": "M12"}),
        ("{subject}_{session:%d%b%Y}", "M_12_07Jun2025", {"session": "2025-06-07", "subject": "M_12"}),
        (
            "{project}/{subject}/{session:%Y%m%d}",
            "p/M12/20250607",
            {"project": "p", "subject": "M12", "session": "2025-06-07"},
        ),
        ("{subject}/{session:%Y%m%d}", "p/M12/20250607", {"subject": "M12", "session": "2025-06-07"}),
        ("{subject}", "p/M12", {"subject": "M12"}),
        ("{subject}/{subject}_{run}", "M1/M1_x", {"subject": "M1", "run": "x"}),
        ("{subject}/{subject}_{run}", "M1/M2_x", None),
        ("{modality}-{subject}", "ecephys+behavior-M1", {"modality": ["ecephys", "behavior"], "subject": "M1"}),
        ("{subject}_{session:%Y-%m-%d}", "M12_2025-02-30", None),
        ("{subject}_{session:%Y-%m-%d}", "notes", None),
        ("{project}/{subject}", "M12", None),
        ("{{{subject}}}", "{M1}", {"subject": "M1"}),
    ],
)
def test_a_labs_own_pattern_reads_its_fields_from_a_path(
    pattern: str, path: str, expected: dict[str, Any] | None
) -> None:
    assert NamePattern(pattern).read(path) == expected


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("{subject", "expected '}' before end of string"),
        ("{}_{subject}", "{} is not a field such as {subject}"),
        ("{subject.id}", "{subject.id} is not a field such as {subject}"),
        ("{subject!r}", "{subject} is not a field such as {subject}"),
        ("{session:%Q}", "{session:%Q} is neither a date of %Y, "),
        ("{session:x}", "{session:x} is neither a date of %Y, "),
        ("{location}", "the field location is not from a name; call it otherwise"),
        ("session", "it has no field such as {subject}"),
    ],
)
def test_a_pattern_that_cannot_be_read_is_refused_with_the_reason(pattern: str, reason: str) -> None:
    with pytest.raises(RequestError) as refused:
        NamePattern(pattern)
    assert refused.value.headline.startswith(f"the name pattern {pattern!r} cannot be read: {reason}")


def test_a_name_fills_only_the_fields_that_a_record_lacks() -> None:
    record: dict[str, Any] = {
        "subject": {"subject_id": "1"},
        "acquisition": {"acquisition_start_time": "2025-06-07T08:00:00Z"},
        "data_description": {"data_level": "raw", "project_name": None},
        "run": 5,
    }
    fill(
        record,
        {
            "subject": "2",
            "session": "x",
            "project": "p",
            "modality": ["ecephys"],
            "level": "derived",
            "run": 6,
            "rig": "A",
        },
    )
    assert record == {
        "subject": {"subject_id": "1"},
        "acquisition": {"acquisition_start_time": "2025-06-07T08:00:00Z"},
        "data_description": {"data_level": "raw", "project_name": "p", "modality": [{"abbreviation": "ecephys"}]},
        "run": 5,
        "rig": "A",
    }
