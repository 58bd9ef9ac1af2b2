"""Which objects of an asset in S3 match, and how S3 is asked."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from job_dispatch.messages import RequestError, ServiceError
from job_dispatch.metadata.records import asset_of
from job_dispatch.storage.keys import Experience, Level, Order
from job_dispatch.storage.listing import Slots, list_keys
from job_dispatch.storage.matching import ByEnding, Matches
from job_dispatch.storage.s3 import S3
from tests import conftest
from tests.storage.tree import Tree

BUCKET = "bucket"
Endpoint = conftest.S3


def find(location: str, *endings: str) -> list[str]:
    return [file.address for file in asyncio.run(S3(256).find_files(location, ByEnding(endings)))]


def matches(s3: Endpoint, keys: Iterable[str], *endings: str, asset: str = "asset") -> list[str]:
    """Put keys into an asset and return its matches, both below the asset's location."""
    s3.put(BUCKET, [f"{asset}/{key}" for key in keys])
    location = f"s3://{BUCKET}/{asset}"
    return [address.removeprefix(f"{location}/") for address in find(location, *endings)]


# What matches


def test_a_file_matches_by_the_ending_of_its_name_at_any_depth(s3: Endpoint) -> None:
    keys = ["a.nwb", "deep/er/b.nwb", "c.nwb.txt", "nwb", "processing.json"]
    assert matches(s3, keys, ".nwb") == ["a.nwb", "deep/er/b.nwb"]


@pytest.mark.parametrize("ending", [".zarr", ".n5", ".nwb"])
def test_a_store_is_one_match_and_is_never_entered(s3: Endpoint, ending: str) -> None:
    keys = [f"x{ending}/{path}" for path in (".zgroup", "0/0/0", f"inner{ending}/0", f"file{ending}")]
    assert matches(s3, keys, ending) == [f"x{ending}"]


def test_a_store_with_another_ending_is_passed_over(s3: Endpoint) -> None:
    keys = ["x.zarr/a.nwb", "y.n5/deep/a.nwb", "z.nwb/a.h5"]
    assert matches(s3, keys, "a.nwb", "a.h5") == []


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (".ome.zarr", ["488.ome.zarr"]),
        (".zarr", ["488.ome.zarr", "raw.zarr"]),
        ("_dff.h5", ["VISp_0/VISp_0_dff.h5"]),
        ("events.h5", ["VISp_0/events.h5", "VISp_0/x_events.h5"]),
    ],
)
def test_an_ending_may_have_several_parts_or_be_no_extension(s3: Endpoint, ending: str, expected: list[str]) -> None:
    files = ["VISp_0/VISp_0_dff.h5", "VISp_0/events.h5", "VISp_0/x_events.h5"]
    assert matches(s3, ["488.ome.zarr/0", "raw.zarr/0", *files], ending) == expected


def test_a_folder_whose_name_ends_in_a_wanted_ending_is_one_match(s3: Endpoint) -> None:
    assert matches(s3, ["run.h5/0.h5", "run.h5/deep/1.h5"], ".h5") == ["run.h5"]


def test_a_folder_whose_name_ends_like_a_file_is_entered_unless_that_ending_is_wanted(s3: Endpoint) -> None:
    assert matches(s3, ["run.h5/a.nwb", "v1.2/b.nwb", "x.zarr.bak/c.nwb"], ".nwb") == [
        "run.h5/a.nwb",
        "v1.2/b.nwb",
        "x.zarr.bak/c.nwb",
    ]


def test_a_path_that_fits_two_endings_counts_once(s3: Endpoint) -> None:
    keys = ["a.ome.zarr/0", "b_dff.h5"]
    assert matches(s3, keys, ".zarr", ".ome.zarr", ".h5", "_dff.h5") == ["a.ome.zarr", "b_dff.h5"]


def test_an_object_and_a_store_of_one_name_count_once(s3: Endpoint) -> None:
    assert matches(s3, ["a.nwb", "a.nwb/.zgroup"], ".nwb") == ["a.nwb"]


def test_endings_are_case_sensitive(s3: Endpoint) -> None:
    assert matches(s3, ["A.NWB", "B.Nwb", "C.ZARR/c.nwb"], ".nwb") == ["C.ZARR/c.nwb"]


def test_the_result_is_sorted_by_path(s3: Endpoint) -> None:
    keys = ["b.nwb", "a/z.nwb", "a.nwb", "é.nwb", "B.nwb", "a/b/c.nwb", "a-.nwb"]
    assert matches(s3, keys, ".nwb") == sorted(keys)


