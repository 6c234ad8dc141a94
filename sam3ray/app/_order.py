"""A page's request to the model, as a value. It comes from a browser, so everything in it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from sam3ray.config import TrackingConfig, VideoConfig
from sam3ray.failures import UserError
from sam3ray.values.clip import Clip
from sam3ray.values.exemplars import parse_exemplars
from sam3ray.values.phrases import phrases_problem
from sam3ray.values.prompt_reading import parse_visual_prompts
from sam3ray.values.prompts import ExemplarPrompt, VisualPrompt

Way = Literal["forward", "backward", "both"]
MAX_PROMPTS = 2_000

THRESHOLDS = ("score_threshold_detection", "new_det_thresh", "det_nms_thresh", "hotstart_delay", "max_num_objects")
"""The settings that the page offers, under their names in the configuration."""


@dataclass(frozen=True)
class Order:
    """One piece of work for the model.

    Attributes:
        id: made by the server.
        path, clip, limits: the video, as a local path; its range and sampling.
        phrases: looked for from `start` on.
        visual: prompts of objects that the user begins.
        refinements: prompts of objects that phrases have found by then.
        exemplars: boxes around instances of a concept.
        first, last, start: positions in the clip, `last` included: the range, and where to begin with both ways.
        way: forward from `first`, backward from `last`, or both ways from `start`.
        is_preview: one frame, answered at once and without memory.
        goes_on: the order after which this one goes on, as far as both see the same; "": none.
    """

    id: str
    path: str
    clip: Clip
    limits: VideoConfig
    phrases: tuple[str, ...] = ()
    visual: tuple[VisualPrompt, ...] = ()
    refinements: tuple[VisualPrompt, ...] = ()
    exemplars: tuple[ExemplarPrompt, ...] = ()
    first: int = 0
    last: int = 0
    start: int = 0
    way: Way = "forward"
    is_preview: bool = False
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    goes_on: str = ""

    @property
    def is_glance(self) -> bool:
        """A preview that asks for nothing: one for the same frame may follow."""
        return self.is_preview and not (self.phrases or self.visual or self.exemplars)

    @property
    def base(self) -> int:
        """Ids of objects that phrases find are above it."""
        return max((each.object_id for each in self.visual), default=0)

    def corrects(self, other: Order, *, was_ended: bool) -> bool:
        """Whether it differs from a run both ways in prompts on objects alone, so that it starts where that one did.

        Corrections name objects by the ids that they have when the clip is gone through from there.

        Args:
            was_ended: the other was not done; then it may differ in nothing.
        """
        same = replace(self, id=other.id, goes_on=other.goes_on, start=other.start)
        if self.way != "both" or replace(same, visual=other.visual, refinements=other.refinements) != other:
            return False
        return was_ended or same != other


def parse_order(
    value: Mapping[str, Any],
    order_id: str,
    *,
    path: str,
    clip: Clip,
    frames: int,
    limits: VideoConfig,
    tracking: TrackingConfig,
) -> Order:
    """Raises UserError with all that is wrong."""
    problems: list[str] = []
    phrases = _phrases(value.get("phrases", []), problems)
    visual = _visual("visual", value.get("visual", []), problems)
    refinements = _visual("refinements", value.get("refinements", []), problems, refines=True)
    exemplars, wrong = parse_exemplars(value.get("exemplars") or [])
    problems += [f"exemplars{each}" for each in wrong]
    way = value.get("way", "forward")
    if way not in get_args(Way):
        problems.append(f"way is {way!r:.40}; allowed: {', '.join(get_args(Way))}")
    last = _position("last", value.get("last", frames - 1), frames, problems)
    first = _position("first", value.get("first", 0), frames, problems)
    start = _position("start", value.get("start", first), frames, problems)
    if not problems and not first <= start <= last:
        problems.append(f"the frames are {first} to {last}, starting at {start}; allowed: first <= start <= last")
    is_preview = value.get("preview") is True
    if not (phrases or visual or exemplars or (is_preview and value.get("glance") is True)):
        problems.append("there is nothing to look for: type a phrase, click on an object or draw a box")
    settings = _tracking(value.get("thresholds", {}), tracking, problems)
    if problems:
        raise UserError(problems)
    if is_preview:
        first = last = start
    return Order(
        order_id,
        path,
        clip,
        limits,
        phrases,
        visual,
        refinements,
        exemplars,
        first,
        last,
        start,
        way,
        is_preview,
        settings,
    )


def parse_thresholds(value: Any, base: TrackingConfig) -> TrackingConfig:
    """`base` with the settings that a page changes. Raises UserError with all that is wrong."""
    problems: list[str] = []
    settings = _tracking(value, base, problems)
    if problems:
        raise UserError(problems)
    return settings


def _phrases(value: Any, problems: list[str]) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        problems.append("phrases must be a list of texts")
        return ()
    phrases = tuple(dict.fromkeys(each.strip() for each in value if each.strip()))
    if problem := phrases_problem(phrases):
        problems.append(f"the page {problem}")
    return phrases


def _visual(name: str, value: Any, problems: list[str], *, refines: bool = False) -> tuple[VisualPrompt, ...]:
    if isinstance(value, list) and len(value) > MAX_PROMPTS:
        problems.append(f"{name} has {len(value)} prompts; allowed: at most {MAX_PROMPTS}")
        return ()
    if not value:
        return ()
    prompts, wrong = parse_visual_prompts(value if isinstance(value, list) else [value], refines=refines)
    for prompt in prompts:
        if getattr(prompt, "png", ""):
            wrong.append(": a mask from a file; allowed: run lengths")  # a client names no files
            break
    problems += [each.removeprefix(": ") if each.startswith(": ") else f"{name}{each}" for each in wrong]
    return prompts


def _position(name: str, value: Any, frames: int, problems: list[str]) -> int:
    if type(value) is not int or not 0 <= value < frames:
        problems.append(f"{name} is {value!r:.40}; allowed: a frame from 0 to {frames - 1}")
        return 0
    return value


def _tracking(value: Any, base: TrackingConfig, problems: list[str]) -> TrackingConfig:
    if not isinstance(value, Mapping):
        problems.append("thresholds must be a mapping")
        return base
    if unknown := set(value) - set(THRESHOLDS):
        problems.append(f"thresholds: {min(unknown, key=str)!r:.60} is unknown; allowed: {', '.join(THRESHOLDS)}")
        return base
    given = {key: each for key, each in value.items() if each is not None}
    try:
        return TrackingConfig(**{**base.model_dump(), **given})
    except UserError as error:
        problems += error.problems
        return base
