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
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from job_dispatch.messages import RequestError, warn_listing
from job_dispatch.request import flag_values as values

# Used by itself, if neither a catalog nor a DocDB is named.
OWN_CATALOG = "catalog.jsonl"
# The groups of `--help`, by the first flag of each.
_GROUPS = {"subject": "selecting assets", "file_extension": "files", "dry_run": "output", "qc": "advanced"}
_DESCRIPTION = """\
Write one job file for each file or asset to analyse and each parameter set, into numbered worker folders.

  All sessions of a mouse, one job per NWB file:
    %(prog)s --subject=774659 --file_extension=.nwb
  What there is in a project, and the flags that select it:
    %(prog)s --project='Behavior Platform' --describe=1
  The latest processed version of each session, as a preview:
    %(prog)s --docdb_query='{"data_description.data_level": "derived"}' \\
        --filter_latest=@created --filter_by=@subject,@session --dry_run=1

FIELDS are paths in the metadata records such as subject.subject_id, or names for both versions of the
metadata: @subject, @session, @project, @modality, @raw, @created. A switch (0|1) without a value is on."""
_READ_BY_THE_PUBLIC_DISPATCHER = {
    *("docdb_query", "use_data_asset_csv", "file_extension", "split_files", "tasks_per_job", "group_by"),
    *("max_number_of_tasks_dispatched", "filter_by", "filter_latest", "unwind_list_fields", "drop_null_groups"),
    *("input_directory", "output_directory", "dry_run"),
}
_VARIABLE = re.compile(r"\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*\S")
# How a value is read, by what `--help` shows for it; other values are text.
_READ_BY: dict[str, Callable[[str], Any]] = {
    "0|1": values.switch,
    "0|1|FILE": values.switch_or_path,
    "pass|not_fail": values.one_of("pass", "not_fail"),
    "count|size": values.one_of("count", "size"),
    "LEVEL": values.one_of("DEBUG", "INFO", "WARNING", "ERROR"),
    "N": values.count,
    "SECONDS": values.seconds,
    "DAY": values.day,
    "DIR": values.path,
    "PLACE": values.place,
    **dict.fromkeys(("IDS", "NAMES", "PATHS"), values.words),
    "FIELD": values.field,
    "FIELDS": values.fields,
    "ENDINGS": values.endings,
    "PATTERNS": values.patterns,
    "HOST": values.host,
    **dict.fromkeys(("NAME", "VERSION"), values.name),
}
_LISTS = (values.words, values.fields, values.endings, values.patterns)


class Flag(NamedTuple):
    """How a flag is described and read.

    `absent` is its value if it has no default and is blank or not given; `label` is its field in the app panel, empty
    if that does not offer it.
    """

    takes: str
    meaning: str
    default: str
    convert: Callable[[str], Any]
    absent: Any
    label: str | None
    group: str = ""
    attribute: str = ""


def _flag(
    takes: str,
    meaning: str,
    default: str = "",
    convert: Callable[[str], Any] | None = None,
    otherwise: Any = None,
    label: str | None = None,
) -> Any:
    """Declare a flag; its label is its name with blanks unless another is given.

    `otherwise` is the value if it comes from an environment variable that is not set.
    """
    convert = convert or _READ_BY.get(takes, str)
    absent = () if convert in _LISTS else None
    value = otherwise or (convert(default) if default else absent)
    flag = Flag(takes, meaning, default, convert, absent, label)
    return dataclasses.field(default=value, metadata={"flag": flag})


