"""`sam3ray run` as the entry point of a submitted job: `ray job submit -- python jobs/prelabel.py CONFIG`.

Takes the arguments of `sam3ray run`. Without `cluster.address` in the configuration, it uses the cluster to which the
job was submitted (Ray sets RAY_ADDRESS), instead of starting Ray.
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
    """Whether neither the configuration nor a `--set` names a cluster. False if they are invalid, which the verb
    reports.
    """
    given = run_arguments(arguments)
    if given is None:
        return False
    config, overrides = given
    if any(override.partition("=")[0].strip() == "cluster.address" for override in overrides):
        return False  # also `cluster.address=null`, which asks for a new Ray
    try:
        return load_config(config, overrides).cluster.address is None
    except UserError:
        return False


if __name__ == "__main__":
    prelabel(sys.argv[1:])
