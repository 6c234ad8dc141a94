"""Live views of pages: a webcam whose frames the browser sends, or a camera that the server watches for everybody.

One frame is processed at a time: the browser sends its newest frame when it has the answer to the one before. A click
applies to the picture that was shown. That picture is kept until the model has seen it again with the click.
"""

from __future__ import annotations

import io
import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sam3ray.app._desk import Desk, Unseen
from sam3ray.app._messages import Look, Seen
from sam3ray.app._options import AppOptions
from sam3ray.app._order import THRESHOLDS, parse_thresholds
from sam3ray.app._results import frame_json
from sam3ray.cameras import LiveFrame, watch
from sam3ray.config import TrackingConfig
from sam3ray.failures import ClipError, JobStopped, NotNow, UserError
from sam3ray.guard.redact import redact
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.phrases import phrases_problem
from sam3ray.values.prompt_reading import parse_visual_prompts
from sam3ray.values.prompts import MaskPrompt, VisualPrompt

_LOG = logging.getLogger(__name__)
_KEPT, _KEPT_BYTES = 24, 2**28  # pictures that can still be clicked on; fewer large ones
_MAX_SIDE = 4096
_JPEG_QUALITY = 80
_WAIT_S, _LONGEST_WAIT_S = 0.5, 10.0  # for a model that could not look
_MOST_ASKED = 100  # clicks, and drops, that may wait for the model
_NEW_OBJECT = 2**31 - 1  # a page's name for an object that it begins


