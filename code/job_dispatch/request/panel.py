"""The app panel of a Code Ocean capsule: what its fields are called."""

from __future__ import annotations

import os

# As in .codeocean/app-panel.json, which is not there when a capsule runs.
LABELS = {
    "subject": "Mice",
    "project": "Projects",
    "modality": "Modalities",
    "from": "From day",
    "to": "To day",
    "docdb_query": "Metadata query",
    "use_data_asset_csv": "Use a table of data assets",
    "qc": "Quality control",
    "group_by": "Group by",
    "filter_latest": "Latest by",
    "filter_by": "Latest of",
    "unwind_list_fields": "Unwind lists",
    "drop_null_groups": "Drop records without a value",
    "with_raw": "With raw assets",
    "sample": "Sample",
    "skip_processed": "Skip processed",
    "exclude": "Exclude",
    "file_extension": "File extension",
    "file_pattern": "File pattern",
    "require_files": "Require files",
    "split_files": "Split files",
    "analysis_parameters": "Parameters file",
    "parameter_schema": "Parameter schema",
    "num_parallel_workers": "Parallel workers",
    "tasks_per_job": "Jobs per worker",
    "balance": "Balance",
    "max_number_of_tasks_dispatched": "Largest number of jobs",
    "query_in_jobs": "Query in jobs",
    "overwrite": "Replace earlier jobs",
    "dry_run": "Preview only",
    "describe": "Describe only",
    "report_directory": "Report folder",
    "skip_errors": "Skip unreadable assets",
    "log_level": "Log detail",
    "docdb_host": "Metadata host",
    "docdb_version": "Metadata version",
    "docdb_timeout": "DocDB timeout",
    "max_concurrency": "Requests in flight",
}


def is_used() -> bool:
    """Tell whether this runs in a capsule, where people fill in fields instead of typing flags."""
    return any(os.environ.get(name) for name in ("CO_CAPSULE_ID", "CO_PIPELINE_ID", "CO_COMPUTATION_ID"))
