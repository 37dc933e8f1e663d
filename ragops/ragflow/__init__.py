"""Everything that knows RAGFlow: which containers are its, and what it sends."""
