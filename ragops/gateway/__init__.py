"""The gateway between RAGFlow and vLLM, as package ``gateway`` in an image: it imports nothing of ragops."""
