"""What the user asked for, checked and named."""
