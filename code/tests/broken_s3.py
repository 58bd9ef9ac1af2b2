"""An S3 stand-in whose answers are cut short, or none that S3 would give."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from tests.s3_front import S3Front

Change = Callable[[Mapping[str, list[str]], str], str]
# What only version 2 of the listing API knows, and `encoding-type`, which few servers of version 1 do.
NOT_IN_VERSION_1 = ("list-type", "continuation-token", "start-after", "encoding-type")


def as_it_is(_: Mapping[str, list[str]], text: str) -> str:
    return text


class Broken(S3Front):
    """A stand-in whose answers are changed before they are sent, and that may ignore what it is asked.

    Tests change `change`, a function of the parameters of a request and of the answer's text, and `ignored`, the names
    of parameters.
    """

    def __init__(self, buckets: Mapping[str, Iterable[str]]) -> None:
        super().__init__(buckets)
        self.change: Change = as_it_is
        self.ignored: tuple[str, ...] = ()

    def respond(self, method: str, bucket: str, asked: Mapping[str, list[str]]) -> tuple[int, str]:
        known = {name: values for name, values in asked.items() if name not in self.ignored}
        status, text = super().respond(method, bucket, known)
        return status, self.change(asked, text) if method == "GET" and status == 200 else text


def is_first(asked: Mapping[str, list[str]]) -> bool:
    return not {"start-after", "continuation-token"} & set(asked)


def no_token(_: Mapping[str, list[str]], text: str) -> str:
    return re.sub("<NextContinuationToken>.*</NextContinuationToken>", "", text)


def of_version_1(asked: Mapping[str, list[str]], text: str) -> str:
    return no_token(asked, re.sub("<KeyCount>.*</KeyCount>", "", text))


def error_after_the_first_page(asked: Mapping[str, list[str]], text: str) -> str:
    return text if is_first(asked) else "<Error><Code>InternalError</Code><Message>no</Message></Error>"


def page_of_the_web_after_the_first_page(asked: Mapping[str, list[str]], text: str) -> str:
    return text if is_first(asked) else '<html xmlns="http://www.w3.org/1999/xhtml"><body/></html>'


def nothing_after_the_first_page(asked: Mapping[str, list[str]], text: str) -> str:
    return text if is_first(asked) else "<ListBucketResult/>"


def empty_and_truncated(_: Mapping[str, list[str]], text: str) -> str:
    head = "<Name>bucket</Name><KeyCount>0</KeyCount><IsTruncated>true</IsTruncated>"
    return f"<ListBucketResult>{head}<NextContinuationToken>again</NextContinuationToken></ListBucketResult>"


def no_size(_: Mapping[str, list[str]], text: str) -> str:
    return re.sub("<Size>.*?</Size>", "", text)


def size_that_is_no_number(_: Mapping[str, list[str]], text: str) -> str:
    return re.sub("<Size>.*?</Size>", "<Size>many</Size>", text)


def no_date(_: Mapping[str, list[str]], text: str) -> str:
    return re.sub("<LastModified>.*?</LastModified>", "", text)


def date_that_is_none(_: Mapping[str, list[str]], text: str) -> str:
    return re.sub("<LastModified>.*?</LastModified>", "<LastModified>today</LastModified>", text)
