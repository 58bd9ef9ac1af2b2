"""How DocDB is asked: one connection to its REST gateway, with limits, retries and a sentence for each failure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import requests
from aind_data_access_api.document_db import MetadataDbClient

from job_dispatch import retrying
from job_dispatch.messages import RequestError, ServiceError, printable
from job_dispatch.metadata.records import Filter, Record
from job_dispatch.request import json_text

_ANSWER_SHOWN = 200
_AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

Pipeline = list[dict[str, Any]]


class Connection:
    """A connection to one collection; for one question at a time.

    Parameters
    ----------
    host : str
        Host name, with a port if need be; always asked over TLS.
    version, database, collection : str
        Parts of the address: `https://host/version/database/collection/…`.
    timeout : float
        Seconds that one answer may take altogether.
    is_told : bool
        Whether further tries are logged.

    Raises
    ------
    RequestError
        The environment names certificates to trust that are not there.
    """

    def __init__(
        self, host: str, version: str, database: str, collection: str, timeout: float, is_told: bool = True
    ) -> None:
        _check_authorities()
        self._host, self._is_told, self._is_closed = host, is_told, False
        self._session = retrying.Session(timeout)
        self._client = MetadataDbClient(host, database, collection, version, session=self._session)

    def close(self) -> None:
        """Let the connection go; what is still asked is not asked again."""
        self._is_closed = True
        self._session.close()

    def ask(self, pipeline: Pipeline, query: Filter, within: float | None = None) -> list[Record] | None:
        """Run a pipeline, or return None where the answer was too large: every call to DocDB passes here.

        Raises
        ------
        RequestError
            DocDB refuses the query.
        ServiceError
            It does not answer, or what it answers is no list of records.
        """
        try:
            answer = self._answer(pipeline, within)
        except requests.HTTPError as error:
            if retrying.status(error) == requests.codes.request_entity_too_large:
                return None
            raise self._refused(error, query) from error
        except requests.JSONDecodeError as error:
            raise self._not_json() from error
        except requests.exceptions.SSLError as error:
            raise ServiceError(
                f"DocDB {self._host}: no trusted connection; REQUESTS_CA_BUNDLE may name another authority"
            ) from error
        except requests.Timeout as error:
            raise ServiceError(
                f"DocDB {self._host}: no answer in time; try again, or allow more by --docdb_timeout"
            ) from error
        except requests.RequestException as error:
            raise ServiceError(f"DocDB {self._host}: no connection; check --docdb_host and the network") from error
        except (ValueError, RecursionError) as error:  # numbers or lists without end
            raise self._not_json() from error
        if not isinstance(answer, list) or not all(isinstance(one, dict) for one in answer):
            raise ServiceError(f"DocDB {self._host}: the answer is not a list of records: {shown(answer)}")
        return list(answer)

    def _answer(self, pipeline: Pipeline, within: float | None) -> object:
        """Post a pipeline, and again where that may help: `aggregate` only reads."""
        self._session.limit = within
        service = "DocDB" if self._is_told else None
        return retrying.retried(lambda: self._post(pipeline), service, within)

    def _post(self, pipeline: Pipeline) -> object:
        if self._is_closed:
            raise ServiceError(f"DocDB {self._host}: the connection is closed")
        return self._client.aggregate_docdb_records(pipeline)

    def _not_json(self) -> ServiceError:
        text = printable(self._session.answer.text, _ANSWER_SHOWN)
        return ServiceError(f"DocDB {self._host}: the answer is not JSON: {text}")

    def _refused(self, error: requests.HTTPError, query: Filter) -> RequestError | ServiceError:
        status, response = retrying.status(error), error.response
        message = printable(response.text if response is not None else "", _ANSWER_SHOWN) or "no reason given"
        if status == requests.codes.bad_request:
            return RequestError(
                f"DocDB {self._host} refuses the query: {message}", [f"query: {json_text.compact(query)}"]
            )
        wait = retrying.retry_after(error)
        asks = f", which asks to wait {wait:,.0f} s (Retry-After)" if wait is not None else ""
        return ServiceError(f"DocDB {self._host}: HTTP {status}{asks}: {message}")


def shown(answer: object) -> str:
    """Return the start of an answer as text."""
    return printable(json_text.compact(answer), _ANSWER_SHOWN)


def _check_authorities() -> None:
    name = next((name for name in _AUTHORITIES if os.environ.get(name)), None)
    if name is not None and not Path(os.environ[name]).exists():
        raise RequestError(
            f"environment variable {name}: no such file: {os.environ[name]}; give the PEM file of the authorities to"
            " trust, or take the variable away"
        )
