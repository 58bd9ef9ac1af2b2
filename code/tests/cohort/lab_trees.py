"""Folders as labs have them, and what is known of each asset in them; nothing here is read from a name or a file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Tree:
    """A folder of a lab.

    Parameters
    ----------
    place : str
        What names its assets, below the folder; empty for the folder itself.
    flags : tuple of str
        Flags that it takes to read it.
    files : dict
        Contents by path.
    assets : dict
        By the path of each asset, what is known: subject, start of the session and modalities.
    """

    place: str
    flags: tuple[str, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)
    assets: dict[str, tuple[str | None, str | None, list[str] | None]] = field(default_factory=dict)


def _allen_institute() -> Tree:
    """Give raw assets with a whole record of version 1 or 2, or core files, and derived ones with a name only."""
    tree = Tree("")
    for number in range(12):
        subject, day = f"70{number // 3:04}", f"2025-03-{number + 1:02}"
        name = f"ecephys_{subject}_{day}_10-00-00"
        start = f"{day}T10:00:00"
        modality = {"modality": [{"name": "Extracellular electrophysiology", "abbreviation": "ecephys"}]}
        if number % 3 == 0:  # version 1, whole
            start += "-07:00"
            record: dict[str, Any] = {
                "_id": f"of DocDB {number}",
                "name": name,
                "location": f"s3://elsewhere/{name}",
                "subject": {"subject_id": subject},
                "data_description": {**modality, "data_level": "raw"},
                "session": {"session_start_time": start},
                "rig": None,
            }
            tree.files[f"{name}/metadata.nd.json"] = json.dumps(record, indent=3).encode()
        elif number % 3 == 1:  # version 2, whole but for the subject
            start += "Z"
            record = {
                "name": name,
                "subject": None,
                "data_description": {"modalities": modality["modality"], "data_level": "raw"},
                "acquisition": {"acquisition_start_time": start},
            }
            tree.files[f"{name}/metadata.nd.json"] = json.dumps(record).encode()
            tree.files[f"{name}/subject.json"] = json.dumps({"subject_id": subject}).encode()
        else:  # core files only, without the start of the session
            tree.files[f"{name}/subject.json"] = json.dumps({"subject_id": subject}, indent=3).encode()
            tree.files[f"{name}/data_description.json"] = json.dumps({**modality, "data_level": "raw"}).encode()
        tree.files[f"{name}/ecephys/recording.dat"] = b"x"
        tree.assets[name] = (subject, start, ["ecephys"])
        derived = f"{name}_sorted-ks25_2025-04-{number + 1:02}_08-30-00"
        tree.files[f"{derived}/sorted.nwb/.zgroup"] = b"{}"
        tree.assets[derived] = (subject, f"{day}T10:00:00", ["ecephys"])
    return tree


def _dandi() -> Tree:
    tree = Tree("sub-*/*.nwb")
    for number in range(8):
        path = f"sub-M{number // 2}/sub-M{number // 2}_ses-202506{number + 10}T143000_behavior+ecephys.nwb"
        tree.files[path] = b"x" * number
        tree.assets[path] = (f"M{number // 2}", f"2025-06-{number + 10}T14:30:00", ["behavior", "ecephys"])
    tree.files["dandiset.yaml"] = tree.files["sub-M0/notes.txt"] = tree.files["sub-M0/.hidden.nwb"] = b""
    return tree


def _bids() -> Tree:
    tree = Tree("sub-*/ses-*")
    for number in range(6):
        path = f"sub-{number // 2:02}/ses-{'abcdef'[number]}"
        tree.files[f"{path}/ephys/sub-{number // 2:02}_ses-{'abcdef'[number]}_task-rest_ephys.nwb"] = b"x"
        tree.assets[path] = (f"{number // 2:02}", "abcdef"[number], None)
    tree.files["participants.tsv"] = tree.files["sub-00/scans.tsv"] = tree.files[".bidsignore"] = b""
    return tree


def _own_scheme() -> Tree:
    tree = Tree("", ("--name_pattern={session:%Y-%m-%d}_{subject}_{run:d}",))
    for number in range(7):
        path = f"2025-05-{number + 1:02}_mouse-{number % 3}_{number}"
        tree.files[f"{path}/data.h5"] = b"x"
        tree.assets[path] = (f"mouse-{number % 3}", f"2025-05-{number + 1:02}", None)
    return tree


def _mixture() -> Tree:
    tree = Tree("", ("--name_pattern={subject}__{session:%d%m%y}", "--file_extension=.nwb"))
    tree.files.update({"README": b"", "notes.txt": b"", ".DS_Store": b"", ".cache/x": b""})
    for path, known in {
        "ecephys_1_2025-01-01_10-00-00": ("1", "2025-01-01T10:00:00", ["ecephys"]),
        "sub-2_ses-20250102": ("2", "2025-01-02", None),
        "mouse3__030125": ("mouse3", "2025-01-03", None),
        "calibration": (None, None, None),
    }.items():
        tree.files[f"{path}/x.nwb"] = b"x"
        tree.assets[path] = known
    tree.files["mouse4__040125.nwb"] = b"x"
    tree.assets["mouse4__040125.nwb"] = ("mouse4", "2025-01-04", None)
    tree.files["mouse5__050125.nwb/.zgroup"] = b"{}"
    tree.assets["mouse5__050125.nwb"] = ("mouse5", "2025-01-05", None)
    return tree


TREES = {
    "Allen Institute": _allen_institute(),
    "DANDI": _dandi(),
    "BIDS": _bids(),
    "a lab's own": _own_scheme(),
    "mixture": _mixture(),
}
