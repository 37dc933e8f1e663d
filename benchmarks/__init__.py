"""Programs that record comparisons: vLLM options, other servers, other clients. Not in the wheel."""
