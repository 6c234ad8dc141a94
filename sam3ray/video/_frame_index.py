"""The index of a video's frames: their times, and the key frames at which decoding can start.

It is stored beside the windows of a clip (`dumps`), so that a file without a table of its frames is read only once.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby, pairwise
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from sam3ray.faults.damage import damage

_Int64 = Annotated[int, Field(ge=-(2**62), le=2**62)]
_Place = Annotated[int, Field(ge=0, le=2**62)]
_Count = Annotated[int, Field(ge=1, le=2**31)]


@dataclass(frozen=True)
class KeyFrame:
    """Attributes:
    pts: pts of the frame.
    seek_to: timestamp for seeking.
    byte: position of its packet in the file; None if unknown.
    piece: start of the fragment or cluster with the packet (`sam3ray.video._pieces`).
    """

    pts: int
    seek_to: int
    byte: int | None
    piece: int | None = None


@dataclass(frozen=True)
class SeekPoint:
    """A key frame to start at.

    Attributes:
        key_frame: the frame. In a joined file, a seek may reach a frame with the same stamp in another part; its byte
            differs.
        ranks: pts -> frame index, for all frames up to the beginning of the range.
        first_rank: index of the key frame.
        wanted_rank: index of the first frame of the range.
        start: the pts that counts as 0 s.
    """

    key_frame: KeyFrame
    ranks: Mapping[int, int]
    first_rank: int
    wanted_rank: int
    start: int


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """The first frames of a video, in display order.

    Attributes:
        pts: pts of each frame, ascending, in `time_base` units; complete up to `until_s`, perhaps incomplete after it.
        start: the pts that counts as 0 s.
        key_frames: frames to which one can seek.
        until_s: requested end in seconds; None: the end of the video.
    """

    pts: Sequence[int]
    start: int
    time_base: Fraction
    key_frames: Sequence[KeyFrame]
    until_s: float | None = None

    def reaches(self, until_s: float | None) -> bool:
        return self.until_s is None or (until_s is not None and until_s <= self.until_s)

    def byte_after(self, index: int) -> int | None:
        """Position of the first key frame after this frame; None if unknown."""
        last = self.pts[index]
        return min((key.byte for key in self.key_frames if key.pts > last and key.byte is not None), default=None)

    def dumps(self) -> str:
        steps = [(step, len(list(same))) for step, same in groupby(b - a for a, b in pairwise(self.pts))]
        keys = [(key.pts, key.seek_to, key.byte, key.piece) for key in self.key_frames]
        unit = self.time_base.numerator, self.time_base.denominator
        return _KEPT.dump_json(_Kept(self.start, unit, self.until_s, self.pts[0], steps, keys)).decode()

    @classmethod
    def loads(cls, text: str, most_frames: int) -> FrameIndex:
        """Parses an index. Raises ValueError if it is damaged or has more than `most_frames` frames."""
        try:
            kept = _KEPT.validate_json(text)
        except ValidationError as error:
            raise ValueError(f"the index of its frames is damaged: {damage(error)}") from None
        if sum(count for _, count in kept.steps) >= most_frames:
            raise ValueError(f"the index of its frames has more than {most_frames}")
        pts = array("q", [kept.first])
        for step, count in kept.steps:
            last = pts[-1]
            pts.extend(last + step * number for number in range(1, count + 1))
        return cls(pts, kept.start, Fraction(*kept.unit), [KeyFrame(*key) for key in kept.keys], kept.until_s)


@checked(config=ConfigDict(strict=True, extra="forbid"))
class _Kept:
    """Attributes:
    unit: the time base.
    first: pts of the first frame.
    steps: (interval to the next frame, number of repetitions).
    """

    start: _Int64
    unit: tuple[_Count, _Count]
    until_s: float | None
    first: _Int64
    steps: list[tuple[Annotated[int, Field(ge=1, le=2**40)], _Count]]
    keys: list[tuple[_Int64, _Int64, _Place | None, _Place | None]]


_KEPT = TypeAdapter(_Kept)
