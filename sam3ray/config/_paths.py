"""Resolves relative paths of a configuration file: beside the file, or in the current directory with a warning.

An input (manifest, prompts, a checkpoint's folder) is looked for beside the file, then in the current directory. The
output is beside the file, unless there is a run in the current directory and none beside the file. Paths in `--set`
and dicts are typed by hand, so they mean the current directory.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from collections.abc import Callable, Mapping
from typing import Any

from sam3ray.config._models import JobConfig
from sam3ray.failures import UserError
from sam3ray.files import filesystem, is_local, local_path

_LOG = logging.getLogger(__name__)
_MAGIC = re.compile(r"[*?\[]")


def beside_file(config: JobConfig, source: str, origin: Callable[[str], str | None]) -> JobConfig:
    """The configuration, with the relative paths of its file made absolute.

    Args:
        source: the file's path or address.
        origin: where a key was given, such as "job.yaml line 3"; None if not in the file.
    """
    base = os.path.dirname(os.path.abspath(local_path(source))) if is_local(source) else posixpath.dirname(source)
    update: dict[str, Any] = {}
    for key in ("manifest", "visual_prompts", "exemplars"):
        place = getattr(config, key)
        if isinstance(place, str) and (line := origin(key)) and _is_relative(place):
            update[key] = _of_two(key, line, _joined(base, place), place, lambda each: _exists(each, config.storage))
    if (line := origin("output")) and _is_relative(config.output):
        beside = _joined(base, config.output)
        update["output"] = _of_two(
            "output", line, beside, config.output, lambda each: _exists(f"{each.rstrip('/')}/run.json", config.storage)
        )
    checkpoint = config.model.checkpoint
    if (line := origin("model.checkpoint")) and checkpoint != "embedded" and _is_relative(checkpoint):
        named_as_path = checkpoint.startswith(".")  # otherwise it may be a hub id, such as facebook/sam3
        folder = _of_two("model.checkpoint", line, _joined(base, checkpoint), checkpoint, os.path.isdir)
        if named_as_path or os.path.isdir(folder):
            update["model"] = config.model.model_copy(update={"checkpoint": folder})
    return config.model_copy(update=update)


def _is_relative(place: str) -> bool:
    return "://" not in place and "::" not in place and not os.path.isabs(os.path.expanduser(place))


def _joined(base: str, place: str) -> str:
    if is_local(base):
        # normpath drops a slash at the end, which marks a folder.
        return os.path.normpath(os.path.join(base, place)) + ("/" if place.endswith("/") else "")
    scheme, _, path = base.partition("://")
    return f"{scheme}://{posixpath.normpath(posixpath.join(path, place))}"


def _of_two(key: str, line: str, beside: str, place: str, is_there: Callable[[str], bool]) -> str:
    here = os.path.abspath(place) + ("/" if place.endswith("/") else "")
    if beside == here or not is_there(here) or is_there(beside):
        return beside
    _LOG.warning(
        "%s: %s is resolved in the current directory, %s, because there is no %s beside the file",
        line,
        key,
        here,
        beside,
    )
    return here


def _exists(place: str, storage: Mapping[str, Any]) -> bool:
    """Whether a path exists; of a pattern, whether the folder exists in which it starts."""
    if is_local(place):
        if os.path.lexists(place):
            return True
        magic = _MAGIC.search(place)
        return magic is not None and os.path.isdir(place[: magic.start()].rpartition("/")[0])
    try:
        fs, path = filesystem(place, storage, what="config")
        return bool(fs.exists(path))
    except (UserError, OSError):
        return False  # reading it will report the problem