def test_a_folder_marker_is_no_file(s3: Endpoint) -> None:
    assert matches(s3, ["", "x/", "x/a.nwb", "empty/"], "x", "y", "empty") == ["empty", "x"]
    assert matches(s3, ["", "sub/", "sub/a.nwb"], ".nwb", asset="of") == ["sub/a.nwb"]


def test_a_marker_beside_an_object_of_its_name_hides_neither_object_nor_folder(s3: Endpoint) -> None:
    assert matches(s3, ["x", "x/", "x/a.nwb"], ".nwb") == ["x/a.nwb"]
    assert matches(s3, ["f.nwb", "f.nwb/"], ".nwb", asset="of") == ["f.nwb"]
    assert matches(s3, ["data.h5", "data.h5/", "data.h5/0"], "a.h5", asset="third") == ["data.h5"]


def test_an_asset_without_objects_has_no_match(s3: Endpoint) -> None:
    assert matches(s3, [], ".nwb") == []


# Which asset


def test_an_asset_does_not_see_another_whose_name_begins_like_its_own(s3: Endpoint) -> None:
    s3.put(BUCKET, ["a1/x.nwb", "a10/y.nwb", "a1.nwb", "a1_processed/z.nwb"])
    assert find(f"s3://{BUCKET}/a1", ".nwb") == [f"s3://{BUCKET}/a1/x.nwb"]


def test_a_trailing_slash_of_a_location_is_dropped(s3: Endpoint) -> None:
    s3.put(BUCKET, ["a1/x.nwb"])
    asset = asset_of({"_id": "1", "location": f"s3://{BUCKET}/a1/"})
    assert find(asset.location, ".nwb") == [f"s3://{BUCKET}/a1/x.nwb"]


def test_a_location_may_have_several_segments(s3: Endpoint) -> None:
    assert matches(s3, ["x.nwb"], ".nwb", asset="lab/v1.2/a b+é%2F#") == ["x.nwb"]


# Keys are opaque

KEYS_TO_KEEP = [
    "a b.nwb",
    "a+b.nwb",
    "a%2Fb.nwb",
    "%41.nwb",
    "%.nwb",
    "é.nwb",
    "e\N{COMBINING ACUTE ACCENT}.nwb",
    "\N{GRINNING FACE}.nwb",
    "[1]*?.nwb",
    "{1}~^|`.nwb",
    "back\\slash.nwb",
    "#1.nwb",
    "&amp;<'\">.nwb",
    " é%2F+/#[1]*?.nwb",
    f"{'x' * 896}.nwb",
]


def test_every_key_is_found_as_it_is_written(s3: Endpoint) -> None:
    assert matches(s3, KEYS_TO_KEEP, ".nwb") == sorted(KEYS_TO_KEEP)


KEYS_THAT_OBSTORE_REFUSES = ["a//b.nwb", "/b.nwb", "./x.nwb", "a/../x.nwb", "a\tb.nwb"]


@pytest.mark.parametrize("key", KEYS_THAT_OBSTORE_REFUSES)
def test_a_key_that_obstore_refuses_is_found_beside_all_others(s3: Endpoint, key: str) -> None:
    keys = [key, "ok.nwb", "store.nwb/0/0.nwb", "other.zarr/a.nwb", "sub/", "sub/a.nwb", "é+%41.nwb"]
    assert matches(s3, keys, ".nwb") == sorted(reference(keys, (".nwb",)))


@pytest.mark.parametrize("asset", ["x//y", "/x", "x/./y", "a\tb"])
def test_a_location_that_obstore_refuses_is_listed_all_the_same(s3: Endpoint, asset: str) -> None:
    s3.put(BUCKET, ["x/y/other.nwb", "x/other.nwb"])
    assert matches(s3, ["a.nwb", "sub/b.nwb"], ".nwb", asset=asset) == ["a.nwb", "sub/b.nwb"]


@pytest.mark.long
def test_a_level_of_more_than_a_page_is_listed_whole(s3: Endpoint) -> None:
    files = [f"{number}.h5" for number in range(1_001)]
    stores = [f"{number}.nwb" for number in range(1_001)]
    s3.put(BUCKET, [])
    # Through the wire, 2,002 objects would take seconds.
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for key in [*files, *(f"{store}/0" for store in stores)]:
        backend.put_object(BUCKET, f"asset/{key}", b"")
    assert matches(s3, [], ".h5", ".nwb") == sorted([*files, *stores])


