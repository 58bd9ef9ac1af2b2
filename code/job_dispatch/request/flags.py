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

# Used by itself, if neither a catalog nor a DocDB is named.
OWN_CATALOG = "catalog.jsonl"
_SELECT = "selecting assets"
_FILES = "files"
_OUTPUT = "output"
_ADVANCED = "advanced"
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
    """Declare a flag; `otherwise` is the value if it comes from an environment variable that is not set."""
    value = otherwise or (convert(default) if default else absent)
    return dataclasses.field(default=value, metadata={"flag": Flag(group, takes, meaning, default, convert, absent)})


@dataclass(frozen=True)
class Settings:
    """The checked values of all flags; each is a field of the same name, in the order of `--help`."""

    subject: tuple[str, ...] = _flag(
        _SELECT, "IDS", "mice by subject id, comma separated: 774659,643634", convert=values.words, absent=()
    )
    project: tuple[str, ...] = _flag(
        _SELECT, "NAMES", "projects, comma separated: 'Behavior Platform'", convert=values.words, absent=()
    )
    modality: tuple[str, ...] = _flag(
        _SELECT, "NAMES", "abbreviated modalities, comma separated: ecephys,behavior", convert=values.words, absent=()
    )
    # `from` is a word of Python's.
    from_: date | None = _flag(_SELECT, "DAY", "first day of the sessions: 2025-06-07", convert=values.day)
    to: date | None = _flag(_SELECT, "DAY", "last day of the sessions: 2025-06-30", convert=values.day)
    docdb_query: str | None = _flag(
        _SELECT, "QUERY", "metadata query in JSON, as for MongoDB, or the path of a file with one"
    )
    use_data_asset_csv: bool | Path = _flag(
        _SELECT,
        "0|1|FILE",
        "1: the assets in the table (CSV, XLSX, TSV) in the input directory; or the path of a table",
        "0",
        values.switch_or_path,
    )
    group_by: tuple[str, ...] = _flag(
        _SELECT,
        "FIELDS",
        "one job per group of assets with the same values of these metadata fields, comma separated: @subject",
        convert=values.fields,
        absent=(),
    )
    file_extension: tuple[str, ...] = _flag(
        _FILES, "ENDINGS", "endings of the files to analyse, comma separated: .nwb", convert=values.endings, absent=()
    )
    split_files: bool = _flag(
        _FILES, "0|1", "1: one job per file; 0: one job per asset, with all its files", "1", values.switch
    )
    dry_run: bool = _flag(_OUTPUT, "0|1", "1: show what would be dispatched, and write no jobs", "0", values.switch)
    describe: bool = _flag(
        _OUTPUT, "0|1", "1: show what there is to select, with the flag for it, and write no jobs", "0", values.switch
    )
    overwrite: bool = _flag(_OUTPUT, "0|1", "1: replace the worker folders of an earlier run", "0", values.switch)
    report_directory: Path | None = _flag(
        _OUTPUT, "DIR", "folder for a report of the run: a page and tables", convert=values.path
    )
    max_number_of_tasks_dispatched: int | None = _flag(
        _OUTPUT, "N", "write at most N jobs; needed for more than 200,000", convert=values.count
    )
    input_directory: Path = _flag(
        _OUTPUT, "DIR", "folder of the parameters file, and of queries and tables", "data", values.path
    )
    output_directory: Path = _flag(_OUTPUT, "DIR", "folder for the worker folders", "results", values.path)
    qc: str | None = _flag(
        _ADVANCED,
        "pass|not_fail",
        "only assets whose quality control passed, or did not fail",
        convert=values.one_of("pass", "not_fail"),
    )
    filter_latest: str | None = _flag(
        _ADVANCED,
        "FIELD",
        "keep only the latest record by this field, such as @created, of those with the same --filter_by",
        convert=values.field,
    )
    filter_by: tuple[str, ...] = _flag(
        _ADVANCED,
        "FIELDS",
        "the fields for --filter_latest, comma separated; @subject,@session: the latest record per session",
        convert=values.fields,
        absent=(),
    )
    unwind_list_fields: tuple[str, ...] = _flag(
        _ADVANCED,
        "FIELDS",
        "with --group_by: an asset with a list in one of these fields joins one group per element of the list",
        convert=values.fields,
        absent=(),
    )
    drop_null_groups: bool = _flag(
        _ADVANCED,
        "0|1",
        "1: skip assets without a value of --group_by or --filter_by; 0: they make a group of their own",
        "1",
        values.switch,
    )
    with_raw: bool = _flag(
        _ADVANCED,
        "0|1",
        "1: one job per pair of a derived asset and the raw asset that it was made from",
        "0",
        values.switch,
    )
    sample: int | None = _flag(
        _ADVANCED, "N", "only N assets or groups, spread over subjects and days, for a trial", convert=values.count
    )
    skip_processed: bool = _flag(
        _ADVANCED, "0|1", "1: skip jobs that have a result in the results database", "0", values.switch
    )
    exclude: tuple[str, ...] = _flag(
        _ADVANCED,
        "PATHS",
        "skip what these name, comma separated: results (jobs that are done), jobs.csv, table.csv, or lists of assets",
        convert=values.words,
        absent=(),
    )
    file_pattern: tuple[str, ...] = _flag(
        _ADVANCED,
        "PATTERNS",
        "paths of files within an asset as in .gitignore, comma separated, instead of --file_extension; ! excludes",
        convert=file_patterns.patterns,
        absent=(),
    )
    require_files: bool = _flag(
        _ADVANCED, "0|1", "1: skip assets that have no file for one of the endings or patterns", "0", values.switch
    )
    analysis_parameters: str | None = _flag(
        _ADVANCED, "FILE", "parameters file to use instead of analysis_parameters.json in the input directory"
    )
    parameter_schema: str | None = _flag(_ADVANCED, "FILE", "JSON Schema to check all parameter sets against")
    num_parallel_workers: int | None = _flag(
        _ADVANCED,
        "N",
        "at most this many worker folders, 50 if not given; in a Code Ocean pipeline one per job if not given",
        convert=values.count,
    )
    tasks_per_job: int | None = _flag(
        _ADVANCED, "N", "jobs per worker folder; overrides --num_parallel_workers", convert=values.count
    )
    balance: str = _flag(
        _ADVANCED,
        "count|size",
        "give all worker folders about as many jobs (count), or about as many bytes of files (size)",
        "count",
        values.one_of("count", "size"),
    )
    query_in_jobs: bool = _flag(
        _ADVANCED, "0|1", "1: write the query into each job file; 0: leave it out", "1", values.switch
    )
    skip_errors: bool = _flag(
        _ADVANCED, "0|1", "1: skip assets that cannot be read, with a warning; 0: stop", "0", values.switch
    )
    save_catalog: Path | None = _flag(
        _ADVANCED,
        "FILE",
        "save the records of the selected assets, and their files, for --metadata_catalog",
        convert=values.path,
    )
    log_level: str = _flag(
        _ADVANCED,
        "LEVEL",
        "lowest level of the log lines shown: DEBUG, INFO, WARNING, ERROR",
        "INFO",
        values.one_of("DEBUG", "INFO", "WARNING", "ERROR"),
    )
    metadata_catalog: str | None = _flag(
        _ADVANCED,
        "PLACE",
        "file of metadata records, or folder or bucket of assets (/lab, s3://bucket/lab/sub-*), instead of DocDB",
        convert=values.place,
    )
    name_pattern: str | None = _flag(
        _ADVANCED, "PATTERN", "names of its assets, such as {session:%Y-%m-%d}_{subject}", convert=values.name_pattern
    )
    docdb_host: str = _flag(
        _ADVANCED,
        "HOST",
        f"host of DocDB; default: DOCDB_HOST in the environment, else {values.PRODUCTION_HOST}",
        convert=values.host,
        otherwise=values.PRODUCTION_HOST,
    )
    docdb_version: str = _flag(
        _ADVANCED,
        "VERSION",
        "version of DocDB's API, v1 or v2; default: DOCDB_VERSION in the environment, else v1",
        convert=values.name,
        otherwise="v1",
    )
    docdb_database: str = _flag(
        _ADVANCED, "NAME", "database of the metadata; metadata_index_v2 for version 2", "metadata_index", values.name
    )
    docdb_collection: str = _flag(_ADVANCED, "NAME", "collection of the metadata", "data_assets", values.name)
    docdb_timeout: int = _flag(_ADVANCED, "SECONDS", "timeout per response of DocDB", "60", values.seconds)
    max_concurrency: int = _flag(_ADVANCED, "N", "concurrent requests to S3", "256", values.count)
    has_own_catalog: bool = False  # the one in the input directory, which no flag names

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
    def grouping(self) -> Grouping:
        """How to arrange the selected records."""
        return Grouping(
            self.group_by, self.filter_latest, self.filter_by, self.unwind_list_fields, self.drop_null_groups
        )


