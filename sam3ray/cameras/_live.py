"""The loop: takes the newest frame, and yields at once what the model finds on it."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from os import PathLike, fspath
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sam3ray.cameras._address import Address
from sam3ray.cameras._camera import Camera, CameraFrame, Received, check_source
from sam3ray.cameras._record import Recorder, check_output
from sam3ray.cameras._segments import Placed, Segments
from sam3ray.config import LiveConfig, ModelConfig, TrackingConfig, VideoConfig
from sam3ray.engine.host_memory import Housekeeping
from sam3ray.engine.ids import Ids
from sam3ray.failures import JobStopped, UserError
from sam3ray.faults.machine import is_out_of_memory
from sam3ray.files import resolve
from sam3ray.model import Model
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.phrases import as_phrases
from sam3ray.values.prompts import VisualPrompt
from sam3ray.video import Frame

if TYPE_CHECKING:
    from sam3ray.engine.session import Session

_LOG = logging.getLogger(__name__)
_FORGET_AFTER_FRAMES = 64  # an object unseen for longer is forgotten, so that memory stays constant for days
_PTS_PER_S = 90_000
_LOOK_S = 0.2  # how often to check for `stop` while no frame comes
_LAST_RUNG = 4  # of `Model.set_memory_rung`


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """A frame, with the objects known so far.

    Attributes:
        image: uint8 RGB, (height, width, 3).
        annotations: its objects; `frame_index` counts the frames received in this clip.
        tentative: ids of objects that may still be retracted.
        retracted: ids shown on earlier frames that turned out to be spurious.
        clip: id of the clip that the frame belongs to.
        dropped: frames received but not processed, since the start.
        age_s: time since the frame was received.
    """

    image: np.ndarray
    annotations: FrameAnnotations
    tentative: frozenset[int] = field(default=frozenset())
    retracted: frozenset[int] = field(default=frozenset())
    clip: str = ""
    dropped: int = 0
    age_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Everything but the picture."""
        found = self.annotations
        return {
            "clip": self.clip,
            "frame_index": found.frame_index,
            "time_s": round(found.time_s, 3),
            "objects": [
                {
                    "object_id": each.object_id,
                    "prompt": each.prompt,
                    "score": round(each.score, 4),
                    "track_score": round(each.track_score, 4),
                    "bbox": [float(v) for v in each.bbox],
                    "area": each.area,
                    "segmentation": {"size": [found.height, found.width], "counts": each.rle},
                    "tentative": each.object_id in self.tentative,
                }
                for each in found.objects
            ],
            "retracted": sorted(self.retracted),
            "dropped": self.dropped,
            "age_s": round(self.age_s, 3),
        }


class View(Protocol):
    """What the loop and the recorder need of a view."""

    phrases: tuple[str, ...]

    @property
    def changed_thresholds(self) -> dict[str, Any]:
        """Thresholds that now differ from the model's, by name."""

    @property
    def hotstart_delay(self) -> int: ...

    @property
    def model_info(self) -> dict[str, Any]: ...

    @property
    def next_id(self) -> int: ...

    def start_ids_at(self, first: int) -> None: ...

    def begin_anew(self) -> None: ...

    def step(self, image: np.ndarray, time_s: float) -> tuple[FrameAnnotations, frozenset[int], frozenset[int]]: ...


