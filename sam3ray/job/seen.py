"""What only reading the frames of a video reveals."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass as checked

from sam3ray.faults.damage import damage


@checked(config=ConfigDict(strict=True, extra="forbid"), frozen=True)
class Seen:
    """Facts as stored in the metadata of annotations.

    Attributes:
        clock: the source of times; empty: no frame was read.
        frame_names: of the files of a folder, by index.
        anchor: where reading the video can continue (`sam3ray.video.Anchor`); no result depends on it.
    """

    clock: Literal["", "container", "rebuilt", "folder_fps"] = ""
    frame_names: dict[str, str] = field(default_factory=dict)
    anchor: dict[str, Any] | None = None

    @classmethod
    def of(cls, facts: Any) -> Seen:
        """Raises ValueError if a file disagrees."""
        if not isinstance(facts, dict):
            raise ValueError("its facts about the video are not a mapping")
        try:
            return cls(**facts)
        except ValidationError as error:
            raise ValueError(f"its facts about the video are damaged: {damage(error)}") from None

    @property
    def facts(self) -> dict[str, Any]:
        """For the metadata of the annotations."""
        values = {"clock": self.clock, "frame_names": self.frame_names}
        return {name: value for name, value in values.items() if value}

    @property
    def kept(self) -> dict[str, Any]:
        """For a window."""
        return self.facts | ({"anchor": self.anchor} if self.anchor else {})

    def joined(self, later: Seen) -> Seen:
        """A clock that was rebuilt anywhere counts as rebuilt."""
        clock = self.clock if self.clock == "rebuilt" else later.clock or self.clock
        return Seen(clock, {**self.frame_names, **later.frame_names}, later.anchor)

    def beyond(self, before: Seen) -> Seen:
        """The facts without the names that were known before."""
        names = {i: name for i, name in self.frame_names.items() if i not in before.frame_names}
        return Seen(self.clock, names, self.anchor)
