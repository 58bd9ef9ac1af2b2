"""What stands in more than one file of this repository says the same in each."""

import argparse
import json
import re
import shlex
from pathlib import Path
from typing import Any

import job_dispatch
from job_dispatch.request import flags

CODE = Path(__file__).resolve().parent.parent
ROOT = CODE.parent

# Flags for work outside Code Ocean; the app panel does not offer them.
LOCAL_FLAGS = {"input_directory", "output_directory", "docdb_collection", "version"}


def panel_parameters() -> dict[str, dict[str, Any]]:
    contents = json.loads((ROOT / ".codeocean" / "app-panel.json").read_text())
    return {parameter["param_name"]: parameter for parameter in contents["parameters"]}


def parser_defaults() -> dict[str, str]:
    """Give each flag's default as the app panel and the documentation write it: blank where there is none."""
    actions = [action for action in flags.build_parser("")._actions if action.dest != "help"]
    defaults = {}
    for action in actions:
        unset = action.default is None or action.default == argparse.SUPPRESS
        defaults[action.option_strings[0].removeprefix("--")] = "" if unset else f"{action.default}"
    return defaults


def without_local(defaults: dict[str, str]) -> dict[str, str]:
    return {flag: default for flag, default in defaults.items() if flag not in LOCAL_FLAGS}


def test_app_panel_offers_every_flag_but_the_local_ones_with_the_parsers_defaults() -> None:
    offered = {flag: parameter.get("default_value", "") for flag, parameter in panel_parameters().items()}
    assert offered == without_local(parser_defaults())


def test_messages_in_a_capsule_name_the_fields_as_the_app_panel_does() -> None:
    assert {flag: entry["name"] for flag, entry in panel_parameters().items()} == flags.panel_labels()


def test_app_panel_has_the_groups_and_the_order_of_help() -> None:
    contents = json.loads((ROOT / ".codeocean" / "app-panel.json").read_text())
    categories = {category["id"]: category["name"].casefold() for category in contents["categories"]}
    declared = [(flag.group.casefold(), name) for name, flag in flags.declared().items() if name not in LOCAL_FLAGS]
    assert [(categories[entry["category"]], entry["param_name"]) for entry in contents["parameters"]] == declared
    assert list(categories.values()) == list(dict.fromkeys(group for group, _ in declared))


def test_at_most_15_fields_of_the_panel_are_in_front_of_the_advanced_ones() -> None:
    contents = json.loads((ROOT / ".codeocean" / "app-panel.json").read_text())
    *_, advanced = contents["categories"]
    assert advanced["name"] == "Advanced"
    assert sum(entry["category"] != advanced["id"] for entry in contents["parameters"]) <= 15


def test_each_switch_of_the_panel_reads_yes_and_no() -> None:
    for entry in panel_parameters().values():
        if set(entry.get("extra_data", ())) == {"0", "1"}:
            assert entry["description"].startswith("Yes (1): "), entry["param_name"]
            assert " No (0)" in entry["description"], entry["param_name"]


def test_help_begins_with_examples_that_the_parser_takes_and_has_no_usage_block() -> None:
    text = flags.build_parser("").format_help()
    assert "usage:" not in text
    examples = text.partition("FIELDS are")[0].replace("\\\n", "").splitlines()
    commands = [shlex.split(line)[1:] for line in examples if line.startswith("    ")]
    assert len(commands) == 3
    for command in commands:
        flags.parse(command, "")
    groups = ["selecting assets:", "files:", "output:", "advanced:"]
    assert [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")] == groups


def test_the_newest_release_has_the_same_version_and_date_in_the_changelog_the_citation_and_the_command() -> None:
    headings = re.findall(r"^## (.+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    releases = [heading for heading in headings if heading != "Unreleased"]
    assert [one for one in releases if not re.fullmatch(r"\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\)", one)] == []
    cited = dict(line.split(": ", 1) for line in (ROOT / "CITATION.cff").read_text().splitlines() if ": " in line)
    assert releases[0] == f"{cited['version']} ({cited['date-released']})"
    assert cited["version"] == job_dispatch.__version__


def test_every_choice_in_the_app_panel_is_one_that_the_parser_takes() -> None:
    parser = flags.build_parser("")
    for flag, parameter in panel_parameters().items():
        for choice in parameter.get("extra_data", []):
            parser.parse_args([f"--{flag}={choice}"])


def test_make_alone_lists_every_word() -> None:
    makefile = (ROOT / "Makefile").read_text()
    words = set(re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)[0].split()) - {"help", "stale"}
    assert set(re.findall(r"echo 'make ([\w-]+)", makefile)) == words


def test_the_workflows_run_every_suite_that_the_ci_script_runs() -> None:
    words = re.findall(r"\bmake ([\w-]+)", (ROOT / ".ci" / "run").read_text())
    assert "test" in words
    steps = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    assert [word for word in words if not re.search(rf"run: .*\bmake {word}\b(?!-)", steps)] == []


def test_a_commit_is_checked_as_make_lint_checks() -> None:
    makefile = (ROOT / "Makefile").read_text()
    linted = re.findall(r"^\t.*(?:-m |bin/)(ruff check|ruff format --check|mypy|typos)\b", makefile, flags=re.MULTILINE)
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    checked = re.findall(r"entry: .*(?:-m |bin/)(ruff check|ruff format --check|mypy|typos)\b", hooks)
    assert checked == ["ruff check", "ruff format --check", "mypy", "typos"]
    assert set(checked) == set(linted)


def test_each_action_of_the_workflows_is_pinned_by_the_hash_of_a_release() -> None:
    paths = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    used = [line.strip() for path in paths for line in path.read_text().splitlines() if "uses:" in line]
    assert used
    assert [line for line in used if not re.fullmatch(r"(- )?uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []
