"""The `sam3ray` command."""

from sam3ray.cli import _interrupts  # noqa: F401  # isort: skip - first: a signal may come during the imports below

from sam3ray.cli import _looking  # noqa: F401 - adds its verbs
from sam3ray.cli._app import app, main, run_arguments

__all__ = ["app", "main", "run_arguments"]
