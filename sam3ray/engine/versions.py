"""The version of the engine itself, and the releases of transformers that it has been checked against."""

from __future__ import annotations

from importlib.metadata import version

from sam3ray.failures import JobStopped

# Raised by one whenever the rows of any clip change: a rule, a threshold's meaning, an order of sums, an id. It is part
# of a run's fingerprint, so that a run is never continued by an engine that would give other rows.
#   1: sam3ray 0.1.0, whose runs do not name a version
#   2: runs name the version
#   3: phrases do not depend on each other; new objects are remembered at the size of the video; a removed object takes
#      back the conditioning frames that it gave
ENGINE_VERSION = 3

# The engine drives the model's submodules itself, so another minor release may have moved what it relies on and would
# go wrong quietly. The parity tests say whether a release can be added here.
TESTED = ("5.23", "5.24")  # minor releases; the requirement in pyproject.toml names the same range


def check_transformers(installed: str | None = None) -> None:
    """Raise JobStopped unless the installed transformers is a release that was tested."""
    installed = installed or version("transformers")
    if ".".join(installed.split(".")[:2]) not in TESTED:
        allowed = ", ".join(f"{release}.x" for release in TESTED)
        raise JobStopped(
            f"transformers {installed} is installed, and this version of sam3ray works with {allowed}: "
            f'pip install "transformers=={TESTED[-1]}.*"'
        )
