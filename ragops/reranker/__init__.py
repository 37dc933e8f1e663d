"""What to start: host, model, sizing, vLLM options, image."""
