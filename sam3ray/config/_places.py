"""Checks the addresses in a configuration."""

from __future__ import annotations

import os
from collections.abc import Collection

from sam3ray.guard.addresses import AddressError, folder_form, one_form, scheme_of
from sam3ray.guard.protocols import protocol_problem
from sam3ray.guard.redact import redact

_RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the entry point of a submitted job


def problem_of(key: str, place: str, more_protocols: Collection[str] = ()) -> str:
    """Why this key cannot have this address, as the end of a sentence; empty if it can."""
    try:
        if key == "output":
            _check_output(place)
        elif key in ("video.cache_dir", "model.cache_dir") and scheme_of(place) != "file":
            raise AddressError("is not a local path; allowed: a folder on each node's own disk")
        else:
            one_form(place)
            if problem := protocol_problem(place, more_protocols):
                raise AddressError(problem)
    except AddressError as error:
        return f"{key} {redact(place)} {error}"
    return ""


def _check_output(place: str) -> None:
    folder_form(place)
    if scheme_of(place) == "memory":
        raise AddressError(
            "exists only within this process, so no worker can see it; allowed: a path, s3://, gs:// or az://"
        )
    relative = "://" not in place and not os.path.isabs(os.path.expanduser(place))
    if relative and _RAY_JOB in os.environ:
        raise AddressError(
            "is a relative path, and in a Ray job that is inside Ray's temporary copy of the job's files; "
            "allowed: an absolute path on storage that all nodes share, s3://, gs:// or az://"
        )


def same_place(output: str, manifest: str) -> bool:
    """Whether two valid addresses are the same place."""
    return folder_form(output) == one_form(manifest).rstrip("/")
