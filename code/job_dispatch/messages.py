"""How the dispatcher speaks: its two kinds of failure, its log lines and its progress."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from tqdm import tqdm

    from job_dispatch.model import Skipped

LISTED_AT_MOST = 20
_TEXT_AT_MOST = 2_000
_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_LOOKS = 0.1

_FLAG = re.compile(r"(?<![\w-])--(\w+)(=\w+)?")
# The part between // and @ of an address.
_CREDENTIALS = re.compile(r"//[^/?#\s]*@")
# What the fields of an app panel are called, by flag; empty if flags are typed, None if Python functions are called.
_labels: Mapping[str, str] | None = None
# The arguments of Python functions that have other names than their flags.
_ARGUMENTS = {
    "use_data_asset_csv": "table",
    "from": "from_",
    "filter_latest": "latest",
    "filter_by": "by",
    "unwind_list_fields": "unwind",
    "file_extension": "endings",
    "file_pattern": "patterns",
    "parameter_schema": "schema",
    "max_number_of_tasks_dispatched": "max_jobs",
    "num_parallel_workers": "workers",
    "output_directory": "directory",
}
# Messages write no other arguments with a number, so that 0 and 1 are False and True.
_NUMBERS = ("workers", "tasks_per_job")
# Whether progress is shown; None: in a terminal and in a notebook.
_progress: ContextVar[bool | None] = ContextVar("progress", default=None)
_shown: ContextVar[Progress | None] = ContextVar("shown", default=None)

logger = logging.getLogger("job_dispatch")


class DispatchError(Exception):
    """A run that cannot go on: one sentence that names the thing, the place and the remedy, and details of it.

    At most `LISTED_AT_MOST` details are shown, with a count of the rest and the file that has all of them, where one
    was written. `skipped` is what was skipped until then.
    """

    exit_code = 1

    def __init__(self, headline: str, details: Iterable[str] = ()) -> None:
        self.headline = _without_credentials(headline)
        super().__init__(self.headline)
        self.details = tuple(map(_without_credentials, details))
        self.all_details_in = ""
        self.skipped: tuple[Skipped, ...] = ()

    def __str__(self) -> str:
        details = listed(self.details, f" (all in {self.all_details_in})" if self.all_details_in else "")
        return _labelled("\n".join([printable(self.headline), *(f"  {line}" for line in details)]))


class RequestError(DispatchError):
    """What the user asked for cannot be done: a flag, a file, a query or an asset is at fault."""

    exit_code = 2


class ServiceError(DispatchError):
    """A service or the disk failed; the same request may succeed at another time."""


@contextmanager
def carrying(skipped: Iterable[Skipped]) -> Iterator[None]:
    """Let an error carry what was skipped before it, so that a failed run can report that."""
    try:
        yield
    except DispatchError as error:
        error.skipped = (*skipped, *error.skipped)
        raise


def _without_credentials(text: str) -> str:
    return _CREDENTIALS.sub("//…@", text) if "@" in text else text


def printable(text: str, limit: int = _TEXT_AT_MOST) -> str:
    """Return `text` with control characters escaped, without passwords of addresses, and cut at `limit` characters.

    Text from records, files and services passes here before it is shown, so that it can neither
    forge a log line nor colour a terminal.
    """
    text = _without_credentials(text)
    if len(text) > limit:
        text = f"{text[:limit]}… ({len(text):,} characters)"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def listed(items: Sequence[str], where: str = "") -> list[str]:
    """Return `items` made printable: at most `LISTED_AT_MOST` of them, then a line that counts the rest."""
    lines = [printable(item) for item in items[:LISTED_AT_MOST]]
    if len(items) > LISTED_AT_MOST:
        lines.append(f"… and {len(items) - LISTED_AT_MOST:,} more{where}")
    return lines


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun: `1 asset`, `2,000 assets`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def with_unit(size: int) -> str:
    """Return a number of bytes with its unit: `8.19 GB`; 1 kB is 1,000 bytes."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} PB" if amount < 999.5 else f"{amount:,.0f} PB"


def warn_listing(headline: str, items: Sequence[str]) -> None:
    """Log a warning with at most `LISTED_AT_MOST` indented items and a count of the rest."""
    logger.warning("%s", headline, extra={"details": listed(items)})


def skip_or_refuse(
    headline: str,
    details: Sequence[str],
    skip_errors: bool,
    is_any_left: bool,
    errors: Iterable[DispatchError] = (),
) -> None:
    """Warn of what is skipped, or raise an error where `skip_errors` is false or nothing else is left.

    `errors` are what is wrong with each, if that was raised: unless all are a RequestError, a ServiceError is raised.
    """
    if skip_errors and is_any_left:
        warn_listing(f"{headline}; skipped:", details)
        return
    kind = RequestError if all(isinstance(error, RequestError) for error in errors) else ServiceError
    raise kind(f"{headline}; --skip_errors=1 skips them" if is_any_left else headline, details)


class _LogFormatter(logging.Formatter):
    """One line per message, control characters escaped; `details` follow as indented lines.

    A terminal shows the time of day on the user's clock; elsewhere times are UTC, ISO 8601.
    """

    def __init__(self) -> None:
        is_short = is_terminal()
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S" if is_short else "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.localtime if is_short else time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        record.message = printable(record.getMessage())
        record.asctime = self.formatTime(record, self.datefmt)
        details = (f"  {detail}" for detail in getattr(record, "details", ()))
        return _labelled("\n".join([self.formatMessage(record), *details]))


