"""The `sam3ray` command."""

from sam3ray.cli._app import app, main, run_arguments

__all__ = ["app", "main", "run_arguments"]
