"""Finds a run, whether the caller names its folder or its configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

from sam3ray.config._load import ConfigSource, load_config
from sam3ray.config._models import JobConfig
from sam3ray.failures import UserError
from sam3ray.files import resolve

_CONFIG_SUFFIXES = (".yaml", ".yml")


class PlacedRun(Protocol):
    """An object with the place of its run, such as `sam3ray.Run`."""

    @property
    def output(self) -> str: ...

    @property
    def storage(self) -> Mapping[str, Any]: ...


RunSource = ConfigSource | PlacedRun


def run_place(run: RunSource, storage_options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    """The output folder of a run, and the fsspec options to reach it.

    Args:
        run: the output folder (a path or an address), or the job's configuration: a YAML file, a dict or a `JobConfig`.
            A dict needs only `output`.
        storage_options: these override those of the configuration.

    Raises:
        UserError: it is none of these, or the configuration has errors.
    """
    config: JobConfig | PlacedRun
    if isinstance(run, str | os.PathLike):
        place = os.fspath(run)
        if not place.lower().endswith(_CONFIG_SUFFIXES) or os.path.isdir(place):
            return resolve(place), dict(storage_options or {})
        config = load_config(place)
    elif isinstance(run, Mapping):
        config = load_config({"manifest": "none", **run})
    elif isinstance(run, JobConfig):
        config = load_config(run)
    elif hasattr(run, "output") and hasattr(run, "storage"):
        config = run
    else:
        raise UserError(
            f"run is {run!r:.80}; allowed: an output folder, or the YAML file, dict or JobConfig of the job"
        )
    return config.output, dict(config.storage if storage_options is None else storage_options)
