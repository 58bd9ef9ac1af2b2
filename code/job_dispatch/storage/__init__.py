"""From assets to the files that they have."""
