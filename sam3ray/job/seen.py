"""Facts about a video that only reading its frames reveals."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass as checked

from sam3ray.faults.damage import damage


@checked(config=ConfigDict(strict=True, extra="forbid"), frozen=True)
class Seen:
    """These facts, as they are stored in the metadata of annotations.

    Attributes:
        clock: source of the frames' times; empty: no frame was read.
        frame_names: file names of a folder of frames, by frame index.
        anchor: where reading the video can continue (`sam3ray.video.Anchor`); no result depends on it.
    """

    clock: Literal["", "container", "rebuilt", "folder_fps"] = ""
    frame_names: dict[str, str] = field(default_factory=dict)
    anchor: dict[str, Any] | None = None

    @classmethod
    def of(cls, facts: Any) -> Seen:
        """Reads the facts from metadata. Raises ValueError if they are damaged."""
        if not isinstance(facts, dict):
            raise ValueError("its facts about the video are not a mapping")
        try:
            return cls(**facts)
        except ValidationError as error:
            raise ValueError(f"its facts about the video are damaged: {damage(error)}") from None

    @property
    def facts(self) -> dict[str, Any]:
        """The facts as entries for the metadata of annotations."""
        values = {"clock": self.clock, "frame_names": self.frame_names}
        return {name: value for name, value in values.items() if value}

    @property
    def kept(self) -> dict[str, Any]:
        """The facts as entries for a window."""
        return self.facts | ({"anchor": self.anchor} if self.anchor else {})

    def joined(self, later: Seen) -> Seen:
        """Both facts together. If times were rebuilt in either, the clock counts as rebuilt."""
        clock = self.clock if self.clock == "rebuilt" else later.clock or self.clock
        return Seen(clock, {**self.frame_names, **later.frame_names}, later.anchor)

    def beyond(self, before: Seen) -> Seen:
        """The facts without the file names that were already known."""
        names = {i: name for i, name in self.frame_names.items() if i not in before.frame_names}
        return Seen(self.clock, names, self.anchor)
