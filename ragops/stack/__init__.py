"""Apply the configuration to the Docker engine and to RAGFlow: plans, verbs, watch, registration."""
