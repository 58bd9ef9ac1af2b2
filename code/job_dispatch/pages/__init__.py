"""What the pages of a dispatch, of a description and of results have in common."""