class LiveView:
    """A session that can run for days: phrases and objects come and go, and ids are never reused.

    Frames of another size, or `begin_anew`, start a new session internally.

    Args:
        model: a loaded model. Its thresholds apply, except that `frame_batch` is 1 and memory is limited.
    """

    def __init__(self, model: Model, prompts: Sequence[str] = ()) -> None:
        self._model = model.with_tracking(_bounded(model.tracking))
        self._rung = 0
        self._session: Session | None = None
        self._ids: Ids | None = None
        self._count = 0
        self.phrases: tuple[str, ...] = tuple(prompts)
        self._asked: tuple[str, ...] = ()
        self._last_shown: dict[int, int] = {}  # clicked objects: the frame on which each was last shown
        self._housekeeping = Housekeeping()

    @property
    def hotstart_delay(self) -> int:
        """Frames until an object is no longer tentative."""
        return int(self._model.model_info["thresholds"]["hotstart_delay"])

    @property
    def model_info(self) -> dict[str, Any]:
        return self._model.model_info

    @property
    def next_index(self) -> int:
        """Index of the next frame for `step`, for visual prompts."""
        return self._count

    @property
    def clicked(self) -> set[int]:
        """Ids of objects that are followed because of visual prompts."""
        return set(self._session.visual.objects) if self._session is not None else set()

    @property
    def changed_thresholds(self) -> dict[str, Any]:
        return {}  # thresholds are changed by the caller

    @property
    def memory_rung(self) -> int:
        """See `Model.set_memory_rung`."""
        return self._rung

    def set_memory_rung(self, rung: int) -> None:
        """Starts over with less memory, until the view ends."""
        self.begin_anew()
        self._rung = rung
        self._model.set_memory_rung(rung)

    def set_tracking(self, tracking: TrackingConfig) -> None:
        """Changes thresholds. If any differs, everything is found again, under new ids.

        Raises:
            ValueError: they contradict each other or the checkpoint's. The former ones stay in force.
        """
        wanted = _bounded(tracking)
        if wanted != self._model.tracking:
            self._model = self._model.with_tracking(wanted)
            self.begin_anew()

    def set_phrases(self, phrases: Sequence[str]) -> None:
        """Changes the phrases from the next frame on. Objects of removed phrases are dropped.

        Raises:
            UserError: a phrase is empty or too long. The former phrases stay in force.
        """
        wanted = tuple(dict.fromkeys(each.strip() for each in phrases if each.strip()))
        self._model.check_phrases(wanted)
        self.phrases = wanted

    def add(self, prompt: VisualPrompt) -> None:
        """Adds a visual prompt on the frame `next_index`.

        Raises:
            ValueError, UserError: the prompt does not fit, no frame has come yet since the view began or restarted, or
                `tracking.max_num_objects` objects are followed already.
        """
        if self._session is None:
            raise UserError("the live view has restarted since you clicked: click again")
        most = self._model.model_info["thresholds"]["max_num_objects"]
        if prompt.object_id >= self.next_id and len(self._session.visual.objects) >= most:
            raise UserError(f"{most} clicked objects are followed already (tracking.max_num_objects): drop some first")
        self._session.add(prompt)

    def drop(self, object_id: int) -> None:
        """Stops following an object. Raises UserError if no object has that id."""
        if self._session is not None:
            self._session.remove(object_id)

    @property
    def next_id(self) -> int:
        """An id above all ids given so far."""
        return self._ids.next if self._ids is not None else 1

    def start_ids_at(self, first: int) -> None:
        """Makes ids start here. Call it before the first frame, so that ids of an earlier recording are not reused."""
        self._ids = Ids(max(1, first))

    def begin_anew(self) -> None:
        """Forgets everything seen so far; ids continue."""
        if self._session is not None:
            self._session.close()
        self._session = None
        self._asked = ()
        self._last_shown = {}

    def step(self, image: np.ndarray, time_s: float) -> tuple[FrameAnnotations, frozenset[int], frozenset[int]]:
        """The newest frame's objects, which of their ids are tentative, and which ids shown earlier are retracted."""
        height, width = image.shape[:2]
        if self._session is None or self._session.is_over or self._session.size != (height, width):
            self.begin_anew()
            self._session = self._model.session(height, width, "live", ids=self._ids)
            self._ids = self._session.ids
        for phrase in self._asked:
            if phrase not in self.phrases:
                self._session.remove(phrase)
        for phrase in self.phrases:
            self._session.add(phrase)
        self._asked = self.phrases
        frame = Frame(self._count, round(time_s * _PTS_PER_S), time_s, image)
        self._count += 1
        (result,) = self._session.step(frame)
        self._forget_unseen({each.object_id for each in result.annotations.objects})
        self._housekeeping.tick()
        return result.annotations, result.tentative, result.retracted

    def _forget_unseen(self, shown: set[int]) -> None:
        """Drops clicked objects that have left. Each costs time and memory, and a user cannot drop what is not
        shown.
        """
        assert self._session is not None
        limit = self._model.tracking.forget_after_frames
        last = {each: self._last_shown.get(each, self._count) for each in self._session.visual.objects}
        self._last_shown = last | dict.fromkeys(shown & last.keys(), self._count)
        for object_id, at in last.items():
            if object_id not in shown and limit is not None and self._count - at >= limit:
                self._session.remove(object_id)


class _Climbing(LiveView):
    """Starts over with less memory where the device runs out of it; ids go on."""

    def step(self, image: np.ndarray, time_s: float) -> tuple[FrameAnnotations, frozenset[int], frozenset[int]]:
        while True:
            try:
                return super().step(image, time_s)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self.memory_rung >= _LAST_RUNG:
                    raise JobStopped("out of memory: choose fewer phrases or a smaller picture") from None
                self.set_memory_rung(max(2, self.memory_rung + 1))
            _LOG.warning("out of memory: started over with smaller batches; objects are found again, with new ids")
            _free_memory()


def _free_memory() -> None:
    """Frees what this process holds on the device and no longer needs."""
    import torch  # where a model is loaded; a page's server has none

    from sam3ray.engine import capture

    capture.release()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _bounded(tracking: TrackingConfig) -> TrackingConfig:
    """Thresholds for constant memory, one frame at a time."""
    forget = tracking.forget_after_frames or _FORGET_AFTER_FRAMES
    return tracking.model_copy(update={"frame_batch": 1, "forget_after_frames": forget})


