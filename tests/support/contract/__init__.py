"""A server that answers like RAGFlow's recorded releases."""
