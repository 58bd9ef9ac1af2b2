"""From groups, files and parameter sets to job files in worker folders."""
