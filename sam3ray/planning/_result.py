"""The result of `plan`, as a value."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from sam3ray.display import html
from sam3ray.display.readable import byte_size, counted
from sam3ray.planning._estimate import Estimate
from sam3ray.planning._sharing import Sharing
from sam3ray.planning._windows import Windowing

MAX_LISTED = 1_000  # unreadable clips listed one by one; the rest are counted


@dataclass(frozen=True)
class Unreadable:
    """A clip that cannot be labelled, and why."""

    clip_id: str
    uri: str
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """What `run` would find and do.

    Attributes:
        clips: number of clips in the manifest.
        done: clips finished already.
        settled: clips that failed for good, by reason; `retry` clears them.
        to_do: clips that `run` would try, including the unreadable ones.
        unreadable: clips to do that would fail, by reason.
        frames, hours: of the readable clips to do, after sampling, as far as headers show.
        unknown_length: clips to do whose headers do not contain their length.
        listed: the unreadable clips, at most MAX_LISTED.
        refusals: why `run` would refuse this output folder; empty if it would accept it.
        sampled: how many of the clips to do were probed; None if all were. With a sample, frames, hours, unknown_length
            and the estimate are scaled up; unreadable and listed are not.
        notices: what could not be checked now; `run` will check it.
        asked: how many clips of the manifest have phrases, exemplars, visual prompts.
        sequential: clips to do that cannot be cut into parallel windows, by reason.
        windows: how clips would be saved in windows.
        sharing: what cutting long clips into parallel windows gains, or would gain.
    """

    manifest: str
    output: str
    clips: int
    done: int
    settled: dict[str, int]
    to_do: int
    frames: int
    hours: float
    unknown_length: int
    unreadable: dict[str, int]
    estimate: Estimate
    listed: tuple[Unreadable, ...] = ()
    refusals: tuple[str, ...] = ()
    sampled: int | None = None
    notices: tuple[str, ...] = ()
    asked: dict[str, int] = field(default_factory=dict)
    sequential: dict[str, int] = field(default_factory=dict)
    windows: Windowing | None = None
    sharing: Sharing | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def facts(self) -> dict[str, Any]:
        """Names and values for people to read."""
        cost = self.estimate
        return {
            "manifest": self.manifest,
            "output": self.output,
            "clips": self.clips,
            "prompted by": {kind: count for kind, count in self.asked.items() if count},
            "done": self.done,
            "failed for good": self.settled,
            "to do": self.to_do,
            "probed": None if self.sampled is None else f"{self.sampled:,} of them; frames, hours, cost scaled up",
            "windows": None if self.windows is None else self.windows.text,
            "parallel windows": None if self.sharing is None else _sharing_words(self.sharing),
            "sequential": self.sequential,
            "unreadable": self.unreadable,
            "frames": self.frames,
            "hours of video": f"{self.hours:,.2f}",
            "length unknown": self.unknown_length or None,
            "output size": f"about {byte_size(cost.output_bytes)}",
            f"{cost.device} time": "not estimated" if cost.actor_hours is None else _hours(cost.actor_hours),
            "time until done": None if cost.wall_hours is None else _hours(cost.wall_hours),
            "assuming": "; ".join(cost.assumptions),
        }

    def _repr_html_(self) -> str:
        """For notebooks: the figures, and the unreadable clips."""
        values = {name: _in_words(value) for name, value in self.facts().items()}
        clips = [(each.clip_id, each.reason, each.message, each.uri) for each in self.listed[:_SHOWN]]
        listed = html.table(("clip", "reason", "what is wrong", "uri"), clips) if clips else ""
        refusals = html.facts(
            "`run` would refuse this output folder", {str(n): each for n, each in enumerate(self.refusals, 1)}
        )
        return html.facts("plan", values) + listed + (refusals if self.refusals else "")


_SHOWN = 20


def _in_words(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count:,}" for name, count in value.items())
    return f"{value:,}" if isinstance(value, int) else value


def _sharing_words(sharing: Sharing) -> str | None:
    if not sharing.clips:
        return "no clip is long enough" if sharing.mode == "parallel" else None
    verb = ("is" if sharing.clips == 1 else "are") if sharing.mode == "parallel" else "would be"
    clips = f"{counted(sharing.clips, 'clip')} {verb} cut into {counted(sharing.windows, 'window')}"
    text = f"{clips}, {counted(sharing.extra_frames, 'more frame')}"
    if sharing.whole_hours is None or sharing.cut_hours is None:
        return text if sharing.mode == "parallel" else f"{text} with windows.mode parallel"
    cut, whole = _hours(sharing.cut_hours), _hours(sharing.whole_hours)
    if sharing.mode == "parallel":
        return f"{text}; the job takes {cut}, or {whole} with every clip in one piece"
    return f"{text} with windows.mode parallel; the job would take {cut} instead of {whole}"


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"about {hours * 3600:.0f} s"
    return f"about {hours * 60:.0f} min" if hours < 1 else f"about {hours:,.1f} h"
