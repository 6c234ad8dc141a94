"""`sam3ray run` as the entry point of a submitted job: `ray job submit -- python jobs/prelabel.py CONFIG`.

It takes the arguments of `sam3ray run`. A configuration without `cluster.address` runs on the cluster that the job
was submitted to (Ray sets RAY_ADDRESS), not on a Ray of its own.
"""

from __future__ import annotations

import os
import sys

from sam3ray.cli import main, run_arguments
from sam3ray.config import load_config
from sam3ray.failures import UserError


def prelabel(arguments: list[str]) -> None:
    """Runs the job and exits with its code."""
    if os.environ.get("RAY_ADDRESS") and has_no_address(arguments):
        arguments = [*arguments, "--set", "cluster.address=auto"]
    main(["run", *arguments], prog_name="prelabel.py")


def has_no_address(arguments: list[str]) -> bool:
    """Neither the configuration nor a `--set` names a cluster. False also where they are wrong: the verb says so."""
    given = run_arguments(arguments)
    if given is None:
        return False
    config, overrides = given
    if any(override.partition("=")[0].strip() == "cluster.address" for override in overrides):
        return False  # also `cluster.address=null`, which asks for a Ray of its own
    try:
        return load_config(config, overrides).cluster.address is None
    except UserError:
        return False


if __name__ == "__main__":
    prelabel(sys.argv[1:])
