"""What was selected, skipped and made, told."""
