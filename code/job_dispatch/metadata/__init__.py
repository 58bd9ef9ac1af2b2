"""Metadata records: from DocDB, a catalog, or the files and names of assets; and which of them match a query."""