# The law: any tree gives what the rules say of each key

SEGMENTS = ["a.zarr", "b.nwb", "c.h5", "d", ".zarr", "e.n5", "f_dff.h5", "g.ome.zarr", "B.NWB", "é %2F"]
ODD_SEGMENTS = [*SEGMENTS, "", ".", "..", "tab\t"]
ENDINGS = (".nwb", ".zarr", ".ome.zarr", ".h5", "_dff.h5", ".n5", "d")

some_endings = st.lists(st.sampled_from(ENDINGS), min_size=1, max_size=3, unique=True).map(tuple)


def keys_of(segments: list[str]) -> st.SearchStrategy[set[str]]:
    """Keys of objects; those that end in `/` are markers."""
    key = st.lists(st.sampled_from(segments), min_size=1, max_size=5).map("/".join)
    marker = st.sampled_from(["", "", "", "/"])
    return st.sets(st.builds(str.__add__, key, marker), min_size=1, max_size=12)


def match_of(key: str, endings: tuple[str, ...]) -> str | None:
    """Say what the key of one object matches: the first folder on its way that is a store decides."""
    *folders, name = key.split("/")
    for depth, folder in enumerate(folders, 1):
        if folder.endswith(endings):
            return "/".join(folders[:depth])
        if folder.endswith((".zarr", ".n5", ".nwb")):
            return None
    return key if name.endswith(endings) else None


def reference(keys: Iterable[str], endings: tuple[str, ...]) -> set[str]:
    return {match for key in keys if (match := match_of(key, endings)) is not None}


class Asked(Tree):
    """Keys in memory, and the folders that were asked for."""

    def __init__(self, keys: Iterable[str]) -> None:
        super().__init__(keys)
        self.folders: list[str] = []

    async def level(self, folder: str) -> Level:
        self.folders.append(folder)
        return await super().level(folder)


def walk_in_memory(tree: Tree, endings: tuple[str, ...]) -> set[str]:
    """List folder by folder, as a bucket of another order is."""
    experience = Experience(Order.OTHER, is_walked=True)
    taken = asyncio.run(list_keys(tree, ["asset/"], lambda: Matches(ByEnding(endings), "asset/"), Slots(4), experience))
    return {key.removeprefix("asset/") for key in taken.found}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(keys_of(ODD_SEGMENTS), some_endings)
def test_the_walk_finds_what_the_rules_say_of_each_key(keys: set[str], endings: tuple[str, ...]) -> None:
    assert walk_in_memory(Tree(f"asset/{key}" for key in keys), endings) == reference(keys, endings)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(keys_of(SEGMENTS), some_endings)
def test_the_walk_asks_for_no_folder_twice_and_for_none_in_a_store(keys: set[str], endings: tuple[str, ...]) -> None:
    tree = Asked(f"asset/{key}" for key in keys)
    walk_in_memory(tree, endings)
    assert len(tree.folders) == len(set(tree.folders))
    entered = {segment for folder in tree.folders for segment in folder.split("/")}
    assert not any(segment.endswith((".zarr", ".n5", ".nwb", *endings)) for segment in entered)


asset_numbers = itertools.count()


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys_of(SEGMENTS), some_endings)
@example({"d", "d/", "d/b.nwb", ".zarr/b.nwb", "a.zarr", "a.zarr/", "é %2F/c.h5/f_dff.h5"}, (".nwb", ".zarr"))
def test_obstore_boto3_and_the_rules_find_the_same(s3: Endpoint, keys: set[str], endings: tuple[str, ...]) -> None:
    number = next(asset_numbers)
    # The empty segment makes obstore refuse the asset, so that boto3 lists it; nothing there is a match.
    by_boto3 = matches(s3, {*keys, "/README"}, *endings, asset=f"{number}-boto3")
    by_obstore = matches(s3, keys, *endings, asset=f"{number}-obstore")
    assert by_obstore == by_boto3 == sorted(reference(keys, endings))


# How S3 is asked


@dataclass(frozen=True)
class Request:
    path: str
    authorization: str | None


Answer = Callable[[Request], tuple[int, str]]


@dataclass
class Front:
    """An S3 endpoint that answers every request as it is told and keeps what it was asked."""

    answer: Answer
    url: str = ""
    requests: list[Request] = field(default_factory=list)


