"""What is done to the project now and then, and is no part of it when it runs."""