def declared() -> dict[str, Flag]:
    """Return all flags by their names without dashes, in the order of `--help`."""
    return {field.name.rstrip("_"): field.metadata["flag"] for field in _fields()}


def _fields() -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(Settings) if field.metadata]


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
    is_named = given["docdb_host"] or given["metadata_catalog"] or os.environ.get("DOCDB_HOST", "").strip()
    own = given["input_directory"] / OWN_CATALOG
    if not is_named and own.is_file():
        given |= {"has_own_catalog": True, "metadata_catalog": str(own)}
    for name, convert in (("host", values.host), ("version", values.name)):
        otherwise = getattr(defaults, f"docdb_{name}")
        found = given[f"docdb_{name}"] or values.from_environment(f"DOCDB_{name.upper()}", convert, otherwise)
        given[f"docdb_{name}"] = found
    settings = Settings(**given)
    check_combinations(settings)
    return settings


def arguments(settings: Settings, home: Path, without: Collection[str]) -> list[str]:
    """Return the flags that ask for these settings, but for some; those with the default value are not needed."""
    defaults = Settings()
    directories = {name: home / getattr(defaults, name) for name in ("input_directory", "output_directory")}
    defaults = dataclasses.replace(defaults, **directories)
    names = zip(_fields(), declared(), strict=True)
    values = {name: (getattr(settings, field.name), getattr(defaults, field.name)) for field, name in names}
    return [
        f"--{name}={text_of(value)}"
        for name, (value, default) in values.items()
        if name not in without and value != default
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
        f"{name} in {place}; give --{name.lower()}"
        if name.lower() in flags
        else f"{name} in {place}; set it in the environment"
        for name, place in set_here
        if name.lower() not in given and (name.lower() in flags or name not in os.environ)
    ]
    if ignored:
        warn_listing("set for the public dispatcher and ignored here:", ignored)


def check_combinations(settings: Settings) -> None:
    """Refuse flags that do not go together.

    Raises
    ------
    RequestError
    """
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
    groups: dict[str, argparse._ArgumentGroup] = {}
    for field, (name, flag) in zip(_fields(), declared().items(), strict=True):
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
            help=(flag.meaning + f" (default: {flag.default})" * bool(flag.default)).replace("%", "%%"),
        )
    groups[_ADVANCED].add_argument("--help", "-h", action="help", help="show this help")
    shown = f"aind-analysis-job-dispatch {version}"
    groups[_ADVANCED].add_argument("--version", action="version", version=shown, help="show the version")
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
