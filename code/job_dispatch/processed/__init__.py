"""Which code will run the jobs, and which of them it has done already."""
