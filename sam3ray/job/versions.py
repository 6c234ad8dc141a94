"""The software versions in every annotation file and failure record."""

from __future__ import annotations

import contextlib
import platform
from importlib import metadata


def software_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("sam3ray", "torch", "transformers", "ray", "av"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
