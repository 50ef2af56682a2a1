"""BentoML's side: its application with our errors, probes and metrics, and the endpoint that its own clients know."""
