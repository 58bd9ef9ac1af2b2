"""DocDB queries and S3 listing, under the name that the public capsule has."""

from job_dispatch.cohort.selecting import select
from job_dispatch.storage.locating import locate

__all__ = ["locate", "select"]