@contextmanager
def front_that(answer: Answer) -> Iterator[Front]:
    front = Front(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            request = Request(self.path, self.headers.get("Authorization"))
            front.requests.append(request)
            status, body = front.answer(request)
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        # A connection on which nothing is ever asked does not hold up the end.
        server.daemon_threads = True
        front.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield front
        server.shutdown()
        thread.join()


def page_of(*keys: str) -> tuple[int, str]:
    contents = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>2025-06-01T00:00:00.000Z</LastModified>"
        "<ETag>&quot;0&quot;</ETag><Size>1</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for key in keys
    )
    head = f"<Name>bucket</Name><KeyCount>{len(keys)}</KeyCount><IsTruncated>false</IsTruncated>"
    return 200, f"<ListBucketResult>{head}{contents}</ListBucketResult>"


DENIED = 403, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


DENIED_TO_ALL = "s3://bucket: AccessDenied: refused for the credentials (env): Access Denied"


def refuse_signed(request: Request) -> tuple[int, str]:
    return DENIED if request.authorization else page_of("asset/a.nwb")


@pytest.fixture
def front(s3: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """The endpoint of this test, which has one object `asset/a.nwb` in every bucket."""
    with front_that(lambda _: page_of("asset/a.nwb")) as front:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", front.url)
        yield front


def test_a_location_that_is_a_wanted_store_or_file_is_its_own_match(s3: Endpoint) -> None:
    s3.put(BUCKET, ["asset/x.ome.zarr/0", "asset/y.nwb"], b"12345")
    assert find(f"s3://{BUCKET}/asset/x.ome.zarr", ".ome.zarr") == [f"s3://{BUCKET}/asset/x.ome.zarr"]
    [file] = asyncio.run(S3(8).find_files(f"s3://{BUCKET}/asset/y.nwb", ByEnding((".nwb",))))
    assert (file.address, file.size) == (f"s3://{BUCKET}/asset/y.nwb", 5)


@pytest.mark.parametrize("key", ["asset/z.nwb", "asset/a//z.nwb", "asset/tab\t.nwb"], ids=repr)
def test_a_location_that_would_be_its_own_match_and_is_not_there_is_named(s3: Endpoint, key: str) -> None:
    s3.put(BUCKET, ["asset/z.nwb0", "asset/z.nwb-1/0"])
    with pytest.raises(RequestError) as raised:
        find(f"s3://{BUCKET}/{key}", ".nwb")
    assert raised.value.headline == f"s3://{BUCKET}/{key}: nothing is there"


def test_a_location_that_is_another_store_has_no_match_without_a_request(front: Front) -> None:
    assert find("s3://bucket/asset/x.ome.zarr", ".nwb") == []
    assert front.requests == []


def test_requests_are_signed_with_the_credentials_that_boto3_finds(
    front: Front, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = from-file\naws_secret_access_key = x\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert find("s3://bucket/asset", ".nwb") == ["s3://bucket/asset/a.nwb"]
    assert all("Credential=from-file/" in (one.authorization or "") for one in front.requests)


def test_without_credentials_requests_are_anonymous(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert find("s3://bucket/asset", ".nwb") == ["s3://bucket/asset/a.nwb"]
    assert {one.authorization for one in front.requests} == {None}


def test_where_a_signed_request_is_refused_it_is_sent_once_more_unsigned(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "job_dispatch")
    front.answer = refuse_signed
    assert find("s3://bucket/asset", ".nwb") == ["s3://bucket/asset/a.nwb"]
    assert front.requests[0].authorization
    assert front.requests[-1].authorization is None
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("INFO", "s3://bucket refuses signed requests; it is listed without credentials")
    ]


def test_once_a_bucket_has_refused_signed_requests_it_gets_no_more_of_them(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "job_dispatch")
    front.answer = refuse_signed

    async def find_thrice() -> list[str | None]:
        s3 = S3(256)
        await s3.find_files("s3://bucket/asset", ByEnding((".nwb",)))
        front.requests.clear()
        await s3.find_files("s3://bucket/asset", ByEnding((".nwb",)))
        await s3.find_files("s3://bucket/asset", ByEnding((".nwb",)))
        return [one.authorization for one in front.requests]

    assert asyncio.run(find_thrice()) == [None, None]
    assert len(caplog.records) == 1


def test_only_what_is_refused_unsigned_is_said_to_refuse_signed_requests(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "job_dispatch")
    front.answer = lambda one: DENIED if bool(one.authorization) == ("public" in one.path) else page_of()

    async def find_both() -> None:
        s3 = S3(256)
        await s3.find_files("s3://bucket/public", ByEnding((".nwb",)))
        await s3.find_files("s3://bucket/mine", ByEnding((".nwb",)))

    asyncio.run(find_both())
    assert [one.getMessage() for one in caplog.records] == [
        "s3://bucket refuses signed requests; it is listed without credentials"
    ]


def test_a_key_that_obstore_refuses_is_found_in_a_bucket_that_refuses_signed_requests(front: Front) -> None:
    front.answer = lambda one: DENIED if one.authorization else page_of("asset/a.nwb", "asset/a\tb.nwb")
    assert find("s3://bucket/asset", ".nwb") == ["s3://bucket/asset/a\tb.nwb", "s3://bucket/asset/a.nwb"]


def test_a_key_that_xml_cannot_hold_comes_out_right(front: Front) -> None:
    """Servers write U+FFFD in its place, unless they are asked to encode keys."""
    shown = {False: "asset/a\ufffdb.nwb", True: "asset/a%01b.nwb"}
    front.answer = lambda one: (
        (200, page_of(shown[True])[1].replace("<Name>", "<EncodingType>url</EncodingType><Name>"))
        if "encoding-type=url" in one.path
        else page_of(shown[False])
    )
    assert find("s3://bucket/asset", ".nwb") == ["s3://bucket/asset/a\x01b.nwb"]


def test_keys_that_do_not_begin_as_asked_are_dropped(front: Front) -> None:
    front.answer = lambda _: page_of("a.nwb", "asset", "asset/a.nwb", "asset/b.nwb", "asset0/c.nwb")
    assert find("s3://bucket/asset", ".nwb") == ["s3://bucket/asset/a.nwb", "s3://bucket/asset/b.nwb"]


def test_access_denied_is_named_with_its_bucket(front: Front) -> None:
    front.answer = lambda _: DENIED
    with pytest.raises(ServiceError, match=rf"^{re.escape(DENIED_TO_ALL)}$"):
        find("s3://bucket/asset", ".nwb")


def test_a_failure_of_the_fallback_is_named_with_its_bucket(front: Front) -> None:
    """boto3 lists the asset again because of the key with a tab; S3 refuses the second time."""
    front.answer = lambda _: page_of("asset/a\tb.nwb") if len(front.requests) == 1 else DENIED
    with pytest.raises(ServiceError, match=rf"^{re.escape(DENIED_TO_ALL)}$"):
        find("s3://bucket/asset", ".nwb")


def test_a_bucket_that_does_not_exist_is_named(s3: Endpoint) -> None:
    with pytest.raises(ServiceError, match=r"^s3://no-such-bucket: NoSuchBucket: "):
        find("s3://no-such-bucket/asset", ".nwb")


def test_an_answer_that_is_not_s3s_is_an_error_with_its_bucket(front: Front) -> None:
    front.answer = lambda _: (200, "Please log in")
    with pytest.raises(ServiceError, match=r"^s3://bucket: "):
        find("s3://bucket/asset", ".nwb")


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_the_endpoint_is_taken_from_the_environment(front: Front, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv(name, front.url)
    assert find("s3://bucket/asset", ".nwb") == ["s3://bucket/asset/a.nwb"]


def test_the_endpoint_for_s3_wins_over_the_one_for_all_services(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert find("s3://bucket/asset", ".nwb") == ["s3://bucket/asset/a.nwb"]


# Sizes


def test_a_store_measures_what_lies_in_it_and_a_single_object_its_own_bytes(s3: Endpoint) -> None:
    s3.put(BUCKET, ["asset/x.zarr/0", "asset/x.zarr/1/2", "asset/x.zarr0", "asset/y.nwb"], b"12345")
    assert asyncio.run(S3(8).measure(f"s3://{BUCKET}/asset/x.zarr")) == 10
    assert asyncio.run(S3(8).measure(f"s3://{BUCKET}/asset/y.nwb")) == 5


def test_what_is_not_there_has_no_size(s3: Endpoint) -> None:
    s3.put(BUCKET, ["asset/y.nwb"])
    with pytest.raises(ServiceError, match="nothing is there"):
        asyncio.run(S3(8).measure(f"s3://{BUCKET}/asset/z.nwb"))
