"""Joins the windows of a long clip that were processed separately, so that each object keeps one id throughout.

    segment_window      the rows of one window, and its objects' memories
    link                the objects that are the same: by masks on shared frames, then by memories of lost objects
    merge               the rows of the clip

`link_windows` is `link` without a model: it takes any `Probe`, or none. Modules that need a model are imported on first
use, so merging does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._following import Following
from ._link import Probe, link_windows
from ._links import Joint, LinkedTrack, Links
from ._merge import merge
from ._tracks import Track, Window

if TYPE_CHECKING:
    from ._probe import MemoryProbe, link
    from ._window import segment_window

__all__ = [
    "Following",
    "Joint",
    "LinkedTrack",
    "Links",
    "MemoryProbe",
    "Probe",
    "Track",
    "Window",
    "link",
    "link_windows",
    "merge",
    "segment_window",
]

_HOMES = {"MemoryProbe": "_probe", "link": "_probe", "segment_window": "_window"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
