"""DocDB queries and S3 listing, under the name that the public capsule has."""

from job_dispatch.finding import describe, find_assets, open_metadata

__all__ = ["describe", "find_assets", "open_metadata"]
