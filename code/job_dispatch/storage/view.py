"""One bucket as one kind of access sees it: by obstore, and by boto3."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError, SSLError
from obstore.exceptions import InvalidPathError

from job_dispatch.messages import ServiceError, logger
from job_dispatch.storage import access as limits
from job_dispatch.storage.access import Access
from job_dispatch.storage.dividing import Experience
from job_dispatch.storage.failures import Failure, describe, is_without_connection
from job_dispatch.storage.slots import Turn
from job_dispatch.storage.sources import BucketSource, ByBoto3, ByObstore, UnfitError

if TYPE_CHECKING:
    from types_boto3_s3.type_defs import ListObjectsV2OutputTypeDef

Answer = TypeVar("Answer")
# What is asked of a bucket: who sees it, by which client, and whose turn it is.
Question = Callable[["View", BucketSource, Turn], Awaitable[Answer]]


class View:
    """One bucket as one kind of access sees it; made in a thread, since boto3 may ask for the region."""

    def __init__(self, bucket: str, access: Access) -> None:
        self._bucket, self._access = bucket, access
        self._client = access.client(bucket)
        # Without a user and password, should the address carry them.
        self._endpoint = re.sub("//[^/]*@", "//", self._client.meta.endpoint_url)
        self._is_confirmed = False
        self.is_by_boto3 = False
        # Set with the first answer, be it a refusal; who is first to ask holds `reaching` until then.
        self.is_reached = asyncio.Event()
        self.reaching = asyncio.Lock()
        self.has_boto3_answered = False
        self.by_obstore = ByObstore(access.store(bucket, self._client), self.is_reached)
        self.by_boto3 = ByBoto3(bucket, self._client, self.is_reached)
        is_aws = (urlsplit(self._endpoint).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))
        # What was learnt by looking for matches, and by measuring.
        self.finding, self.measuring = Experience(is_aws), Experience(is_aws)

    async def ask(self, prefix: str, question: Question[Answer], turn: Turn) -> Answer:
        """Ask by obstore, and by boto3 what obstore does not take."""
        # obstore would drop a leading `/`, and refuses a whole listing for one key (or the prefix) with an
        # empty segment, `.`, `..` or a control character.
        if not self.is_by_boto3 and not prefix.startswith("/"):
            try:
                return await question(self, self.by_obstore, turn)
            except (InvalidPathError, ValueError, UnfitError):
                logger.debug("s3://%s/%s holds keys that only boto3 lists", self._bucket, prefix)
        return await question(self, self.by_boto3, turn)

    def stay_with_boto3(self) -> None:
        """Ask by boto3 alone from here on: it could connect, and obstore could not."""
        if not self.is_by_boto3:
            self.is_by_boto3 = True
            logger.info("s3://%s: only boto3 can connect to %s; listing takes longer", self._bucket, self._endpoint)

    async def confirm_answers(self, prefix: str, turn: Turn) -> None:
        """Make sure that no match means no match: obstore takes any well-formed XML for an empty listing."""
        if not self._is_confirmed:
            async with turn.request:
                answer = await asyncio.to_thread(self._first_key, prefix)
            if "KeyCount" not in answer and "Name" not in answer:
                raise ServiceError(f"s3://{self._bucket}: the answer of {self._endpoint} is not that of S3")
            self._is_confirmed = True

    def _first_key(self, prefix: str) -> ListObjectsV2OutputTypeDef:
        return self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=1)

    def look_for_connection(self, prefix: str) -> Failure | None:
        """Return what is in the way of a connection, None where there is one."""
        client = self._access.impatient_client(self._client)
        for pause in (1.0, None):
            try:
                client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=1)
            except (BotoCoreError, ClientError) as error:
                if not is_without_connection(error):
                    return None
                if pause is None or isinstance(error, SSLError):
                    return self.describe(error)
                time.sleep(pause)
            else:
                self.has_boto3_answered = True
                return None
        return None

    def explain(self, prefix: str, error: Exception) -> Failure | None:
        """Return why a listing failed, None where boto3 can list.

        obstore raises one error for most causes, so boto3 asks once more: its errors carry S3's code.
        """
        if "TimedOut" in str(error):
            return Failure(f"no answer from {self._endpoint} within {limits.RETRY_SECONDS} s", is_of_bucket=True)
        if isinstance(error, BotoCoreError | ClientError):
            return self.describe(error)
        try:
            self._first_key(prefix)
        except (BotoCoreError, ClientError) as failed:
            return self.describe(failed)
        return None

    def describe(self, error: BotoCoreError | ClientError) -> Failure:
        """Return what an error of boto3 means for the user."""
        return describe(error, self._endpoint, self._access.identity)