@dataclass(frozen=True)
class Settings:
    """The checked values of all flags; each is a field of the same name, in the order of `--help`.

    RequestError for flags that do not go together.
    """

    subject: tuple[str, ...] = _flag("IDS", "mice by subject id, comma separated: 774659,643634", label="Mice")
    project: tuple[str, ...] = _flag("NAMES", "projects, comma separated: 'Behavior Platform'", label="Projects")
    modality: tuple[str, ...] = _flag(
        "NAMES", "abbreviated modalities, comma separated: ecephys,behavior", label="Modalities"
    )
    # `from` is a word of Python's.
    from_: date | None = _flag("DAY", "first day of the sessions: 2025-06-07", label="From day")
    to: date | None = _flag("DAY", "last day of the sessions: 2025-06-30", label="To day")
    docdb_query: str | None = _flag(
        "QUERY", "metadata query in JSON, as for MongoDB, or the path of a file with one", label="Metadata query"
    )
    use_data_asset_csv: bool | Path = _flag(
        "0|1|FILE",
        "1: the assets in the table (CSV, XLSX, TSV) in the input directory; or the path of a table",
        "0",
        label="Use a table of data assets",
    )
    group_by: tuple[str, ...] = _flag(
        "FIELDS", "one job per group of assets with the same values of these metadata fields, comma separated: @subject"
    )
    file_extension: tuple[str, ...] = _flag("ENDINGS", "endings of the files to analyse, comma separated: .nwb")
    split_files: bool = _flag("0|1", "1: one job per file; 0: one job per asset, with all its files", "1")
    dry_run: bool = _flag("0|1", "1: show what would be dispatched, and write no jobs", "0", label="Preview only")
    describe: bool = _flag(
        "0|1", "1: show what there is to select, with the flag for it, and write no jobs", "0", label="Describe only"
    )
    overwrite: bool = _flag("0|1", "1: replace the worker folders of an earlier run", "0", label="Replace earlier jobs")
    report_directory: Path | None = _flag(
        "DIR", "folder for a report of the run: a page and tables", label="Report folder"
    )
    max_number_of_tasks_dispatched: int | None = _flag(
        "N", "write at most N jobs; needed for more than 200,000", label="Largest number of jobs"
    )
    input_directory: Path = _flag("DIR", "folder of the parameters file, and of queries and tables", "data", label="")
    output_directory: Path = _flag("DIR", "folder for the worker folders", "results", label="")
    qc: str | None = _flag(
        "pass|not_fail", "only assets whose quality control passed, or did not fail", label="Quality control"
    )
    filter_latest: str | None = _flag(
        "FIELD",
        "keep only the latest record by this field, such as @created, of those with the same --filter_by",
        label="Latest by",
    )
    filter_by: tuple[str, ...] = _flag(
        "FIELDS",
        "the fields for --filter_latest, comma separated; @subject,@session: the latest record per session",
        label="Latest of",
    )
    unwind_list_fields: tuple[str, ...] = _flag(
        "FIELDS",
        "with --group_by: an asset with a list in one of these fields joins one group per element of the list",
        label="Unwind lists",
    )
    drop_null_groups: bool = _flag(
        "0|1",
        "1: skip assets without a value of --group_by or --filter_by; 0: they make a group of their own",
        "1",
        label="Drop records without a value",
    )
    with_raw: bool = _flag(
        "0|1",
        "1: one job per pair of a derived asset and the raw asset that it was made from",
        "0",
        label="With raw assets",
    )
    sample: int | None = _flag("N", "only N assets or groups, spread over subjects and days, for a trial")
    skip_processed: bool = _flag("0|1", "1: skip jobs that have a result in the results database", "0")
    exclude: tuple[str, ...] = _flag(
        "PATHS",
        "skip what these name, comma separated: results (jobs that are done), jobs.csv, table.csv, or lists of assets",
    )
    file_pattern: tuple[str, ...] = _flag(
        "PATTERNS",
        "paths of files within an asset as in .gitignore, comma separated, instead of --file_extension; ! excludes",
    )
    require_files: bool = _flag("0|1", "1: skip assets that have no file for one of the endings or patterns", "0")
    analysis_parameters: str | None = _flag(
        "FILE",
        "parameters file to use instead of analysis_parameters.json in the input directory",
        label="Parameters file",
    )
    parameter_schema: str | None = _flag("FILE", "JSON Schema to check all parameter sets against")
    num_parallel_workers: int | None = _flag(
        "N",
        "at most this many worker folders, 50 if not given; in a Code Ocean pipeline one per job if not given",
        label="Parallel workers",
    )
    tasks_per_job: int | None = _flag(
        "N", "jobs per worker folder; overrides --num_parallel_workers", label="Jobs per worker"
    )
    balance: str = _flag(
        "count|size",
        "give all worker folders about as many jobs (count), or about as many bytes of files (size)",
        "count",
    )
    query_in_jobs: bool = _flag("0|1", "1: write the query into each job file; 0: leave it out", "1")
    skip_errors: bool = _flag(
        "0|1", "1: skip assets that cannot be read, with a warning; 0: stop", "0", label="Skip unreadable assets"
    )
    save_catalog: Path | None = _flag(
        "FILE", "save the records of the selected assets, and their files, for --metadata_catalog", convert=values.path
    )
    log_level: str = _flag(
        "LEVEL", "lowest level of the log lines shown: DEBUG, INFO, WARNING, ERROR", "INFO", label="Log detail"
    )
    metadata_catalog: str | None = _flag(
        "PLACE",
        "file of metadata records, or folder or bucket of assets (/lab, s3://bucket/lab/sub-*), instead of DocDB",
    )
    name_pattern: str | None = _flag("PATTERN", "names of its assets, such as {session:%Y-%m-%d}_{subject}")
    docdb_host: str = _flag(
        "HOST",
        f"host of DocDB; default: DOCDB_HOST in the environment, else {values.PRODUCTION_HOST}",
        otherwise=values.PRODUCTION_HOST,
        label="Metadata host",
    )
    docdb_version: str = _flag(
        "VERSION",
        "version of DocDB's API, v1 or v2; default: DOCDB_VERSION in the environment, else v1",
        otherwise="v1",
        label="Metadata version",
    )
    docdb_database: str = _flag(
        "NAME", "database of the metadata; metadata_index_v2 for version 2", "metadata_index", label="Metadata database"
    )
    docdb_collection: str = _flag("NAME", "collection of the metadata", "data_assets", label="")
    docdb_timeout: int = _flag("SECONDS", "timeout per response of DocDB", "60", label="DocDB timeout")
    max_concurrency: int = _flag("N", "concurrent requests to S3", "256", label="Requests in flight")
    has_own_catalog: bool = False  # the one in the input directory, which no flag names

    def __post_init__(self) -> None:
        if self.from_ and self.to and self.from_ > self.to:
            raise RequestError(f"--from={self.from_} is after --to={self.to}; no session is in between")
        if self.file_pattern and self.file_extension:
            written = ",".join(f"**/*{ending}" for ending in self.file_extension)
            raise RequestError(f"--file_pattern and --file_extension: give one; as patterns the endings are {written}")
        if self.require_files and not self.wants_files:
            raise RequestError(
                "--require_files=1 needs --file_pattern or --file_extension: the files that are required"
            )
        if self.filter_latest and not self.filter_by:
            raise RequestError("--filter_latest needs --filter_by: fields whose latest record is kept")
        if self.filter_by and not self.filter_latest:
            raise RequestError("--filter_by needs --filter_latest: the field that decides which record is the latest")
        if self.unwind_list_fields and not self.group_by:
            raise RequestError("--unwind_list_fields needs --group_by: the fields to group the unwound records by")

    @property
    def wants_files(self) -> bool:
        """Whether files of the assets are looked for."""
        return bool(self.file_extension or self.file_pattern)

    @property
    def source(self) -> str:
        """Where records come from."""
        if self.metadata_catalog is not None:
            is_file = self.metadata_catalog.removesuffix(".gz").endswith((".json", ".jsonl", ".ndjson"))
            return f"catalog {self.metadata_catalog}" if is_file else self.metadata_catalog
        return f"DocDB {self.docdb_host} {self.docdb_version} {self.docdb_database}/{self.docdb_collection}"

    @property
    def grouping_fields(self) -> tuple[str, ...]:
        """All fields that group records or choose among them, each once."""
        latest = (self.filter_latest,) if self.filter_latest else ()
        return tuple(dict.fromkeys((*self.group_by, *latest, *self.filter_by, *self.unwind_list_fields)))


