"""What assets look like: their keys are computed when they are asked for, never held."""

from __future__ import annotations

import itertools
import random
import uuid
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import NamedTuple

BUCKET = "bench"
_SEED = 20250607

Block = tuple[str, Sequence[str]]
# What is found in an asset that has nothing else of the kind: none at all would be an error.
_MATCH: Block = ("", ["acquisition.json"])


class Keys:
    """The keys of an asset in order, relative to it.

    Parameters
    ----------
    blocks : sequence of (str, sequence of str)
        Folders (with `/`, or empty) and the names of the files in each.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = blocks
        self._starts = list(itertools.accumulate((len(names) for _, names in blocks), initial=0))
        edges = [folder + names[number] for folder, names in blocks for number in (0, -1)]
        if any(a > b for a, b in itertools.pairwise(edges)):
            raise ValueError("keys are not in order")

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, number: int) -> str:
        block = bisect_right(self._starts, number) - 1
        folder, names = self._blocks[block]
        return folder + names[number - self._starts[block]]

    def between(self, start: int, stop: int) -> list[str]:
        """Return the keys from one position up to another."""
        found: list[str] = []
        while start < min(stop, len(self)):
            block = bisect_right(self._starts, start) - 1
            (folder, names), first = self._blocks[block], self._starts[block]
            found += [folder + name for name in names[start - first : stop - first]]
            start = self._starts[block + 1]
        return found

    def from_key(self, key: str) -> int:
        """Return the position of the first key that is not less than this one."""
        return bisect_left(self, key)

    def after_key(self, key: str) -> int:
        """Return the position of the first key that is greater than this one."""
        return bisect_right(self, key)


class Shape(NamedTuple):
    """A kind of asset, and the ending that is looked for in it."""

    ending: str
    blocks: Callable[[], list[Block]]
    meaning: str


class Entries(NamedTuple):
    """One page of a listing: the positions of its keys, common prefixes, and where the next page begins."""

    positions: Sequence[int]
    prefixes: list[str]
    next_position: int | None


def page(keys: Keys, prefix: str, delimiter: str, position: int, size: int) -> Entries:
    """Return a page as `ListObjectsV2` does."""
    position = max(position, keys.from_key(prefix))
    if not delimiter:
        end = keys.from_key(f"{prefix}\U0010ffff")
        stop = min(position + size, end)
        return Entries(range(position, stop), [], stop if stop < end else None)
    positions: list[int] = []
    prefixes: list[str] = []
    while position < len(keys) and (key := keys[position]).startswith(prefix):
        if len(positions) + len(prefixes) == size:
            return Entries(positions, prefixes, position)
        end = key.find(delimiter, len(prefix))
        if end < 0:
            positions.append(position)
            position += 1
        else:
            prefixes.append(key[: end + 1])
            position = keys.from_key(key[:end] + chr(ord(delimiter) + 1))
    return Entries(positions, prefixes, None)


def size_of(key: str) -> int:
    """Return the bytes of an object, some number that is the same in every run."""
    return zlib.crc32(key.encode(), _SEED) & 0xFFFFF


def _numbered(template: str, count: int) -> list[str]:
    return sorted(template.format(number) for number in range(count))


def _behaviour() -> list[Block]:
    store = "nwb/behavior_774659_2025-06-07_14-31-15.nwb/"
    groups = ["acquisition/licks", "acquisition/rewards", "intervals/trials", "processing/pupil", "units/spike_times"]
    return [
        ("", ["data_description.json", "metadata.nd.json"]),
        (store, [".zattrs"]),
        *((f"{store}{group}/data/", _numbered("{:03}", 120)) for group in groups),
        ("", ["processing.json", "subject.json"]),
    ]


def _ephys() -> list[Block]:
    stores = [f"ecephys/ecephys_compressed/experiment1_Record_Node_104_ProbeA-AP_{n}.zarr/" for n in range(4)]
    return [
        *((f"{store}traces/", _numbered("{:04}.0", 5_000)) for store in stores),
        ("ecephys/", ["settings.xml"]),
        ("nwb/", ["ecephys_774659_2025-06-07_14-31-15.nwb"]),
        ("", ["processing.json", "subject.json"]),
    ]


def _chunks(folder: str) -> list[Block]:
    """Return 50,000 chunks: 20 × 50 folders of 50."""
    names = _numbered("{:02}", 50)
    return [(f"{folder}0/0/0/{z:02}/{y:02}/", names) for z in range(20) for y in range(50)]


def _light_sheet() -> list[Block]:
    return [
        ("", [".zattrs"]),
        *_chunks("SPIM/tile_X_0000_Y_0000_Z_0000_ch_445.ome.zarr/"),
        *_chunks("SPIM/tile_X_0001_Y_0000_Z_0000_ch_445.ome.zarr/"),
        ("", ["subject.json"]),
    ]


def _tiffs() -> list[Block]:
    return [
        ("", ["acquisition.nwb"]),
        *((f"tiles/{x:02}/{y:02}/", _numbered("{:03}.tiff", 250)) for x in range(20) for y in range(20)),
    ]


def _raw_light_sheet() -> list[Block]:
    return [
        *((f"SPIM/tile_{tile:03}/", _numbered("{:06}.tiff", 1_000)) for tile in range(100)),
        ("", ["acquisition.json"]),
    ]


def _ten_million() -> list[Block]:
    names = _numbered("{:06}.tiff", 1_000)
    return [*((f"SPIM/tile_{tile:05}/", names) for tile in range(10_000)), ("", ["acquisition.json"])]


def _one_folder() -> list[Block]:
    return [("", ["acquisition.json"]), ("images/", _numbered("{:06}.tiff", 100_000))]


def _named(names: Iterable[str]) -> list[Block]:
    return [("", ["acquisition.json"]), ("images/", sorted(set(names)))]


def _uuids() -> list[Block]:
    chance = random.Random(1)
    return _named(f"{uuid.UUID(int=chance.getrandbits(128), version=4)}.bin" for _ in range(100_000))


def _digests() -> list[Block]:
    chance = random.Random(2)
    return _named(f"{chance.getrandbits(160):040x}" for _ in range(100_000))


def _dates() -> list[Block]:
    start = datetime(2021, 3, 4, 5, 6, 7)
    return _named(f"{start + timedelta(seconds=37 * number):%Y-%m-%dT%H-%M-%S}.tif" for number in range(100_000))


def _milliseconds() -> list[Block]:
    start = datetime(2021, 3, 4, 5, 6, 7)
    times = (start + timedelta(milliseconds=33 * number) for number in range(100_000))
    return _named(f"{time:%Y-%m-%dT%H-%M-%S.%f}.tif" for time in times)


def _unpadded() -> list[Block]:
    return _named(f"frame_{number}.tif" for number in range(1, 100_001))


def _two_kinds() -> list[Block]:
    kinds = [name for n in range(50_000) for name in (f"a_{n:06}.tif", f"z_{n:06}.json")]
    return _named([*kinds, "b", "m odd one.txt", "readme.md"])


def _long_names() -> list[Block]:
    head = "behavior_774659_2025-06-07_14-31-15/ProbeA-AP_éàü_日本語_" + "x" * 200
    return _named(f"{head}_{number:07}_\U0001f600.tif" for number in range(0, 300_000, 3))


def _unicode() -> list[Block]:
    chance = random.Random(3)
    ranges = (range(0x3041, 0x3097), range(0x4E00, 0x4E80), range(0x1F600, 0x1F640))
    alphabet = list(map(chr, itertools.chain(*ranges)))
    return _named("".join(chance.choices(alphabet, k=6)) for _ in range(100_000))


def _subjects() -> list[Block]:
    chance = random.Random(4)
    return _named(
        f"sub-{chance.randint(600_000, 799_999)}_ses-{chance.randint(20190101, 20251231)}_run-{run:02}_{kind}.tif"
        for _ in range(12_500)
        for run in range(4)
        for kind in ("bold", "dwi")
    )


def _words() -> list[Block]:
    chance = random.Random(5)
    syllables = ["ka", "lo", "mi", "ter", "san", "do", "re", "fa", "bri", "que", "zu", "ne", "pla", "st", "on"]
    return _named("".join(chance.choices(syllables, k=chance.randint(3, 7))) + ".txt" for _ in range(100_000))


def _skewed() -> list[Block]:
    few, many = _numbered("{:02}.bin", 10), _numbered("{:06}.bin", 90_000)
    return [_MATCH, *((f"d{number:02}/", many if number == 50 else few) for number in range(100))]


def _huge_before_small() -> list[Block]:
    few, many = _numbered("{:02}.bin", 10), _numbered("{:06}.bin", 90_000)
    return [_MATCH, ("e/", many), *((f"f{number:02}/", few) for number in range(49))]


def _chain(names: Sequence[str]) -> list[Block]:
    folders = itertools.accumulate(f"level_{depth:02}/" for depth in range(50))
    return [(folder, names) for folder in folders]


def _folders(count: int, files: int) -> list[Block]:
    """Return folders of files whose numbers go on from folder to folder."""
    tiles = (range(folder * files, (folder + 1) * files) for folder in range(count))
    return [_MATCH, *((f"run/tile_{folder:03}/", [f"{n:06}.tif" for n in tile]) for folder, tile in enumerate(tiles))]


def _store(folders: int) -> list[Block]:
    names = _numbered("{:06}", 100_000 // folders)
    return [(f"SPIM/t.ome.zarr/{folder:04}/", names) for folder in range(folders)]


def _stores_between() -> list[Block]:
    chunks = _numbered("{:03}", 600)
    blocks: list[Block] = []
    for number in range(500):
        blocks += [
            ("rec/", [f"img_{number:04}.json", f"img_{number:04}.txt"]),
            (f"rec/img_{number:04}.zarr/0/", chunks),
        ]
    return blocks


def _hex_folders() -> list[Block]:
    chance = random.Random(6)
    names = sorted(f"data/{chance.getrandbits(64):016x}/" for _ in range(10_000))
    return [(name, ["a.bin", "b.bin", "c.json"]) for name in names]


def _million() -> list[Block]:
    return [("", ["acquisition.json"]), ("images/", _numbered("{:07}.tiff", 1_000_000))]


def _sessions() -> list[Block]:
    """Return 100 sessions, each a store of 2,000 chunks and two files."""
    chunks = _numbered("{:04}", 2_000)
    blocks: list[Block] = []
    for number in range(100):
        home = f"sessions/{number:03}/"
        blocks += [(home, ["meta.json", "notes.txt"]), (f"{home}rec.zarr/", chunks)]
    return blocks


def _large_stores() -> list[Block]:
    """Return two stores of 100,000 chunks."""
    names = _numbered("{:02}", 50)
    stores = [f"SPIM/tile_X_{x:04}_Y_0000_Z_0000_ch_445.ome.zarr/" for x in range(2)]
    return [(f"{store}0/0/0/{z:02}/{y:02}/", names) for store in stores for z in range(40) for y in range(50)]


def _flat() -> list[Block]:
    return [
        ("behavior/", ["licks.csv", "rewards.csv", "trials.csv"]),
        ("", ["data_description.json"]),
        ("nwb/", ["behavior_774659_2025-06-07_14-31-15.nwb", "report.html", "version.txt"]),
        ("", ["processing.json", "subject.json"]),
        ("video/", ["body.mp4", "eye.mp4", "face.mp4"]),
    ]


def _many_stores() -> list[Block]:
    names = _numbered("0.{:03}", 1_000)
    return [(f"stores/tile_{store:03}.zarr/", names) for store in range(500)]


def _deep() -> list[Block]:
    return [(f"trials/{trial:05}/", ["session.nwb" if trial == 5_000 else "data.bin"]) for trial in range(10_000)]


SHAPES = {
    "behaviour": Shape(".nwb", _behaviour, "605 keys: a store of 601 chunks, 4 files"),
    "ephys": Shape(".nwb", _ephys, "20,004 keys: 4 stores of 5,000 chunks, 4 files"),
    "light-sheet": Shape(".ome.zarr", _light_sheet, "100,002 keys: 2 stores of nested chunk folders"),
    "flat": Shape(".nwb", _flat, "12 keys in 3 folders"),
    "many-stores": Shape(".zarr", _many_stores, "500,000 keys: 500 stores of 1,000 chunks"),
    "deep": Shape(".nwb", _deep, "10,000 keys: as many folders"),
    "raw-light-sheet": Shape(".json", _raw_light_sheet, "100,001 keys: 100 folders of 1,000 plain files"),
    "ten-million": Shape(".json", _ten_million, "10,000,001 keys: 10,000 folders of 1,000 plain files"),
    "one-folder": Shape(".json", _one_folder, "100,001 keys: one folder of plain files"),
    "uuids": Shape(".json", _uuids, "100,001 keys: one folder, named by UUIDs"),
    "dates": Shape(".json", _dates, "100,001 keys: one folder, named by dates"),
    "words": Shape(".json", _words, "about 85,000 keys: one folder, named by words"),
    "digests": Shape(".json", _digests, "100,001 keys: one folder, named by digests"),
    "milliseconds": Shape(".json", _milliseconds, "100,001 keys: one folder, named by times"),
    "unpadded": Shape(".json", _unpadded, "100,001 keys: one folder, named by numbers without zeros before"),
    "two-kinds": Shape(".txt", _two_kinds, "100,004 keys: one folder of two series and three odd names"),
    "long-names": Shape(".json", _long_names, "100,001 keys: one folder of long names with numbers"),
    "unicode": Shape(".json", _unicode, "100,001 keys: one folder, named by random characters"),
    "subjects": Shape(".json", _subjects, "100,001 keys: one folder, named by subject, session and run"),
    "skewed": Shape(".json", _skewed, "90,991 keys: 99 folders of 10 files and one of 90,000"),
    "huge-before-small": Shape(".json", _huge_before_small, "90,491 keys: a folder of 90,000 files before 49 of 10"),
    "chain": Shape(".bin", lambda: _chain(["data.bin"]), "50 keys: 50 folders, each in the one before"),
    "wide-chain": Shape(
        ".json", lambda: [_MATCH, *_chain(_numbered("{:03}.bin", 200))], "10,001 keys: such a chain, 200 files each"
    ),
    "folders-of-400": Shape(".json", lambda: _folders(250, 400), "100,001 keys: 250 folders of 400 files"),
    "folders-of-1700": Shape(".json", lambda: _folders(60, 1_700), "102,001 keys: 60 folders of 1,700 files"),
    "hex-folders": Shape(".json", _hex_folders, "30,000 keys: 10,000 folders, named by digests, of 3 files"),
    "stores-between": Shape(".json", _stores_between, "301,000 keys: 500 stores of 600 chunks, two files beside each"),
    "store": Shape(".ome.zarr", lambda: _store(1), "100,000 keys: one store with one folder"),
    "store-of-10": Shape(".ome.zarr", lambda: _store(10), "100,000 keys: one store with 10 folders"),
    "store-of-1000": Shape(".ome.zarr", lambda: _store(1_000), "100,000 keys: one store with 1,000 folders"),
    "million": Shape(".json", _million, "1,000,001 keys: one folder of plain files"),
    "sessions": Shape(".json", _sessions, "200,200 keys: 100 folders of a store of 2,000 chunks and 2 files"),
    "large-stores": Shape(".ome.zarr", _large_stores, "200,000 keys: 2 stores of 100,000 chunks"),
    "tiffs": Shape(".nwb", _tiffs, "100,001 keys in 421 folders, no store"),
}


@cache
def keys_of(shape: str) -> Keys:
    """Return the keys of an asset of a shape."""
    return Keys(SHAPES[shape].blocks())


def names(shape: str, count: int) -> list[str]:
    """Return the names of assets of a shape; `flat+one-folder` is so many flat ones and one folder."""
    shape, *others = shape.split("+")
    return [*(f"{shape}_{number:05}" for number in range(count)), *(f"{other}_00000" for other in others)]


def total(shape: str, count: int, of_one: Callable[[str], int]) -> int:
    """Return the sum of a number over assets of a shape."""
    return sum(of_one(name.rpartition("_")[0]) for name in names(shape, count))


def locations(shape: str, count: int) -> list[str]:
    """Return the locations of assets of a shape."""
    return [f"s3://{BUCKET}/{name}" for name in names(shape, count)]


_STORES = (".zarr", ".n5", ".nwb")


def _is_store(shape: str, folder: str) -> bool:
    return folder.rstrip("/").endswith((*_STORES, SHAPES[shape].ending))


@cache
def least_requests(shape: str) -> int:
    """Return how many requests an asset takes at least: all pages of keys in a row, or folder by folder."""
    return min(_flat_requests(shape), _walk_requests(shape))


def _flat_requests(shape: str) -> int:
    keys, position, requests = keys_of(shape), 0, 0
    while position < len(keys):
        requests += 1
        position += 1_000
        if position < len(keys):
            parts = keys[position - 1].split("/")
            stores = ("/".join(parts[:depth]) for depth in range(1, len(parts)))
            store = next((one for one in stores if _is_store(shape, one)), None)
            position = position if store is None else keys.from_key(f"{store}0")
    return requests


def _walk_requests(shape: str) -> int:
    keys, folders, requests = keys_of(shape), [""], 0
    while folders:
        folder, position = folders.pop(), 0
        while True:
            requests += 1
            entries = page(keys, folder, "/", position, 1_000)
            folders += [one for one in entries.prefixes if not _is_store(shape, one)]
            if entries.next_position is None:
                break
            position = entries.next_position
    return requests
