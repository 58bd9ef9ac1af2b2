"""Whether an asset passes quality control, by the rule of the metadata's own schemas.

The rule is that of the package `aind-data-schema`: `QualityControl.status` of 1.4 for records of API version v1,
`QualityControl.evaluate_status` of 2.9 for those of v2. It cannot be a filter of the database, since it compares
times within lists, so it is applied to the projected records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from job_dispatch.messages import RequestError, carrying, counted, logger
from job_dispatch.metadata.records import Found, Record, text_of
from job_dispatch.model import Reason, Skipped
from job_dispatch.request.fields import LONG_AGO, instant

FAIL, PENDING, PASS = "Fail", "Pending", "Pass"
NONE = "no quality control"
_EVALUATIONS, _METRICS = "quality_control.evaluations", "quality_control.metrics"
_HISTORY = ("status_history.status", "status_history.timestamp")
FIELDS = (
    *(f"{_EVALUATIONS}.{part}" for part in ("modality.abbreviation", "allow_failed_metrics")),
    *(f"{_EVALUATIONS}.metrics.{part}" for part in _HISTORY),
    *(f"{_METRICS}.{part}" for part in ("modality.abbreviation", "tags", *_HISTORY)),
    "quality_control.allow_tag_failures",
)
"""What must be known of a record; without the metrics' values, which may be large."""


@dataclass(frozen=True)
class Quality:
    """Which verdict of quality control an asset needs to be analysed: `flag` is `pass`, `not_fail`, or empty for any.

    Only what concerns one of the `modalities` counts, if there are any. A status of a time later than `now` does not
    count yet.
    """

    flag: str
    modalities: Sequence[str] = ()
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def takes(self, record: Record) -> bool:
        """Tell whether a record is what is wanted."""
        return not self.flag or self._takes(judge(record, self.modalities, self.now))

    def _takes(self, verdict: str) -> bool:
        return verdict == PASS if self.flag == "pass" else verdict != FAIL

    def keep(self, found: Sequence[Found]) -> tuple[list[Found], list[Skipped]]:
        """Return those that are wanted, in their order, and the others; raises RequestError if none is left."""
        verdicts: Counter[str] = Counter()
        kept, skipped = [], []
        of = f" of {', '.join(self.modalities)}" if self.modalities else ""
        for asset, record in found:
            verdict = judge(record, self.modalities, self.now)
            if self._takes(verdict):
                kept.append((asset, record))
                continue
            verdicts[verdict] += 1
            reason = f"{verdict}{of}" if verdict == NONE else f"quality control{of}: {verdict}"
            skipped.append(Skipped.asset(Reason.QUALITY_CONTROL, asset, reason))
        told = [f"{verdict}: {counted(number, 'record')}" for verdict, number in sorted(verdicts.items())]
        if not kept:
            records = counted(len(found), "record")
            with carrying(skipped):
                raise RequestError(f"--qc={self.flag}: quality control leaves none of {records}", told)
        if told:
            logger.info("--qc=%s: %s skipped (%s)", self.flag, counted(len(skipped), "record"), ", ".join(told))
        return kept, skipped


def judge(record: Record, modalities: Sequence[str], now: datetime) -> str:
    """Return `Fail`, `Pending` or `Pass`, or that there is nothing to judge by; see `together`."""
    return together(by_modality(record, now).items(), modalities)


def by_modality(record: Record, now: datetime) -> dict[str, str]:
    """Return the verdict on each modality that was judged; "" where none is named."""
    quality = record.get("quality_control")
    if not isinstance(quality, Mapping):
        return {}
    found = [*_of_evaluations(quality, now), *_of_metrics(quality, now)]
    names = dict.fromkeys(modality for modality, _ in found)
    return {name: together(one for one in found if one[0] == name) for name in names}


def together(verdicts: Iterable[tuple[str, str]], modalities: Sequence[str] = ()) -> str:
    """Return the verdict on these modalities, or on all: any Fail fails, else any Pending is pending."""
    wanted = {modality.casefold() for modality in modalities}
    found = {verdict for modality, verdict in verdicts if not wanted or modality.casefold() in wanted}
    return next((verdict for verdict in (FAIL, PENDING, PASS) if verdict in found), NONE)


def _of_evaluations(quality: Mapping[str, Any], now: datetime) -> Iterator[tuple[str, str]]:
    """Yield modality and status of each evaluation of v1: of a metric the last status in its list counts."""
    for evaluation in _objects(quality, "evaluations"):
        metrics = _objects(evaluation, "metrics")
        histories = [[one for one in _objects(metric, "status_history") if _time(one) <= now] for metric in metrics]
        known = {_status(history[-1]) for history in histories if history}
        if FAIL in known and not evaluation.get("allow_failed_metrics"):
            yield _modality(evaluation), FAIL
        elif metrics:  # the schema refuses to judge what has no status yet
            yield _modality(evaluation), PENDING if PENDING in known or not known else PASS


def _of_metrics(quality: Mapping[str, Any], now: datetime) -> Iterator[tuple[str, str]]:
    """Yield modality and status of each metric of v2.

    Of its statuses the first of those of the latest time that has come counts, or else the first of all.
    """
    listed = quality.get("allow_tag_failures")
    allowed = {tag for tag in listed if isinstance(tag, str)} if isinstance(listed, list) else set()
    for metric in _objects(quality, "metrics"):
        history = _objects(metric, "status_history")
        come = [one for one in history if _time(one) <= now]
        status = _status(max(come, key=_time) if come else next(iter(history), {}))
        yield _modality(metric), PASS if status == FAIL and allowed.intersection(_tags(metric)) else status


def _tags(metric: Mapping[str, Any]) -> Iterator[str]:
    """Yield each tag as value and as pair; before version 2.3 of the schema tags were a list."""
    tags = metric.get("tags")
    if isinstance(tags, list):
        tags = {f"tag_{number}": tag for number, tag in enumerate(tags, 1)}
    for key, value in tags.items() if isinstance(tags, Mapping) else ():
        if isinstance(value, str):
            yield from (value, f"{key}:{value}")


def _modality(part: Mapping[str, Any]) -> str:
    modality = part.get("modality")
    return text_of(modality.get("abbreviation")) if isinstance(modality, Mapping) else ""


def _status(entry: Mapping[str, Any]) -> str:
    status = entry.get("status")
    return status if status in (FAIL, PASS) else PENDING


def _time(entry: Mapping[str, Any]) -> datetime:
    """Return when a status was given; long ago where that cannot be read."""
    return instant(entry.get("timestamp")) or LONG_AGO


def _objects(parent: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = parent.get(key)
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