def declared() -> dict[str, Flag]:
    """Return all flags by their names without dashes, in the order of `--help`."""
    found = {}
    group = ""
    for field in dataclasses.fields(Settings):
        if flag := field.metadata.get("flag"):
            name = field.name.rstrip("_")
            group = _GROUPS.get(name, group)
            label = name.replace("_", " ").capitalize() if flag.label is None else flag.label
            found[name] = flag._replace(label=label, group=group, attribute=field.name)
    return found


def panel_labels() -> dict[str, str]:
    """Return the label of each flag in the app panel; the panel itself is not there when a capsule runs."""
    return {name: flag.label for name, flag in declared().items() if flag.label}


def parse(argv: Sequence[str] | None, version: str, home: Path = Path()) -> Settings:
    """Return the settings that the flags ask for; an empty value means the default.

    `home` is the folder of `data` and `results`, where no flag names others. RequestError for an unknown flag, or a
    value that a flag does not take.
    """
    given = vars(build_parser(version, home).parse_args(argv))
    is_named = given["docdb_host"] or given["metadata_catalog"] or os.environ.get("DOCDB_HOST", "").strip()
    own = given["input_directory"] / OWN_CATALOG
    if not is_named and own.is_file():
        given |= {"has_own_catalog": True, "metadata_catalog": str(own)}
    for name, convert in (("docdb_host", values.host), ("docdb_version", values.name)):
        given[name] = given[name] or values.from_environment(name.upper(), convert, getattr(Settings(), name))
    return Settings(**given)