@contextmanager
def naming_flags(labels: Mapping[str, str]) -> Iterator[None]:
    """Write flags as they are typed meanwhile, each with its label in an app panel if there is one.

    Elsewhere they are written as arguments of Python functions.
    """
    global _labels
    before, _labels = _labels, labels
    try:
        yield
    finally:
        _labels = before


def is_in_capsule() -> bool:
    """Tell whether this runs in a capsule, where people fill in fields instead of typing flags."""
    return any(os.environ.get(name) for name in ("CO_CAPSULE_ID", "CO_PIPELINE_ID", "CO_COMPUTATION_ID"))


def _labelled(text: str) -> str:
    labels = _labels
    if labels is None:
        return _FLAG.sub(_as_argument, text)
    return _FLAG.sub(lambda flag: f'{flag[0]} ("{labels[flag[1]]}")' if flag[1] in labels else flag[0], text)


def _as_argument(flag: re.Match[str]) -> str:
    name, value = flag[1], flag[2] or ""
    argument = _ARGUMENTS.get(name, name.removeprefix("docdb_"))
    if value in ("=0", "=1") and argument not in _NUMBERS:
        value = f"={value == '=1'}"
    return f"{argument}{value}"


def _with_arguments(record: logging.LogRecord) -> bool:
    """Write flags as arguments in what Python functions log."""
    if _labels is None:
        record.msg, record.args = _labelled(record.getMessage()), ()
    return True


logger.addFilter(_with_arguments)


@contextmanager
def showing_progress(wanted: bool | None) -> Iterator[None]:
    """Show the progress of all steps inside, or show none; None changes nothing."""
    token = _progress.set(_progress.get() if wanted is None else wanted)
    try:
        yield
    finally:
        _progress.reset(token)


def configure_logging(level: str) -> None:
    """Send log lines of `level` and above to stderr.

    Libraries are held at WARNING at every level: their debug lines carry request headers and signatures.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LogFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logger.setLevel(level)


def is_terminal() -> bool:
    """Tell whether somebody watches stderr."""
    return sys.stderr is not None and sys.stderr.isatty()


def _is_notebook() -> bool:
    """Tell whether cells of a notebook run in this process."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


class Progress:
    """Counts what is done: a bar on a terminal, a log line now and then elsewhere.

    It is a share of `total`, or of the file that is read, where one of them is known.
    """

    def __init__(self, label: str, unit: str, total: int | None) -> None:
        self.done = self._objects = 0
        self._label, self._unit, self._total = label, unit, total
        self._read: float | None = None
        self._next_look = 0.0
        self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
        self.bar: tqdm[NoReturn] | None = None
        wanted = _progress.get()
        if (is_terminal() or _is_notebook()) if wanted is None else wanted:
            self.bar = _bar()(total=100 if total else None, leave=False, bar_format=self._format())

    def advance(self, number: int = 1) -> None:
        """Count `number` more as done."""
        self.done += number
        self.show()

    def see(self, objects: int) -> None:
        """Count objects of a bucket that were listed: one asset may hold millions."""
        self._objects += objects
        self.show()

    def show(self, share: Callable[[], float] | None = None) -> None:
        """Show how far it is, if it is time; `share` returns what share of a file is read, from 0 to 1."""
        now = time.monotonic()
        if now < (self._next_line if self.bar is None else self._next_look):
            return
        self._next_line, self._next_look = now + _SECONDS_BETWEEN_LINES, now + _SECONDS_BETWEEN_LOOKS
        if share is not None:
            self._read = share()
        if self.bar is None:
            done = "" if self._share is None else f"{100 * self._share:.0f}%, "
            logger.info("%s: %s%s", self._label, done, self._text())
            return
        if self._share is not None and self.bar.total is None:
            self.bar.reset(total=100)
        self.bar.bar_format = self._format()
        self.bar.n = round(100 * (self._share or 0))
        self.bar.refresh()

    @property
    def _share(self) -> float | None:
        return self.done / self._total if self._total else self._read

    def _format(self) -> str:
        share = "" if self._share is None else "{percentage:3.0f}% {bar} "
        return f"{self._label}: {share}{self._text()} [{{elapsed}}]"

    def _text(self) -> str:
        of_total = f" of {self._total:,}" if self._total is not None else ""
        objects = f", {self._objects:,} objects listed" if self._objects else ""
        return f"{self.done:,}{of_total} {self._unit}{objects}"


def _bar() -> Callable[..., tqdm[NoReturn]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a notebook without ipywidgets, which shows text
        from tqdm.auto import tqdm
    return tqdm


@contextmanager
def progress(label: str, unit: str, total: int | None = None) -> Iterator[Progress]:
    """Show how far a step is; log lines written meanwhile do not break the bar."""
    shown = Progress(label, unit, total)
    token = _shown.set(shown)
    try:
        if is_terminal() and _labels is not None:
            from tqdm.contrib.logging import logging_redirect_tqdm

            with logging_redirect_tqdm():
                yield shown
        else:
            yield shown
    finally:
        _shown.reset(token)
        if shown.bar is not None:
            shown.bar.close()


def has_read(share: Callable[[], float]) -> None:
    """Let the progress that is shown now, if any, know what share of a file is read."""
    if (shown := _shown.get()) is not None:
        shown.show(share)


def has_listed(objects: int) -> None:
    """Let the progress that is shown now, if any, know how many more objects of a bucket were listed."""
    if (shown := _shown.get()) is not None:
        shown.see(objects)
