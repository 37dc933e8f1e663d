"""ragops: a self-hosted vLLM reranker beside RAGFlow, proven."""
