"""Folders in the results bucket that block their jobs: the wrapper refuses to write where there is one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from job_dispatch.messages import ServiceError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_AT_ONCE = 16


def existing_folders(bucket: str, names: Iterable[str]) -> set[str]:
    """Return those of these names that are folders at the top of a bucket, by few listings.

    The folders are listed in pages of a thousand, each beginning at the first name that is not yet decided, so that
    there are no more listings than names, nor than pages; names that begin otherwise are looked for meanwhile.

    Raises
    ------
    RequestError
        AWS is configured in a way that boto3 refuses.
    ServiceError
        The bucket cannot be listed.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    from job_dispatch.storage.access import find_access

    parts = [list(part) for _, part in itertools.groupby(sorted(set(names)), key=lambda name: name[:1])]
    try:
        client = find_access()[0].client(bucket)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return set().union(*pool.map(lambda part: _existing(client, bucket, part), parts))
    except (BotoCoreError, ClientError) as error:
        raise ServiceError(f"s3://{bucket} cannot be listed: {error}") from error


def _existing(client: S3Client, bucket: str, names: Sequence[str]) -> set[str]:
    """Look for sorted names that have their first character in common."""
    found: set[str] = set()
    while names:
        page = client.list_objects_v2(Bucket=bucket, Prefix=names[0][:1], Delimiter="/", StartAfter=names[0])
        folders = [prefix["Prefix"].rstrip("/") for prefix in page.get("CommonPrefixes", [])]
        found.update(set(names).intersection(folders))
        if not page["IsTruncated"]:
            break
        last = max([*folders, *(one["Key"] for one in page.get("Contents", []))])
        names = [name for name in names if name > last]
    return found
