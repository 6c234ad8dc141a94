"""Pictures of the documentation, drawn from real runs."""