def arguments(settings: Settings, home: Path, without: Collection[str]) -> list[str]:
    """Return the flags that ask for these settings, but for some; those with the default value are not needed."""
    usual = Settings()
    usual = replace(usual, input_directory=home / usual.input_directory, output_directory=home / usual.output_directory)
    return [
        f"--{name}={text_of(value)}"
        for name, flag in declared().items()
        if name not in without and (value := getattr(settings, flag.attribute)) != getattr(usual, flag.attribute)
    ]


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
        f"{name} in {place}; {f'give --{name.lower()}' if name.lower() in flags else 'set it in the environment'}"
        for name, place in set_here
        if name.lower() not in given and (name.lower() in flags or name not in os.environ)
    ]
    if ignored:
        warn_listing("set for the public dispatcher and ignored here:", ignored)


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
        usage=argparse.SUPPRESS,
        description=_DESCRIPTION,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30),
        allow_abbrev=False,
        add_help=False,
    )
    groups = {title: parser.add_argument_group(title) for title in _GROUPS.values()}
    for name, flag in declared().items():
        if flag.convert is values.path and flag.default:
            flag = flag._replace(default=str(home / flag.default))
        is_switch = flag.takes.startswith("0|1")  # one without a value is on
        groups[flag.group].add_argument(
            f"--{name}",
            dest=flag.attribute,
            metavar=flag.takes,
            default=flag.default,
            type=partial(_converted, flag),
            action=_Joined if flag.convert in (values.fields, values.words) else "store",
            nargs="?" if is_switch else None,
            const="1" if is_switch else None,
            help=(flag.meaning + f" (default: {flag.default})" * bool(flag.default)).replace("%", "%%"),
        )
    shown = f"aind-analysis-job-dispatch {version}"
    groups["advanced"].add_argument("--help", "-h", action="help", help="show this help")
    groups["advanced"].add_argument("--version", action="version", version=shown, help="show the version")
    return parser


class _Joined(argparse.Action):
    """Adds the values to those that the same flag gave before."""

    def __call__(self, _: argparse.ArgumentParser, given: argparse.Namespace, values: Any, __: Any = None) -> None:
        before = getattr(given, self.dest) or ()  # until the flag is given, its default, which is blank
        setattr(given, self.dest, tuple(dict.fromkeys((*before, *values))))


def _converted(flag: Flag, text: str) -> Any:
    """Take a blank value for the default: an app panel passes its empty fields."""
    value = text.strip() or flag.default
    try:
        return flag.convert(value) if value else flag.absent
    except RequestError as error:
        raise argparse.ArgumentTypeError(error.headline) from None
