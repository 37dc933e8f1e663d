"""Stand-ins for what a machine may not have: an engine, a reranker, RAGFlow. Public and documented."""
