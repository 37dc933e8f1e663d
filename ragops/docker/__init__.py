"""The Docker engine: its objects, its errors, temporary containers."""
