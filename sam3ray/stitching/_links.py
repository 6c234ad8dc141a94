"""Which tracks of a clip's windows are one object: the result of linking, as a value and as JSON."""

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
    """An object of a window, and the clip's object that it belongs to.

    Attributes:
        score: of the clip's object: that of the detection which started it.
    """

    window: _Count
    track: _Id
    object_id: _Id
    score: _Share


@checked(config=_STRICT, frozen=True)
class Hidden:
    """Rows of a window that the clip does not show: a track's, up to the position `until`. In one piece, the clip would
    not have had the object there.
    """

    window: _Count
    track: _Id
    until: _Count


@checked(config=_STRICT, frozen=True)
class Joint:
    """A track of a window that goes on as a track of a later one, how that was found, and the agreement of their masks.

    Attributes:
        by: "overlap": on the frames that both windows show; "memory": what the object remembered finds it again,
            when its window goes on or on frames of the later track.
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
        windows: (start, until) of each window.
        tracks: every track that the clip shows, by window and track.
        hidden: by window and track.
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
        """Raises ValueError if the text is not what `dumps` gives, or gives one id to two objects of a window."""
        try:
            links = _ADAPTER.validate_json(text)
        except ValidationError as error:
            raise ValueError(f"the links of the windows are damaged: {damage(error)}") from None
        if links.format != FORMAT:
            raise ValueError(f"the links of the windows have format {links.format}; allowed: {FORMAT}")
        ids = {(each.window, each.object_id) for each in links.tracks}
        if not len(ids) == len(links.by_track) == len(links.tracks):
            raise ValueError("the links of the windows are damaged: a track or an id is there twice in one window")
        if any(each.window >= len(links.windows) for each in links.tracks):
            raise ValueError("the links of the windows are damaged: a track is of a window that is not there")
        return links


_ADAPTER = TypeAdapter(Links)
