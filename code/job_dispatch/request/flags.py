"""All flags: each is declared once, as a field of `Settings`, from which parser and help are made."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import json
import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from job_dispatch.messages import RequestError, warn_listing
from job_dispatch.model import Grouping
from job_dispatch.request import file_patterns, values

_WHAT = "what to analyse"
_FILES = "files"
_PARAMETERS = "parameters"
_WORKERS = "worker folders"
_PLACE = "where things are"
_LOOK = "looking and reporting"
_SERVICES = "DocDB and S3"


_READ_BY_THE_PUBLIC_DISPATCHER = frozenset(
    [
        *("docdb_query", "use_data_asset_csv", "file_extension", "split_files", "tasks_per_job", "group_by"),
        *("max_number_of_tasks_dispatched", "filter_by", "filter_latest", "unwind_list_fields", "drop_null_groups"),
        *("input_directory", "output_directory", "dry_run"),
    ]
)
_VARIABLE = re.compile(r"\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*\S")


class Flag(NamedTuple):
    """How a flag is described and read; `absent` is its value if it has no default and is blank or not given."""

    group: str
    takes: str
    meaning: str
    default: str
    convert: Callable[[str], Any]
    absent: Any


def _flag(
    group: str,
    takes: str,
    meaning: str,
    default: str = "",
    convert: Callable[[str], Any] = str,
    absent: Any = None,
    otherwise: Any = None,
) -> Any:
    """Declare a flag; `otherwise` is the value of the field where the environment decides and says nothing."""
    value = otherwise or (convert(default) if default else absent)
    return dataclasses.field(default=value, metadata={"flag": Flag(group, takes, meaning, default, convert, absent)})


@dataclass(frozen=True)
class Settings:
    """The checked values of all flags; each is a field of the same name, in the order of `--help`."""

    subject: tuple[str, ...] = _flag(_WHAT, "IDS", "mice to analyse, comma separated", convert=values.words, absent=())
    project: tuple[str, ...] = _flag(
        _WHAT, "NAMES", "projects to analyse, comma separated", convert=values.words, absent=()
    )
    modality: tuple[str, ...] = _flag(
        _WHAT, "NAMES", "modalities to analyse in short (ecephys), comma separated", convert=values.words, absent=()
    )
    # `from` is a word of Python's.
    from_: date | None = _flag(_WHAT, "DAY", "first day of the sessions, such as 2025-06-07", convert=values.day)
    to: date | None = _flag(_WHAT, "DAY", "last day of the sessions", convert=values.day)
    docdb_query: str | None = _flag(
        _WHAT, "QUERY", "JSON query, or path of a file with it, as given or inside the input directory"
    )
    use_data_asset_csv: bool | Path = _flag(
        _WHAT,
        "0|1|FILE",
        "1: take the assets from the table (CSV, XLSX) in the input directory; or the path of a table",
        "0",
        values.switch_or_path,
    )
    qc: str | None = _flag(
        _WHAT,
        "pass|not_fail",
        "only assets that pass quality control, or do not fail it",
        convert=values.one_of("pass", "not_fail"),
    )
    group_by: tuple[str, ...] = _flag(
        _WHAT, "FIELDS", "record fields, comma separated: one job a group", convert=values.fields, absent=()
    )
    filter_latest: str | None = _flag(
        _WHAT, "FIELD", "keep only the record with the greatest value of it", convert=values.field
    )
    filter_by: tuple[str, ...] = _flag(
        _WHAT, "FIELDS", "for each distinct value of these fields", convert=values.fields, absent=()
    )
    unwind_list_fields: tuple[str, ...] = _flag(
        _WHAT, "FIELDS", "spread the lists of these fields before grouping", convert=values.fields, absent=()
    )
    drop_null_groups: bool = _flag(_WHAT, "0|1", "1: leave out records without a value to group by", "1", values.switch)
    with_raw: bool = _flag(
        _WHAT, "0|1", "1: put each derived asset and the raw one that it was made from into one job", "0", values.switch
    )
    sample: int | None = _flag(
        _WHAT, "N", "take only N assets (or groups), spread over subjects and days: for a trial", convert=values.count
    )
    skip_processed: bool = _flag(
        _WHAT, "0|1", "1: leave out jobs whose results are in the results database", "0", values.switch
    )
    exclude: str | None = _flag(_WHAT, "FILE", "jobs.csv of an earlier run, or a file of assets, to leave out")
    file_extension: tuple[str, ...] = _flag(
        _FILES,
        "ENDINGS",
        "endings of the files to look for, comma separated",
        convert=values.endings,
        absent=(),
    )
    file_pattern: tuple[str, ...] = _flag(
        _FILES,
        "PATTERNS",
        "patterns of files within an asset as git's ignore files have them, comma separated; ! leaves out",
        convert=file_patterns.patterns,
        absent=(),
    )
    require_files: bool = _flag(
        _FILES, "0|1", "1: skip assets without a match for each ending or pattern", "0", values.switch
    )
    split_files: bool = _flag(_FILES, "0|1", "1: one job a matched file; 0: one job an asset", "1", values.switch)
    analysis_parameters: str | None = _flag(
        _PARAMETERS, "FILE", "parameters file to use instead of analysis_parameters.json in the input directory"
    )
    parameter_schema: str | None = _flag(_PARAMETERS, "FILE", "JSON Schema that every parameter set must meet")
    num_parallel_workers: int | None = _flag(
        _WORKERS,
        "N",
        "at most this many worker folders, 50 if not given; in a Code Ocean pipeline one per job if not given",
        convert=values.count,
    )
    tasks_per_job: int | None = _flag(
        _WORKERS, "N", "jobs a worker folder; decides the number of folders instead", convert=values.count
    )
    balance: str = _flag(
        _WORKERS,
        "count|size",
        "share out by number of jobs, or by bytes",
        "count",
        values.one_of("count", "size"),
    )
    max_number_of_tasks_dispatched: int | None = _flag(_WORKERS, "N", "at most this many jobs", convert=values.count)
    query_in_jobs: bool = _flag(_WORKERS, "0|1", "0: leave the query out of job files", "1", values.switch)
    input_directory: Path = _flag(_PLACE, "DIR", "where query, table and parameters are", "data", values.path)
    output_directory: Path = _flag(_PLACE, "DIR", "where worker folders go", "results", values.path)
    overwrite: bool = _flag(_PLACE, "0|1", "1: replace the worker folders of an earlier run", "0", values.switch)
    dry_run: bool = _flag(_LOOK, "0|1", "1: show what would be dispatched and write no jobs", "0", values.switch)
    describe: bool = _flag(
        _LOOK, "0|1", "1: show what there is to select, and what selects it; no jobs", "0", values.switch
    )
    report_directory: Path | None = _flag(
        _LOOK, "DIR", "write a report of the run into this folder", convert=values.path
    )
    skip_errors: bool = _flag(_LOOK, "0|1", "1: go on without assets that could not be read", "0", values.switch)
    log_level: str = _flag(
        _LOOK,
        "LEVEL",
        "least level of log lines: DEBUG, INFO, WARNING, ERROR",
        "INFO",
        values.one_of("DEBUG", "INFO", "WARNING", "ERROR"),
    )
    metadata_catalog: Path | None = _flag(
        _SERVICES, "FILE", "file of metadata records to use instead of DocDB", convert=values.path
    )
    docdb_host: str = _flag(
        _SERVICES,
        "HOST",
        f"host of DocDB; else DOCDB_HOST, else {values.PRODUCTION_HOST}",
        convert=values.host,
        otherwise=values.PRODUCTION_HOST,
    )
    docdb_version: str = _flag(
        _SERVICES, "VERSION", "version of its API; else DOCDB_VERSION, else v1", convert=values.name, otherwise="v1"
    )
    docdb_database: str = _flag(_SERVICES, "NAME", "database of the metadata", "metadata_index", values.name)
    docdb_collection: str = _flag(_SERVICES, "NAME", "collection of the metadata", "data_assets", values.name)
    docdb_timeout: int = _flag(
        _SERVICES, "SECONDS", "how long one answer of DocDB may take altogether", "60", values.seconds
    )
    max_concurrency: int = _flag(_SERVICES, "N", "at most this many requests to S3 in flight", "256", values.count)

    @property
    def wants_files(self) -> bool:
        """Whether files of the assets are looked for."""
        return bool(self.file_extension or self.file_pattern)

    @property
    def source(self) -> str:
        """Where records come from."""
        if self.metadata_catalog is not None:
            return f"catalog {self.metadata_catalog}"
        return f"DocDB {self.docdb_host} {self.docdb_version} {self.docdb_database}/{self.docdb_collection}"

    @property
    def is_described(self) -> bool:
        """Whether assets are described by project, subject and day."""
        return self.dry_run or self.report_directory is not None or self.sample is not None

    @property
    def grouping(self) -> Grouping:
        """How to arrange the selected records."""
        return Grouping(
            self.group_by, self.filter_latest, self.filter_by, self.unwind_list_fields, self.drop_null_groups
        )


def declared() -> dict[str, Flag]:
    """Return all flags by their names without dashes, in the order of `--help`."""
    return {field.name.rstrip("_"): field.metadata["flag"] for field in dataclasses.fields(Settings)}


def parse(argv: Sequence[str] | None, version: str, home: Path = Path()) -> Settings:
    """Return the settings that the flags ask for; an empty value means the default.

    `home` is the folder of `data` and `results`, where no flag names others.

    Raises
    ------
    RequestError
        A flag is unknown or its value is not one that it takes.
    """
    given = vars(build_parser(version, home).parse_args(argv))
    defaults = Settings()
    given["docdb_host"] = given["docdb_host"] or _from_environment("DOCDB_HOST", values.host) or defaults.docdb_host
    given["docdb_version"] = (
        given["docdb_version"] or _from_environment("DOCDB_VERSION", values.name) or defaults.docdb_version
    )
    settings = Settings(**given)
    _check_combinations(settings)
    return settings


def arguments(settings: Settings, home: Path, without: Collection[str]) -> list[str]:
    """Return the flags that ask for these settings, but for some; those with the default value are not needed."""
    defaults = _at_home(home)
    names = zip(dataclasses.fields(Settings), declared(), strict=True)
    values = {name: (getattr(settings, field.name), getattr(defaults, field.name)) for field, name in names}
    return [
        f"--{name}={text_of(value)}"
        for name, (value, default) in values.items()
        if name not in without and value != default
    ]


def _at_home(home: Path) -> Settings:
    defaults = Settings()
    return dataclasses.replace(
        defaults, input_directory=home / defaults.input_directory, output_directory=home / defaults.output_directory
    )


def text_of(value: Any) -> str:
    """Return a value as its flag takes it; a list as JSON if a comma in an element would split it."""
    if isinstance(value, tuple):
        return json.dumps(value) if any("," in one for one in value) else ",".join(value)
    return str(int(value)) if isinstance(value, bool) else str(value)


def warn_of_ignored(argv: Sequence[str], home: Path) -> None:
    """Warn of flags in the environment, and in `.env` beside the code, which only the public dispatcher reads."""
    given = {argument.partition("=")[0].removeprefix("--") for argument in argv}
    set_here = [(name, "the environment") for name in os.environ if name.lower() in _READ_BY_THE_PUBLIC_DISPATCHER]
    for path in dict.fromkeys((home / "code" / ".env", Path(".env"))):
        with contextlib.suppress(OSError):
            lines = path.read_text(errors="replace").splitlines()
            set_here += [(found[1], str(path)) for line in lines if (found := _VARIABLE.match(line))]
    flags = declared()
    ignored = [
        f"{name} in {place}; give --{name.lower()}"
        if name.lower() in flags
        else f"{name} in {place}; set it in the environment"
        for name, place in set_here
        if name.lower() not in given and (name.lower() in flags or name not in os.environ)
    ]
    if ignored:
        warn_listing("set for the public dispatcher and ignored here:", ignored)


def _check_combinations(settings: Settings) -> None:
    if settings.from_ and settings.to and settings.from_ > settings.to:
        raise RequestError(f"--from={settings.from_} is after --to={settings.to}; no session is in between")
    if settings.file_pattern and settings.file_extension:
        written = ",".join(f"**/*{ending}" for ending in settings.file_extension)
        raise RequestError(f"--file_pattern and --file_extension: give one; as patterns the endings are {written}")
    if settings.require_files and not settings.wants_files:
        raise RequestError("--require_files=1 needs --file_pattern or --file_extension: the files that are required")
    if settings.filter_latest and not settings.filter_by:
        raise RequestError("--filter_latest needs --filter_by: fields whose latest record is kept")
    if settings.filter_by and not settings.filter_latest:
        raise RequestError("--filter_by needs --filter_latest: the field that decides which record is the latest")
    if settings.unwind_list_fields and not settings.group_by:
        raise RequestError("--unwind_list_fields needs --group_by: the fields to group the unwound records by")


def _from_environment(variable: str, convert: Callable[[str], str]) -> str | None:
    text = os.environ.get(variable, "").strip()
    try:
        return convert(text) if text else None
    except RequestError as error:
        raise RequestError(f"environment variable {variable}: {error.headline}") from None


class _Parser(argparse.ArgumentParser):
    """Raises its errors like all others, instead of printing the usage and leaving."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (?:.* )?--?([^ =]+)", message)
        near = difflib.get_close_matches(unknown[1], [*declared(), "version", "help"], n=1) if unknown else []
        remedy = f"; did you mean --{near[0]}?" if near else ""
        raise RequestError(message.removeprefix("argument ") + remedy)


