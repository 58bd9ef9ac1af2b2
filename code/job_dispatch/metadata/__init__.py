"""From a query to groups of assets."""
