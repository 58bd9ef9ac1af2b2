"""The analysis job dispatcher: from a request to jobs in worker folders."""

__version__ = "0.2.0"
