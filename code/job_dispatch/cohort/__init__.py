"""From records to groups of assets: filters, latest versions, grouping, pairs, and the rows of a table."""
