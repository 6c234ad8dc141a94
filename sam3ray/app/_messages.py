"""The messages between the page's server and the model's process. Nothing here imports the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sam3ray.config import TrackingConfig
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.prompts import VisualPrompt


@dataclass(frozen=True)
class Ready:
    info: dict[str, Any]


@dataclass(frozen=True)
class Unfit:
    """Why the model cannot be loaded."""

    message: str


@dataclass(frozen=True)
class Cancel:
    order_id: str


@dataclass(frozen=True)
class Kept:
    """What a run takes over from the one that it goes on from.

    Attributes:
        frames: their indices.
        own: objects that the user began: "begun" are those whose first prompt is not on a later frame.
        found: whether those of phrases are.
        moved: those whose ids are not below the first number get ids that are higher by the second.
    """

    frames: tuple[int, ...]
    own: Literal["all", "begun", "none"] = "all"
    found: bool = True
    moved: tuple[int, int] = (1, 0)


@dataclass(frozen=True)
class Found:
    """Frames that are final, and the progress of the work.

    Attributes:
        frames: if a frame came before, these objects are added to it.
        done, total: steps of the model.
        kept: what is taken over, before these frames.
    """

    frames: tuple[FrameAnnotations, ...]
    done: int
    total: int
    kept: tuple[Kept, ...] = ()


@dataclass(frozen=True)
class Update:
    order_id: str
    found: Found


@dataclass(frozen=True)
class Restarted:
    """Out of memory: the order starts over with smaller batches, and what was found so far is discarded."""

    order_id: str
    rung: int


@dataclass(frozen=True)
class Ended:
    order_id: str
    how: str  # done, cancelled, failed
    message: str = ""


@dataclass(frozen=True, eq=False)
class Look:
    """The next frame of a live view.

    Attributes:
        view: its name; it begins with its first frame.
        anew: forget everything seen before.
        pointed: prompts on an earlier frame, whose picture is `at`; the model sees that picture first. Their frame is
            put in here, and so is the id of an object that is new (0).
        drop: ids to drop.
        first_id: where ids begin, for the view's first frame.
        tracking: thresholds; None: the model's own. Where they change, the view starts over, and its ids go on.
    """

    view: str
    image: np.ndarray
    time_s: float
    phrases: tuple[str, ...] = ()
    anew: bool = False
    pointed: tuple[VisualPrompt, ...] = ()
    at: np.ndarray | None = None
    drop: tuple[int, ...] = ()
    first_id: int = 1
    tracking: TrackingConfig | None = None


@dataclass(frozen=True)
class Seen:
    """Objects on the frame.

    Attributes:
        problem: why a request was not valid; the frame was processed all the same.
        refused: which requests those were: phrases, thresholds, drop, point. Former phrases and thresholds apply.
    """

    view: str
    found: FrameAnnotations
    tentative: frozenset[int]
    retracted: frozenset[int]
    next_id: int
    seconds: float
    problem: str = ""
    refused: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Blind:
    """Why a frame of a live view could not be processed. The view starts over."""

    view: str
    message: str


@dataclass(frozen=True)
class Leave:
    """A live view is over."""

    view: str