def live(
    source: str | PathLike[str],
    prompts: str | Sequence[str] = (),
    *,
    checkpoint: str | None = None,
    model: Model | ModelConfig | None = None,
    tracking: TrackingConfig | None = None,
    output: str | PathLike[str] | None = None,
    record_video: bool = True,
    every_frame: bool = False,
    settings: LiveConfig | Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    listen: bool = False,
    reconnect: bool = True,
    told: Callable[[str], None] = lambda _: None,
    options: dict[str, str] | None = None,
    limits: VideoConfig | None = None,
) -> Iterator[LiveFrame]:
    """Labels live video, yielding results at once. Takes the newest frame each time, whatever the source's frame rate.

    Args:
        source: an rtsp:// address, a device such as /dev/video0, or a video file, which plays at its own pace. With
            `listen`, the address at which to wait for a camera.
        prompts: a phrase, or a list such as ["person", "red car"].
        checkpoint, model, tracking: see `segment_video`.
        output: a run folder to record into: final rows, a clip every ten minutes.
        record_video: with `output`, also record the frames received, as `recordings/<clip>.mp4`.
        every_frame: process every frame of a file instead of playing it at its own pace.
        settings: when a new clip begins: keys of `live` in a configuration, such as {"segment_s": 60}.
        storage_options: fsspec options, for an `output` on an object store.
        listen: wait for a camera that pushes, instead of connecting to one.
        reconnect: connect again when a stream ends or falls silent. A file just ends.
        told: called, in another thread, with a sentence when frames stop arriving, and with "" when they arrive again.
        options: additional libav options for the source.
        limits: of the video: its size and duration.

    Returns:
        One value per processed frame, until the source ends or the generator is closed.

    Raises:
        UserError: arguments that do not fit, or `output` is another kind of run or a recording with other settings.
        ClipError: the source cannot be read.
        JobStopped: the checkpoint cannot be loaded, the device has too little memory, or the output cannot be written
            or is in use.
    """
    phrases = as_phrases(prompts)
    if model is not None and checkpoint is not None:
        raise UserError(f"checkpoint is {checkpoint!r}, but model is given as well; pass only one of the two")
    if isinstance(model, Model) and tracking is not None:
        raise UserError("tracking cannot be changed for a loaded model; pass it to sam3ray.load(tracking=...)")
    if not phrases:
        raise UserError("there is nothing to look for: give at least one phrase")
    source = fspath(source)
    settings = settings if isinstance(settings, LiveConfig) else LiveConfig(**(settings or {}))
    # Before the model loads, which is slow:
    check_source(source, listen, every_frame, limits)
    if output is not None:
        check_output(resolve(fspath(output)), storage_options)
    if not isinstance(model, Model):
        model = Model(model or ModelConfig(checkpoint=checkpoint or "facebook/sam3"), tracking)
    view = _Climbing(model)
    view.set_phrases(phrases)
    return watch(
        source,
        view,
        output=output,
        record_video=record_video,
        every_frame=every_frame,
        settings=settings,
        storage_options=storage_options,
        listen=listen,
        reconnect=reconnect,
        told=told,
        options=options,
        limits=limits,
    )


def watch(
    source: str,
    view: View,
    *,
    output: str | PathLike[str] | None = None,
    record_video: bool = True,
    every_frame: bool = False,
    settings: LiveConfig | None = None,
    storage_options: Mapping[str, Any] | None = None,
    stop: Event | None = None,
    **options: Any,
) -> Iterator[LiveFrame]:
    """Like `live`, with a given view, which may run in another process and change its phrases. Ends soon after
    `stop`.
    """
    settings = settings or LiveConfig()
    is_file = Address(source).kind == "file"
    with ExitStack() as stack:
        recorder: Recorder | None = None
        if output is not None:
            of_clips = resolve(source) if is_file else source
            recorder = Recorder(
                resolve(fspath(output)), of_clips, view, record_video=record_video, storage_options=storage_options
            )
            stack.enter_context(recorder)
        # Without a video of their own, rows of a file are rows of that file.
        is_of_source = is_file and recorder is not None and not record_video
        segments = Segments(settings.segment_s, settings.reset_after_s, of_source=is_of_source)

        def heard(frame: Received) -> tuple[Placed, float]:
            placed = segments.place(frame.received, frame.clock, frame.at, frame.size)
            if recorder is not None:
                recorder.receive(placed, segments.began_at, frame)
            return placed, segments.began_at

        camera = stack.enter_context(Camera(source, every_frame=every_frame, heard=heard, **options))
        scene = 0
        for frame in _frames(camera, stop):
            placed, began_at = frame.heard
            if placed.scene != scene:
                view.begin_anew()
                scene = placed.scene
            found, tentative, retracted = view.step(frame.image, placed.time_s)
            annotations = FrameAnnotations(
                placed.index,
                round(placed.time_s * _PTS_PER_S),
                placed.time_s,
                found.height,
                found.width,
                found.objects,
            )
            clip = ""
            if recorder is not None:
                clip = recorder.write(placed, began_at, annotations, retracted)
            yield LiveFrame(frame.image, annotations, tentative, retracted, clip, frame.dropped, time.time() - frame.at)


def _frames(camera: Camera, stop: Event | None) -> Iterator[CameraFrame]:
    if stop is None:
        yield from camera
        return
    while not stop.is_set():
        frame = camera.take(_LOOK_S)
        if frame is not None:
            yield frame
        elif camera.is_over:
            return
