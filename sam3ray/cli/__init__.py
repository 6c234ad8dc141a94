"""The `sam3ray` command."""

from sam3ray.cli import _interrupts  # noqa: F401  # isort: skip - first: a signal may come during the imports below

# Each module adds its verbs; `--help` lists them in the order of these imports.
from sam3ray.cli import _jobs  # noqa: F401  # isort: skip
from sam3ray.cli import _labels  # noqa: F401  # isort: skip
from sam3ray.cli import _watching  # noqa: F401  # isort: skip
from sam3ray.cli import _looking  # noqa: F401  # isort: skip

from sam3ray.cli._app import app, main, run_arguments

__all__ = ["app", "main", "run_arguments"]
