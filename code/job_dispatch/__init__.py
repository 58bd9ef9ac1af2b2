"""The analysis job dispatcher: from a request to jobs in worker folders."""
