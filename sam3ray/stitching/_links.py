"""The result of linking a clip's windows, as a value and as JSON."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from sam3ray.faults.damage import damage

FORMAT = 2
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Id = Annotated[int, Field(ge=1, le=2**31 - 1)]
_Share = Annotated[float, Field(ge=0, le=1)]


@checked(config=_STRICT, frozen=True)
class LinkedTrack:
    """An object of a window, and the clip's object to which it belongs.

    Attributes:
        score: score of the clip's object: that of the detection that started it.
    """

    window: _Count
    track: _Id
    object_id: _Id
    score: _Share


@checked(config=_STRICT, frozen=True)
class Hidden:
    """Rows of a track that the clip does not show, up to position `until`. Processed in one piece, the clip would not
    have had the object there.
    """

    window: _Count
    track: _Id
    until: _Count


@checked(config=_STRICT, frozen=True)
class Joint:
    """A track that continues as a track of a later window, how that was found, and the agreement of their masks.

    Attributes:
        by: "overlap": on frames that both windows show; "memory": the object's memory found it again on frames
            of the later track.
    """

    window: _Count
    track: _Id
    to_window: _Count
    to_track: _Id
    by: Literal["overlap", "memory"]
    agreement: _Share


@checked(config=_STRICT, frozen=True)
class Links:
    """The objects of a clip that was cut.

    Attributes:
        windows: where each window's rows start and end (exclusive).
        tracks: all tracks that the clip shows, ordered by window and track.
        hidden: hidden tracks, ordered by window and track.
    """

    format: int
    windows: tuple[tuple[_Count, _Count], ...]
    tracks: tuple[LinkedTrack, ...]
    joints: tuple[Joint, ...]
    hidden: tuple[Hidden, ...] = ()

    @cached_property
    def by_track(self) -> dict[tuple[int, int], LinkedTrack]:
        return {(each.window, each.track): each for each in self.tracks}

    @cached_property
    def hidden_until(self) -> dict[tuple[int, int], int]:
        return {(each.window, each.track): each.until for each in self.hidden}

    def is_shown(self, window: int, track: int, position: int) -> bool:
        """Whether the clip shows the track's row at a position."""
        return position >= self.hidden_until.get((window, track), 0)

    def dumps(self) -> str:
        return _ADAPTER.dump_json(self).decode()

    @classmethod
    def loads(cls, text: str | bytes) -> Links:
        """Parses the text of `dumps`. Raises ValueError if it is damaged, or an id appears twice in a window."""
        try:
            links = _ADAPTER.validate_json(text)
        except ValidationError as error:
            raise ValueError(f"the links of the windows are damaged: {damage(error)}") from None
        if links.format != FORMAT:
            raise ValueError(f"the links of the windows have format {links.format}; allowed: {FORMAT}")
        ids = {(each.window, each.object_id) for each in links.tracks}
        if not len(ids) == len(links.by_track) == len(links.tracks):
            raise ValueError("the links of the windows are damaged: a track or an id appears twice in one window")
        if any(each.window >= len(links.windows) for each in links.tracks):
            raise ValueError("the links of the windows are damaged: a track belongs to a window that does not exist")
        return links


_ADAPTER = TypeAdapter(Links)
