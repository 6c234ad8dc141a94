"""`sam3ray run` as the entry point of a submitted job: `ray job submit -- python jobs/prelabel.py CONFIG`.

It takes the arguments of `sam3ray run`. A configuration without `cluster.address` runs on the
cluster that the job was submitted to, not on a Ray of its own.
"""

from __future__ import annotations

import itertools
import os
import sys

from sam3ray.cli import app
from sam3ray.config import load_config
from sam3ray.failures import UserError


def main(arguments: list[str]) -> None:
    """Runs the job and exits with its code."""
    if "RAY_ADDRESS" in os.environ and has_no_address(arguments):
        arguments = [*arguments, "--set", "cluster.address=auto"]
    app(["run", *arguments], prog_name="prelabel.py")


def has_no_address(arguments: list[str]) -> bool:
    if any(argument.startswith("cluster.address=") for argument in arguments):
        return False
    overrides = [value for flag, value in itertools.pairwise(arguments) if flag == "--set"]
    path = next((a for i, a in enumerate(arguments) if not a.startswith("--") and arguments[i - 1] != "--set"), "")
    try:
        return load_config(path, overrides).cluster.address is None
    except UserError:
        return False  # the command says what is wrong


if __name__ == "__main__":
    main(sys.argv[1:])
