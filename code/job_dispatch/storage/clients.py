"""How a bucket is asked: by obstore, which is fast, and by boto3, which takes any key and shows each answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol, overload

import obstore
from botocore.exceptions import ClientError

from job_dispatch.storage.keys import NO_KEYS, PAGE_SIZE, Level, NothingSeenError, Page, Source, level_of

if TYPE_CHECKING:
    from arro3.core import RecordBatch
    from obstore import ListStream
    from obstore.store import S3Store
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import ListObjectsV2OutputTypeDef

# What servers write for a character that XML cannot hold, unless they are asked to encode keys, as boto3 does.
_REPLACED = "\ufffd"
# Answers in a row that hold no key and tell to ask on; S3 gives some where many objects were removed.
_EMPTY_ANSWERS = 100

# For so many folders of exactly one full page it is asked again whether they end there, for each asset.
_ENDS_CHECKED = 3

NO_ADVANCE = "tells to ask on, but the listing does not advance"


class UnfitError(Exception):
    """What obstore is not believed, so that boto3 is asked: keys that it does not get as they are, or an end."""

    def __init__(self, reason: str, is_of_keys: bool = False) -> None:
        super().__init__(reason)
        self.is_of_keys = is_of_keys


class BadAnswerError(Exception):
    """An answer of S3 that cannot be true, or is none; in words that go on after `the answer`."""


class NothingThereError(Exception):
    """Neither an object nor a folder is at a key."""


class Client(Source, Protocol):
    """A bucket, asked by some library."""

    async def look(self, key: str) -> tuple[int | None, str]:
        """Return the bytes and the version of the object at a key; None and nothing where a folder is there.

        Raises
        ------
        NothingThereError
            There is neither.
        """
        ...

    async def read(self, key: str) -> bytes:
        """Return the bytes of the object at a key. Raises `NothingThereError` where there is none."""
        ...


class ByObstore:
    """A bucket, asked by obstore for one asset; pages come as Arrow: only what is used becomes Python objects.

    obstore takes each well-formed document for an answer, and one without a token for the last. So it is not believed
    that nothing (more) is there where a document that is no listing would say the same: it is asked for the last key
    once more. Only that a folder holds exactly one full page it is believed, once it was right about that for some
    folders of the asset.
    """

    def __init__(self, store: S3Store) -> None:
        self.store = store
        # Listings that may go on, by their prefix and last key: they know without a request whether a full page ended.
        self._begun: dict[tuple[str, str], ListStream[RecordBatch]] = {}
        # The last keys of full pages, each with the key before it.
        self._before: dict[str, str] = {}
        # The last keys of full first pages, by their prefix.
        self._first_pages: dict[str, str] = {}
        self._ends_checked = 0

    async def level(self, folder: str) -> Level:
        """List what lies directly in a folder."""
        listed = await obstore.list_with_delimiter_async(self.store, folder or None)
        objects, folders = listed["objects"], [f"{path}/" for path in listed["common_prefixes"]]
        if (len(objects) + len(folders)) % PAGE_SIZE == 0:
            raise UnfitError("it ends with a full page, or is empty")
        # The marker of a folder shows up as an object with the folder's own path: it is no file.
        files = {one["path"]: (one["size"], one["e_tag"] or "") for one in objects if one["path"] != folder[:-1]}
        _refuse_replaced((*files, *folders))
        return _below(folder, files, folders)

    async def page(self, prefix: str, after: str, is_guess: bool = False) -> Page:
        """List the first keys below a prefix that come after a key."""
        offset = None if after == prefix else after
        begun, before = self._begun.pop((prefix, after), None), self._before.pop(after, None)
        batches = begun or obstore.list(self.store, prefix, offset=offset, chunk_size=PAGE_SIZE, return_arrow=True)
        batch = await anext(batches, None)
        if batch is None and is_guess:
            raise NothingSeenError
        if batch is None:
            is_one_page = begun is not None and self._first_pages.get(prefix) == after
            if (is_one_page and self._ends_checked >= _ENDS_CHECKED) or await self._is_end(prefix, before, after):
                return NO_KEYS
            raise UnfitError("it is empty")
        keys: Sequence[str] = batch["path"].to_pylist()  # type: ignore[assignment]
        sizes: Sequence[Any] = _Column(batch, "size")
        versions: Sequence[Any] = _Column(batch, "e_tag")
        _refuse_replaced(keys)
        if not (keys[0] > after and keys[0].startswith(prefix) and keys == sorted(keys)):
            keys, sizes, versions = _repaired(keys, sizes, versions, prefix, after)
            if not _advances(keys, after):
                raise UnfitError("it does not advance")
        is_last = batch.num_rows < PAGE_SIZE
        if not keys and not is_last:
            raise UnfitError("nothing of it is below the prefix")
        if not is_last:
            self._begun[prefix, keys[-1]], self._before[keys[-1]] = batches, keys[-2:][0]
            if after == prefix:
                self._first_pages[prefix] = keys[-1]
        return Page(keys, sizes, versions, is_last)

    async def _is_end(self, prefix: str, before: str | None, last: str) -> bool:
        """Tell whether a key is the last one, by asking for it once more: an answer without it would be no listing."""
        if before is None or not before.startswith(prefix):
            return False
        self._ends_checked += 1
        again = await anext(obstore.list(self.store, prefix, offset=before, return_arrow=True), None)
        return again is not None and again["path"].to_pylist() == [last]

    async def look(self, key: str) -> tuple[int | None, str]:
        """Return the bytes and the version of the object at a key; None and nothing where a folder is there."""
        try:
            found = await obstore.head_async(self.store, key)
        except FileNotFoundError:
            await self.page(f"{key}/", f"{key}/")  # an empty one is not believed
            return None, ""
        return found["size"], found["e_tag"] or ""

    async def read(self, key: str) -> bytes:
        """Return the bytes of the object at a key."""
        try:
            return bytes(await (await obstore.get_async(self.store, key)).bytes_async())
        except FileNotFoundError:
            raise NothingThereError from None


def _advances(keys: Sequence[str], after: str) -> bool:
    """Tell whether keys come after one, be it as text or by folders."""
    by_folders = after.replace("/", "\0")
    return all(key > after or key.replace("/", "\0") > by_folders for key in keys)


def _refuse_replaced(names: Iterable[str]) -> None:
    if _REPLACED in "\n".join(names):
        raise UnfitError("keys with characters that XML cannot hold", is_of_keys=True)


def _below(folder: str, files: dict[str, tuple[int, str]], folders: Iterable[str]) -> Level:
    """Return what lies in a folder, without what some servers add that does not."""
    within = {key: one for key, one in files.items() if key.startswith(folder)}
    return level_of(within, [one for one in folders if one.startswith(folder) and one != folder])


def _repaired(
    keys: Sequence[str], sizes: Sequence[int], versions: Sequence[str], prefix: str, after: str
) -> tuple[Sequence[str], Sequence[int], Sequence[str]]:
    """Give the markers of folders their slashes back, which obstore drops, and leave out what is not below a prefix.

    A marker without its slash is in the wrong place: `a/x/` comes after `a/x-1`, `a/x` would come before it.
    """
    kept: list[tuple[str, int, str]] = []
    last = after
    for key, size, version in zip(keys, sizes, versions, strict=True):
        whole = f"{key}/" if size == 0 and key <= last and f"{key}/" > last else key
        last = max(last, whole)
        if whole.startswith(prefix) and whole != prefix:
            kept.append((whole, size, version))
    return [one[0] for one in kept], [one[1] for one in kept], [one[2] for one in kept]


class _Column(Sequence[Any]):
    """A column of a batch, which becomes Python objects when one is asked for."""

    def __init__(self, batch: RecordBatch, name: str) -> None:
        self._batch, self._name = batch, name
        self._values: list[Any] = []

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: Any) -> Any:
        if not self._values:
            self._values = self._batch[self._name].to_pylist()  # type: ignore[assignment]
        return self._values[index]

    def __len__(self) -> int:
        return self._batch.num_rows


class ByBoto3:
    """A bucket, asked by boto3 in threads: slower, but it takes any key, and each answer is checked."""

    def __init__(self, bucket: str, client: S3Client) -> None:
        self._bucket, self._client = bucket, client

    async def level(self, folder: str) -> Level:
        """List what lies directly in a folder."""
        return await asyncio.to_thread(self._level, folder)

    def _level(self, folder: str) -> Level:
        files: dict[str, tuple[int, str]] = {}
        folders: list[str] = []
        for answer in self._answers(Prefix=folder, Delimiter="/"):
            files.update((key, one) for key, one in _objects(answer) if key != folder)
            folders.extend(one["Prefix"] for one in answer.get("CommonPrefixes", ()))
        return _below(folder, files, folders)

    async def page(self, prefix: str, after: str, is_guess: bool = False) -> Page:
        """List the first keys below a prefix that come after a key."""
        return await asyncio.to_thread(self._page, prefix, after)

    def _page(self, prefix: str, after: str) -> Page:
        for answer in self._answers(Prefix=prefix, StartAfter="" if after == prefix else after):
            found = [(key, one) for key, one in _objects(answer) if key.startswith(prefix) and key != prefix]
            if not _advances([key for key, _ in found], after):
                raise BadAnswerError(NO_ADVANCE)
            if found or not answer["IsTruncated"]:
                columns = [key for key, _ in found], [one[0] for _, one in found], [one[1] for _, one in found]
                return Page(*columns, not answer["IsTruncated"])
        return NO_KEYS

    def _answers(self, **asked: Any) -> Iterator[ListObjectsV2OutputTypeDef]:
        """Yield the answers to a listing, each of them checked.

        Raises
        ------
        BadAnswerError
            One is no listing, or cannot be gone on with.
        """
        tokens: set[str] = set()
        empty = 0
        while True:
            answer = check_listing(self._client.list_objects_v2(Bucket=self._bucket, **asked))
            yield answer
            if not answer["IsTruncated"]:
                return
            token = answer["NextContinuationToken"]
            empty = 0 if answer.get("Contents") or answer.get("CommonPrefixes") else empty + 1
            if token in tokens or empty > _EMPTY_ANSWERS:
                raise BadAnswerError(NO_ADVANCE)
            tokens.add(token)
            asked["ContinuationToken"] = token

    def first_key(self, start: str) -> str | None:
        """Return the first key that begins so."""
        answer = check_listing(self._client.list_objects_v2(Bucket=self._bucket, Prefix=start, MaxKeys=1))
        return next((one["Key"] for one in answer.get("Contents", ())), None)

    async def has_object(self, key: str) -> bool:
        """Tell whether there is an object at a key."""
        return await asyncio.to_thread(self.first_key, key) == key

    async def look(self, key: str) -> tuple[int | None, str]:
        """Return the bytes and the version of the object at a key; None and nothing where a folder is there."""
        return await asyncio.to_thread(self._look, key)

    def _look(self, key: str) -> tuple[int | None, str]:
        try:
            found = self._client.head_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != HTTPStatus.NOT_FOUND:
                raise
        else:
            return found["ContentLength"], found.get("ETag", "")
        if not self._page(f"{key}/", f"{key}/").keys:
            raise NothingThereError
        return None, ""

    async def read(self, key: str) -> bytes:
        """Return the bytes of the object at a key."""
        return await asyncio.to_thread(self._read, key)

    def _read(self, key: str) -> bytes:
        try:
            return self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except self._client.exceptions.NoSuchKey:
            raise NothingThereError from None


def check_listing(answer: ListObjectsV2OutputTypeDef) -> ListObjectsV2OutputTypeDef:
    """Return an answer to `ListObjectsV2` if it is one, and says how to go on if there is more.

    Raises
    ------
    BadAnswerError
        It is another document, lacks the size of an object, or how to go on.
    """
    if "IsTruncated" not in answer or not ("Name" in answer or "KeyCount" in answer or "Contents" in answer):
        raise BadAnswerError("is not a listing of S3")
    if any("Key" not in one or "Size" not in one for one in answer.get("Contents", ())):
        raise BadAnswerError("lacks the key or the size of an object")
    if answer["IsTruncated"] and not answer.get("NextContinuationToken"):
        raise BadAnswerError("lacks the token to ask for more keys; it must speak version 2 of the listing API of S3")
    return answer


def _objects(answer: ListObjectsV2OutputTypeDef) -> list[tuple[str, tuple[int, str]]]:
    return [(one["Key"], (one["Size"], one.get("ETag", ""))) for one in answer.get("Contents", ())]
