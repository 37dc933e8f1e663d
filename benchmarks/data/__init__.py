"""Programs that run inside containers of a benchmark."""