def build_parser(version: str, home: Path = Path()) -> argparse.ArgumentParser:
    """Return the parser of all flags, in the groups of `--help`."""
    parser = _Parser(
        description="Write one job file per piece of work into numbered worker folders.",
        allow_abbrev=False,
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for field, (name, flag) in zip(dataclasses.fields(Settings), declared().items(), strict=True):
        if flag.convert is values.path and flag.default:
            flag = flag._replace(default=str(home / flag.default))
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        groups[flag.group].add_argument(
            f"--{name}",
            dest=field.name,
            metavar=flag.takes,
            default=flag.default,
            type=_converter(flag),
            action=_Joined if flag.convert in (values.fields, values.words) else "store",
            # A switch without a value is on.
            nargs="?" if flag.takes.startswith("0|1") else None,
            const="1" if flag.takes.startswith("0|1") else None,
            help=f"{flag.meaning} (default: {flag.default})" if flag.default else flag.meaning,
        )
    parser.add_argument("--version", action="version", version=f"aind-analysis-job-dispatch {version}")
    return parser


class _Joined(argparse.Action):
    """Adds the values to those that the same flag gave before."""

    def __call__(self, _: argparse.ArgumentParser, given: argparse.Namespace, values: Any, __: Any = None) -> None:
        before = getattr(given, self.dest) or ()  # until the flag is given, its default, which is blank
        setattr(given, self.dest, tuple(dict.fromkeys((*before, *values))))


def _converter(flag: Flag) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        """Take a blank value for the default: an app panel passes its empty fields."""
        value = text.strip() or flag.default
        try:
            return flag.convert(value) if value else flag.absent
        except RequestError as error:
            raise argparse.ArgumentTypeError(error.headline) from None

    return convert
