"""Apply the configuration: plan, verbs, readiness, watch, registration."""
