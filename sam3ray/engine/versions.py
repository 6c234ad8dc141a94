"""The releases of transformers that the engine has been checked against."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

from sam3ray.failures import JobStopped

# The engine calls the model's submodules directly, so another minor release may change what it relies on, and fail
# silently. The parity tests show whether a release can be added here.
TESTED = ("5.23", "5.24")  # minor releases; the requirement in pyproject.toml names the same range


@cache
def version_of(package: str) -> str:
    """Of an installed package. To read it takes milliseconds, and each state of a session names two."""
    return version(package)


def check_transformers(installed: str | None = None) -> None:
    """Raises JobStopped unless the installed transformers is a tested release."""
    installed = installed or version_of("transformers")
    if ".".join(installed.split(".")[:2]) not in TESTED:
        allowed = ", ".join(f"{release}.x" for release in TESTED)
        raise JobStopped(
            f"transformers {installed} is installed, and this version of sam3ray works with {allowed}: "
            f'pip install "transformers=={TESTED[-1]}.*"'
        )
