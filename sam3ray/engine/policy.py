"""Says when results are released, and which passes are made over a clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["forward", "backward", "both"]
Refine = Literal["onward", "throughout"]
PolicyName = Literal["whole", "live", "backward", "both", "refined"]


@dataclass(frozen=True)
class Pass:
    """One walk over the frames of a clip.

    Attributes:
        reverse: whether it goes from the last frame to the first.
        rehearsal: whether it only collects what every visual prompt shows, for the next pass, and shows nothing.
        finds: whether phrases are looked for.
        follows: whether objects of visual prompts are followed.
    """

    reverse: bool = False
    rehearsal: bool = False
    finds: bool = True
    follows: bool = True


@dataclass(frozen=True)
class Policy:
    """How a session processes a clip.

    Attributes:
        passes: in order. A backward pass after a forward one begins before the last frame on which an object started.
        live: whether results are released at once and may be retracted later; nothing is read ahead.
    """

    passes: tuple[Pass, ...] = (Pass(),)
    live: bool = False

    @property
    def both_ways(self) -> bool:
        """Whether a backward pass needs the memories of the forward one."""
        shows = [each for each in self.passes if each.follows and not each.rehearsal]
        return len(shows) == 2

    @classmethod
    def named(cls, name: str) -> Policy:
        if name not in POLICIES:
            raise ValueError(f"policy is {name!r}; allowed: {', '.join(POLICIES)}")
        return POLICIES[name]

    @classmethod
    def of(cls, direction: Direction, refine: Refine, *, finds: bool) -> Policy:
        """The policy for visual prompts with this direction, while phrases go forward."""
        reverse = direction == "backward"
        passes = [Pass(reverse=reverse, finds=finds and not reverse)]
        if refine == "throughout":
            passes.insert(0, Pass(reverse=reverse, rehearsal=True, finds=False))
        if reverse:
            passes.insert(0, Pass(finds=finds, follows=False))  # or only tells which frames there are
        if direction == "both":
            passes.append(Pass(reverse=True, finds=False))
        return cls(tuple(passes))


POLICIES = {
    "whole": Policy(),
    "live": Policy(live=True),
    "backward": Policy((Pass(reverse=True),)),
    "both": Policy((Pass(), Pass(reverse=True, finds=False))),
    "refined": Policy((Pass(rehearsal=True, finds=False), Pass())),
}
