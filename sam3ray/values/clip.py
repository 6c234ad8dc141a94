"""One unit of work, and the list of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sam3ray.values.prompts import ExemplarPrompt, VisualPrompt

if TYPE_CHECKING:
    import pyarrow as pa

_NOTHING: dict[str, Any] = {}  # shared, so that a million clips do not need a dict each


def _nothing() -> Mapping[str, Any]:
    return _NOTHING


@dataclass(frozen=True, slots=True)
class Clip:
    """One unit of work: a video, or a range of one, and what to find in it.

    Attributes:
        clip_id: `[A-Za-z0-9._-]{1,200}`, beginning with neither `.` nor `_`, unique in the manifest.
        uri: a video file or a folder of numbered JPEG, PNG or WebP frames, on any fsspec storage; local paths are
            absolute.
        prompts: phrases, including those of its exemplars; empty only if the clip has other prompts.
        start_s, end_s: range in seconds from the video's start, end exclusive; None is open.
        fps: sample at this rate; None is every frame.
        source: the video's first sighting (`sam3ray.files.sighting`); None if there is none yet.
        carried: the manifest's other columns, passed through to `clips.parquet` unchanged.
        exemplars: each with a phrase or a label.
    """

    clip_id: str
    uri: str
    prompts: tuple[str, ...] = ()
    start_s: float | None = None
    end_s: float | None = None
    fps: float | None = None
    visual_prompts: tuple[VisualPrompt, ...] = ()
    carried: Mapping[str, Any] = field(default_factory=_nothing)
    source: str | None = field(default=None, compare=False)
    exemplars: tuple[ExemplarPrompt, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All values that the `prompt` column of its rows may have, in the order of the prompts."""
        given = (*self.prompts, *(e.name for e in self.exemplars), *(v.label for v in self.visual_prompts))
        return tuple(dict.fromkeys(given))


class Manifest(list[Clip]):
    """The clips, in the manifest's order.

    Attributes:
        carried: the manifest's other columns with their own Arrow types, with row i for clip i; None if there
            are none. `Clip.carried` has the same values as Python objects (nanosecond times, which Python lacks, as
            integers).
    """

    def __init__(self, clips: Iterable[Clip] = (), carried: pa.Table | None = None) -> None:
        super().__init__(clips)
        self.carried = carried
