"""Records live video into a run folder that gains a clip every ten minutes.

Rows are held back for `hotstart_delay` - 1 frames, after which they can no longer be retracted. So no row belongs to a
retracted object.

Crash contract: a clip is committed as a whole once its last rows are final, `hotstart_delay` frames after the next clip
has begun, or at the end; the manifest that names it is replaced just after. A process that dies loses only the clip or
the two clips that are not committed yet. If it is started again with the same output, it adds a committed clip that the
manifest lacks, and continues with ids above all existing ones. An interrupt does not break off a commit.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam3ray.cameras._background import Background
from sam3ray.cameras._camera import Received
from sam3ray.cameras._encoder import TIME_BASE, Encoder
from sam3ray.cameras._rows import FinishedClip, Processed, Rows
from sam3ray.cameras._segments import Placed, began_at_of, clip_name
from sam3ray.config import differences
from sam3ray.failures import ClipError, Reason, UserError
from sam3ray.files.workdir import WorkDir
from sam3ray.guard.redact import redact
from sam3ray.store import RunStore, layout
from sam3ray.store.annotation_file import AnnotationWriter
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.clip import Clip

if TYPE_CHECKING:
    from sam3ray.cameras._live import View

_LOG = logging.getLogger(__name__)
_OTHERWISE_SAME = frozenset({"torch", "transformers", "device", "parameters", "postprocessing"})  # of the same model
_FRAMES, _FILES = 20_000, 1_000  # that may wait to be written
_AWAY_S, _AGAIN_S = 3600.0, 30.0  # how long, and how often, a store that is unreachable is tried


def check_output(output: str, storage_options: Mapping[str, Any] | None = None) -> None:
    """Raises UserError if `output` holds a run that is no recording. Changes nothing there."""
    store = RunStore(output, storage_options)
    if store.exists() and "live" not in store.run_info():
        raise UserError(f"{redact(output)} belongs to a job; choose another output for the recording")


class Recorder(AbstractContextManager["Recorder"]):
    """Records one source into a run folder. Leaving the `with` block commits all that was recorded.

    Args:
        output: a new folder, or that of an earlier recording.
        source: stored as the clips' source; credentials are masked.
        record_video: record the frames as well.

    Raises:
        UserError: on entering: `output` is another kind of run, or a recording with another model or other thresholds.
    """

    def __init__(
        self,
        output: str,
        source: str,
        view: View,
        *,
        record_video: bool,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._source, self._view, self._video = redact(source), view, record_video
        self._store = RunStore(output, storage_options)
        self._clips: list[Clip] = []
        self._number = 0  # of this recording's first clip
        self._encoder: Encoder | None = None
        self._is_leaving = threading.Event()

    def __enter__(self) -> Recorder:
        check_output(self._store.output, self._store.storage.options)
        with ExitStack() as stack:
            self._lease = stack.enter_context(self._store.lease("live"))
            self._continue()
            self._folder = stack.enter_context(WorkDir()).path
            self._publishing = stack.enter_context(Background("result", _FILES))
            if self._video:
                self._encoder = stack.enter_context(Encoder(self._folder, self._encoded))
            self._rows = Rows(self._begin, self._finished)
            self._writing = stack.enter_context(Background("rows", _FRAMES))
            stack.callback(lambda: self._writing.add(self._rows.finish))
            stack.callback(self._is_leaving.set)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _continue(self) -> None:
        """Creates the run, or takes up the earlier recording."""
        fingerprint = {"live": self._source, "model": _described(self._view.model_info)}
        if not self._store.exists():
            self._store.create_growing(fingerprint, {"output": self._store.output}, {"live": self._source})
        then = self._store.run_info()["fingerprint"]
        if problems := differences(_settings(fingerprint), _settings(then)):
            raise UserError(
                f"the recording in {redact(self._store.output)} has other settings: {'; '.join(problems)}. "
                "Use another output, or the settings that it was started with"
            )
        self._fingerprint = then
        done = self._store.done_ids()
        self._clips = [each for each in self._store.manifest() if each.clip_id in done]
        known = {each.clip_id for each in self._clips}
        self._clips += [self._committed(name) for name in sorted(done - known, key=_number_of)]
        videos = {layout.clip_of(name, ".mp4") for name in self._store.storage.names(layout.RECORDINGS)}
        self._number = max((_number_of(name) + 1 for name in (*done, *videos) if name), default=0)
        if self._clips:  # in the order in which they were recorded, whatever their clocks said
            last = self._store.read_clip_metadata(self._clips[-1].clip_id)["clip"]
            self._view.start_ids_at(max(int(last.get("next_id", 1)), self._view.next_id))

    def _committed(self, name: str) -> Clip:
        """A clip that the manifest lacks."""
        about = self._store.read_clip_metadata(name)["clip"]
        return Clip(name, str(about["uri"]), tuple(about.get("names") or ("object",)))

    # From the camera's thread

    def receive(self, placed: Placed, began_at: float, frame: Received) -> None:
        """Takes every frame received, even if it is not processed."""
        if self._encoder is not None:
            self._encoder.put(self._name(placed, began_at), placed, frame)

    # From the loop

    def write(self, placed: Placed, began_at: float, frame: FrameAnnotations, retracted: frozenset[int]) -> str:
        """Takes the rows of a processed frame and the retracted ids of earlier ones; returns the clip's id.

        Raises:
            JobStopped: the rows or the video can no longer be written.
        """
        for each in (self._writing, self._publishing, self._encoder):
            if each is not None:
                each.check()
        name = self._name(placed, began_at)
        asked: dict[str, Any] = {"phrases": list(self._view.phrases)}
        if thresholds := self._view.changed_thresholds:
            asked["thresholds"] = thresholds
        held = max(0, self._view.hotstart_delay - 1)
        processed = Processed(name, frame, retracted, held, asked, self._view.next_id)
        self._writing.add(partial(self._rows.take, processed))
        return name

    def _name(self, placed: Placed, began_at: float) -> str:
        return clip_name(began_at, self._number + placed.clip)

    def _uri(self, name: str) -> str:
        """The address of a clip's frames."""
        return self._store.path(layout.RECORDINGS, f"{name}.mp4") if self._video else self._source

    # In the background

    def _begin(self, name: str) -> AnnotationWriter:
        about = {
            "uri": self._uri(name),
            "source": {"live": self._source},
            "started_at": began_at_of(name).isoformat(),
            "time_base": str(TIME_BASE),
        }
        facts: dict[str, Mapping[str, Any]] = {
            "fingerprint": self._fingerprint, "clip": about, "model": _described(self._view.model_info),
        }  # fmt: skip
        return AnnotationWriter(self._folder / f"{name}.parquet", name, facts)

    def _finished(self, clip: FinishedClip) -> None:
        self._publishing.add(partial(self._patiently, partial(self._commit, clip)))

    def _commit(self, clip: FinishedClip) -> None:
        self._lease.check()
        self._store.commit(clip.name, clip.path)
        recorded = Clip(clip.name, self._uri(clip.name), clip.prompts)
        self._clips = [*(each for each in self._clips if each.clip_id != clip.name), recorded]
        self._store.grow(self._clips)
        os.unlink(clip.path)

    def _encoded(self, name: str, path: Path) -> None:
        self._publishing.add(partial(self._patiently, partial(self._publish, name, path)))

    def _publish(self, name: str, path: Path) -> None:
        self._lease.check()
        self._store.storage.create(os.fspath(path), f"{layout.RECORDINGS}/{name}.mp4")
        path.unlink()

    def _patiently(self, call: Callable[[], None]) -> None:
        """A store may be unreachable for a while; files wait on this machine's disk. At the end nothing waits."""
        end = time.monotonic() + _AWAY_S
        while True:
            was_leaving = self._is_leaving.is_set()
            try:
                return call()
            except ClipError as error:
                if error.reason is not Reason.STORAGE or was_leaving or time.monotonic() > end:
                    raise
                _LOG.warning("the recording waits for its storage: %s", redact(str(error)))
            self._is_leaving.wait(_AGAIN_S)


def _described(info: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(info), default=str))


def _settings(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """What changes results. Sources may differ from clip to clip, and versions from day to day."""
    model = fingerprint.get("model") or {}
    return {"model": {key: value for key, value in model.items() if key not in _OTHERWISE_SAME}}


def _number_of(name: str) -> int:
    """The number at the end of a clip's name, which counts the clips of a recording; -1 in other names."""
    number = name.rpartition("-")[2]
    return int(number) if number.isascii() and number.isdigit() else -1