class DeskView:
    """A live view whose model is at the desk. See `sam3ray.cameras.View`.

    Args:
        base: the thresholds that the page was started with.

    Attributes:
        problem: why the last request was not valid; "" if it was.
    """

    def __init__(self, desk: Desk, base: TrackingConfig) -> None:
        self._desk = desk
        self._name = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._pictures: OrderedDict[int, np.ndarray] = OrderedDict()
        self._pointed: list[tuple[np.ndarray, tuple[VisualPrompt, ...]]] = []  # by picture, in order
        self._drop: dict[int, None] = {}
        self._anew = False
        self._base = base
        self._tracking = base
        self._accepted: tuple[tuple[str, ...], TrackingConfig] = (), base  # by the model, last
        self._next_id = 1
        self.phrases: tuple[str, ...] = ()
        self.problem = ""
        self.seconds = 0.0

    @property
    def hotstart_delay(self) -> int:
        if self._tracking.hotstart_delay is not None:
            return self._tracking.hotstart_delay
        return int(self.model_info.get("thresholds", {}).get("hotstart_delay", 15))

    @property
    def changed_thresholds(self) -> dict[str, Any]:
        now, base = self._tracking.model_dump(), self._base.model_dump()
        return {name: now[name] for name in THRESHOLDS if now[name] != base[name]}

    @property
    def model_info(self) -> dict[str, Any]:
        return self._desk.info

    @property
    def next_id(self) -> int:
        return self._next_id

    def start_ids_at(self, first: int) -> None:
        self._next_id = max(1, first)

    def begin_anew(self) -> None:
        self._anew = True

    def step(self, image: np.ndarray, time_s: float) -> tuple[FrameAnnotations, frozenset[int], frozenset[int]]:
        seen = self.look(image, time_s)
        return seen.found, seen.tentative, seen.retracted

    def look(self, image: np.ndarray, time_s: float) -> Seen:
        """Raises NotNow, UserError: as `Desk.look`."""
        with self._lock:
            at, pointed = self._pointed.pop(0) if self._pointed else (None, ())
            asked = Look(
                self._name,
                image,
                time_s,
                self.phrases,
                self._anew,
                pointed,
                at,
                tuple(self._drop),
                self._next_id,
                self._tracking,
            )
            self._drop, self._anew = {}, False
        try:
            seen = self._desk.look(asked)
        except NotNow:
            self._ask_again(asked)
            raise
        self._next_id, self.problem, self.seconds = seen.next_id, seen.problem, seen.seconds
        self._keep_to_what_is_accepted(asked, seen)
        return seen

    def _keep_to_what_is_accepted(self, asked: Look, seen: Seen) -> None:
        """What the model has refused is not asked again with each frame."""
        assert asked.tracking is not None
        phrases, tracking = self._accepted
        with self._lock:
            if "phrases" not in seen.refused:
                phrases = asked.phrases
            elif self.phrases == asked.phrases:
                self.phrases = phrases
            if "thresholds" not in seen.refused:
                tracking = asked.tracking
            elif self._tracking == asked.tracking:
                self._tracking = tracking
            self._accepted = phrases, tracking

    def _ask_again(self, asked: Look) -> None:
        """Clicks that the model has not seen, on new objects: those of other clicks are gone with its process."""
        with self._lock:
            waiting = [*([] if asked.at is None else [(asked.at, asked.pointed)]), *self._pointed]
            new = ((at, tuple(each for each in pointed if each.object_id == 0)) for at, pointed in waiting)
            self._pointed = [(at, pointed) for at, pointed in new if pointed]

    def keep(self, ticket: int, image: np.ndarray) -> None:
        """A picture that a page shows, or will show when the answer comes."""
        with self._lock:
            self._pictures[ticket] = image
            most = min(_KEPT, max(2, _KEPT_BYTES // image.nbytes))
            while len(self._pictures) > most:
                self._pictures.popitem(last=False)

    def ask(self, message: Mapping[str, Any]) -> None:
        """Applies what a page asks for: phrases, thresholds, a click or box on a picture, an object to drop.

        Several pages may ask the same view: each says what it adds, removes and changes.

        Raises:
            UserError: it is not valid, or the picture is no longer kept.
        """
        do = message.get("do")
        if do == "phrases":
            with self._lock:
                self.phrases = _changed(self.phrases, message)
        elif do == "thresholds":
            if "change" in message:
                self._tracking = parse_thresholds(message["change"], self._tracking)
            else:
                self._tracking = parse_thresholds(message.get("thresholds"), self._base)
        elif do == "point":
            self._point(message)
        elif do == "drop":
            object_id = message.get("object")
            if type(object_id) is not int or object_id < 1:
                raise UserError(f"object is {object_id!r:.40}; allowed: an id from 1")
            with self._lock:
                if len(self._drop) >= _MOST_ASKED:
                    raise UserError(f"{_MOST_ASKED} objects are to be dropped already: wait for the model")
                self._drop[object_id] = None

    def _point(self, message: Mapping[str, Any]) -> None:
        item = message.get("item")
        if not isinstance(item, Mapping):
            raise UserError("a click must be a mapping")
        object_id = item.get("object_id") or _NEW_OBJECT
        named = {"label": "clicked", **item, "frame": 0, "object_id": object_id}
        prompts, problems = parse_visual_prompts([named])
        if problems:
            raise UserError([f"the click{each}" for each in problems])
        if any(isinstance(each, MaskPrompt) for each in prompts):
            raise UserError("live video takes clicks and boxes, not masks")
        ticket = message.get("ticket")
        with self._lock:
            at = self._pictures.get(ticket) if isinstance(ticket, int) else None
            if at is None:
                raise UserError("the picture that was clicked on is no longer kept: click again")
            if sum(len(pointed) for _, pointed in self._pointed) >= _MOST_ASKED:
                raise UserError(f"{_MOST_ASKED} clicks wait for the model already: click again later")
            new = tuple(_as_new(each) if each.object_id == _NEW_OBJECT else each for each in prompts)
            if self._pointed and self._pointed[-1][0] is at:
                new = (*self._pointed.pop()[1], *new)
            self._pointed.append((at, new))

    def asked(self) -> dict[str, Any]:
        """What is looked for, for the pages that show it: others may have changed it."""
        return {"phrases": list(self.phrases), "thresholds": self.changed_thresholds}

    def close(self) -> None:
        self._desk.leave(self._name)


def _changed(phrases: tuple[str, ...], message: Mapping[str, Any]) -> tuple[str, ...]:
    """Phrases after a page has named all of them, or those to add and remove. Raises UserError."""
    given = {name: message.get(name, []) for name in ("phrases", "add", "remove")}
    for each in given.values():
        if not isinstance(each, list) or not all(isinstance(text, str) for text in each):
            raise UserError("phrases must be a list of texts")
    before = given["phrases"] if "phrases" in message else [each for each in phrases if each not in given["remove"]]
    changed = tuple(dict.fromkeys(text.strip() for text in (*before, *given["add"]) if text.strip()))
    if problem := phrases_problem(changed):
        raise UserError(f"the page {problem}")
    return changed


def _as_new(prompt: VisualPrompt) -> VisualPrompt:
    return replace(prompt, object_id=0)


def decode_picture(data: bytes) -> np.ndarray:
    """A JPEG or WebP from a browser as RGB. Raises UserError."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "WEBP")) as picture:
            if max(picture.size) > _MAX_SIDE:
                raise UserError(f"the picture has {picture.width}x{picture.height} pixels; allowed: {_MAX_SIDE} a side")
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UserError("this is not a picture; allowed: JPEG or WebP") from None


def seen_json(seen: Seen, ticket: int) -> dict[str, Any]:
    return {
        "event": "seen",
        "ticket": ticket,
        "height": seen.found.height,
        "width": seen.found.width,
        "frame": frame_json(seen.found),
        "tentative": sorted(seen.tentative),
        "retracted": sorted(seen.retracted),
        "seconds": round(seen.seconds, 3),
        "problem": seen.problem,
    }


class Show:
    """A camera that the server watches in a thread, for all pages, recording if asked to.

    A picture is encoded and sent while the model works on it, and its objects follow.

    Attributes:
        problem: why no new picture comes, in a sentence; "" if they come.
    """

    def __init__(self, desk: Desk, options: AppOptions, source: str) -> None:
        self.view = _ShownView(desk, options.tracking, self._begin)
        self.view.phrases = options.phrases
        self._desk, self._options, self._source = desk, options, source
        self._changed = threading.Condition()
        self._ticket = 0
        self._encoder = ThreadPoolExecutor(1, "pictures")
        self._pictures: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._found: OrderedDict[int, tuple[float, dict[str, Any]]] = OrderedDict()  # when received, and what is on it
        self._is_looking = False
        self._over = threading.Event()
        self.problem = ""
        self._thread = threading.Thread(target=self._run, name="show", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends it; what was recorded is committed, however long that takes."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(None if self._options.record is not None else 30)
        self._encoder.shutdown(wait=False)

    def picture(self, after: int, timeout_s: float = 1.0) -> tuple[int, bytes] | None:
        """The newest picture with a higher ticket: the last whose objects are known, else the one under way."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest(after) > after, timeout_s)
            ticket = self._newest(after)
            coming = self._pictures.get(ticket) if ticket > after else None
        return None if coming is None else (ticket, coming.result())

    def _newest(self, after: int) -> int:
        known = next(reversed(self._found), 0)
        return self._ticket if self._is_looking and known <= after else known

    def found(self, ticket: int, timeout_s: float = 1.0) -> dict[str, Any] | None:
        """What is on a picture; None: the model could not say it.

        Raises:
            TimeoutError: the model is still looking. It will answer, since the desk restarts one that hangs.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not self._is_awaited(ticket), timeout_s):
                raise TimeoutError
            received, about = self._found.get(ticket, (0.0, None))
        return None if about is None else about | {"age": round(time.time() - received, 3)}

    def _is_awaited(self, ticket: int) -> bool:
        return self._is_looking and ticket == self._ticket and not self._over.is_set()

    def _run(self) -> None:
        options, wait_s = self._options, _WAIT_S
        while not self._over.is_set():
            while self._desk.is_loading and not self._over.is_set():
                self._say(self._desk.message)
                time.sleep(0.1)
            try:
                frames = watch(
                    self._source,
                    self.view,
                    output=options.record,
                    record_video=options.record_video,
                    every_frame=options.every_frame,
                    storage_options=options.storage,
                    settings=options.live,
                    limits=options.video,
                    listen=options.listen,
                    told=self._say,
                    stop=self._over,
                )
                with closing(frames):  # type: ignore[type-var]
                    for frame in frames:
                        wait_s = _WAIT_S
                        self._put(frame)
                if not self._over.is_set():
                    self._fail("the source has ended")
                return
            except (NotNow, Unseen) as error:
                self._fail(str(error))
                self._over.wait(wait_s)  # the model comes back; the recording goes on in another clip
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            except (UserError, ClipError, JobStopped) as error:
                self._fail(f"the camera is no longer watched: {error}")
                _LOG.warning("%s", self.problem)  # nobody may look at the page, but at a recording's log
                return
            except Exception as error:  # noqa: BLE001 - a defect: the page says so, and the log has the traceback
                _LOG.exception("the camera is no longer watched")
                self._fail(f"the camera is no longer watched: {type(error).__name__}: {error}")
                return

    def _say(self, sentence: str) -> None:
        self.problem = redact(sentence)

    def _begin(self, image: np.ndarray) -> None:
        """The model is about to look at a picture."""
        with self._changed:
            self._ticket += 1
            self._is_looking = True
            self.view.keep(self._ticket, image)
            self._pictures[self._ticket] = self._encoder.submit(_jpeg, image)
            while len(self._pictures) > _KEPT:
                self._pictures.popitem(last=False)
            self._changed.notify_all()

    def _put(self, frame: LiveFrame) -> None:
        """The model has looked at it."""
        seen = Seen("", frame.annotations, frame.tentative, frame.retracted, 0, self.view.seconds, self.view.problem)
        about = seen_json(seen, self._ticket) | {"dropped": frame.dropped}
        if frame.clip:
            about["clip"] = frame.clip
        self.problem = ""
        with self._changed:
            self._is_looking = False
            self._found[self._ticket] = time.time() - frame.age_s, about
            while len(self._found) > _KEPT:
                self._found.popitem(last=False)
            self._changed.notify_all()

    def _fail(self, sentence: str) -> None:
        """The model has not looked at the picture that it was given."""
        self._say(sentence)
        with self._changed:
            self._is_looking = False
            self._changed.notify_all()


class _ShownView(DeskView):
    """Args: begins: called with each picture before the model looks at it."""

    def __init__(self, desk: Desk, base: TrackingConfig, begins: Callable[[np.ndarray], None]) -> None:
        super().__init__(desk, base)
        self._begins = begins

    def look(self, image: np.ndarray, time_s: float) -> Seen:
        self._begins(image)
        return super().look(image, time_s)


def _jpeg(image: np.ndarray) -> bytes:
    done, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done
    return data.tobytes()
