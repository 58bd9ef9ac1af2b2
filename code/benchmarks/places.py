"""Places of assets: a folder of sessions without metadata files, and a bucket with a metadata file in each asset.

The bucket is answered by `answer`, in the process of the endpoint. As a script it is one side:
`python -m benchmarks.places folder|bucket|bare PLACE`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

BUCKET = "places"
_ASSETS = 5_000
_SESSIONS = 10_000
_FILE = "metadata.nd.json"
_FILE_BYTES = 100_000
_AT_ONCE = 256
_PAGE = 1_000

Row = dict[str, Any]


def measure(directory: Path, environment: Mapping[str, str], url: str, quick: bool) -> dict[str, Row]:
    """Return seconds and peak memory of both places; of the bucket beside reading its files by bare obstore."""
    from benchmarks import processes

    folder = directory / "sessions"
    sessions = _SESSIONS // 10 if quick else _SESSIONS
    for number in range(sessions):
        (folder / f"ecephys_{700_000 + number // 20}_2025-01-01_{number // 60 % 24:02}-{number % 60:02}-00").mkdir(
            parents=True, exist_ok=True
        )
    rows = {}
    assets = _ASSETS // 10 if quick else _ASSETS
    for side, place in (("folder", str(folder)), ("bucket", f"{assets}"), ("bare", f"{assets} {url}")):
        command = [sys.executable, "-m", "benchmarks.places", side, *place.split()]
        rows[side] = processes.run(command, environment).answer
    names = {"folder": f"folder of {sessions:,} sessions", "bucket": f"bucket with {assets:,} metadata files"}
    for side, name in names.items():
        row = rows[side]
        least = f", by bare obstore {rows['bare']['seconds']:.1f} s" if side == "bucket" else ""
        print(f"{name}: {row['seconds']:.1f} s, CPU {row['cpu']:.1f} s, {row['peak']:,.0f} MB{least}")
    return rows


def answer(path: str, query: str) -> bytes | None:
    """Return the answer of the bucket to a request, None if it is for another."""
    if not path.startswith(f"/{BUCKET}"):
        return None
    key = path.removeprefix(f"/{BUCKET}").strip("/")
    if not query:
        return _object() if key.endswith(_FILE) else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    options = {name: unquote_plus(value) for name, _, value in (part.partition("=") for part in query.split("&"))}
    return _listing(options.get("prefix", ""), int(options.get("continuation-token") or 0))


@cache
def _object() -> bytes:
    record = {"_id": "x", "subject": {"subject_id": "700001"}, "processing": {"notes": ""}}
    record["processing"] = {"notes": "x" * (_FILE_BYTES - len(json.dumps(record)))}
    body = json.dumps(record).encode()
    head = (
        f'HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nETag: "x"\r\nLast-Modified: Sat, 07 Jun 2025 00:00:00 GMT'
    )
    return f"{head}\r\n\r\n".encode() + body


@cache
def _listing(prefix: str, start: int) -> bytes:
    """List a lab of so many assets as its name tells, or one asset."""
    lab, _, asset = prefix.strip("/").partition("/")
    total = int(lab) if lab.isdecimal() else 0
    end = min(start + _PAGE, total)
    more = f"<NextContinuationToken>{end}</NextContinuationToken>" if not asset and end < total else ""
    if asset:
        found = (
            f"<Contents><Key>{lab}/{asset}/{_FILE}</Key><LastModified>2025-06-07T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;x&quot;</ETag><Size>{_FILE_BYTES}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )
    else:
        found = "".join(
            f"<CommonPrefixes><Prefix>{lab}/{number:05}/</Prefix></CommonPrefixes>" for number in range(start, end)
        )
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{BUCKET}</Name><KeyCount>1</KeyCount><MaxKeys>{_PAGE}</MaxKeys>"
        f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{found}{more}</ListBucketResult>"
    ).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def _count_records(place: str) -> int:
    from job_dispatch.cohort.sources import open_place, place_of
    from job_dispatch.request.fields import Query

    found = place_of(place, [Path(place)])
    if found is None:
        raise RuntimeError(f"{place} is no place")
    with open_place(found, (), None, _AT_ONCE, skip_errors=False) as catalog:
        return sum(len(page) for page in catalog.find(Query.of({}), ("name", "location")))


def _read_bare(assets: int, url: str) -> int:
    """Read the files with as many requests in flight, and nothing else."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(BUCKET, endpoint=url, skip_signature=True, region="us-east-1", client_options={"allow_http": True})

    async def read_all() -> int:
        free = asyncio.Semaphore(_AT_ONCE)

        async def read(number: int) -> int:
            async with free:
                return len(await (await obstore.get_async(store, f"{assets}/{number:05}/{_FILE}")).bytes_async())

        return sum(1 for size in await asyncio.gather(*map(read, range(assets))) if size)

    return asyncio.run(read_all())


def _side(side: str, place: str, *url: str) -> None:
    from benchmarks.measuring import report

    if side == "bare":
        report(lambda: _read_bare(int(place), *url))
    else:
        report(lambda: _count_records(place if side == "folder" else f"s3://{BUCKET}/{place}"))


if __name__ == "__main__":
    _side(*sys.argv[1:])
