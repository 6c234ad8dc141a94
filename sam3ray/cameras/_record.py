"""Records live video into a run folder that gains a clip every ten minutes.

Rows are held back for `hotstart_delay` - 1 frames, after which they can no longer be retracted. So no row belongs to a
retracted object.

Crash contract: a clip's rows are committed as a whole when the next clip begins, or at the end; the manifest that names
the clip is replaced just before. A process that dies loses only the current clip, and rows of the previous clip that
were still held back. If it is started again with the same output, it continues with ids above all existing ones.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam3ray.cameras._camera import Received
from sam3ray.cameras._encoder import TIME_BASE, Encoder
from sam3ray.cameras._segments import Placed, began_at_of, clip_name
from sam3ray.failures import UserError
from sam3ray.files.workdir import WorkDir
from sam3ray.guard.redact import redact
from sam3ray.store import RunStore, layout
from sam3ray.store.annotation_file import AnnotationWriter
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.clip import Clip

if TYPE_CHECKING:
    from sam3ray.cameras._live import View


class Recorder(AbstractContextManager["Recorder"]):
    """Records one source into a run folder.

    Args:
        output: a new folder, or that of an earlier recording.
        source: stored as the clips' source; credentials are masked.
        record_video: record the frames as well.

    Raises:
        UserError: `output` is another kind of run.
    """

    def __init__(self, output: str, source: str, view: View, *, record_video: bool) -> None:
        self._source, self._view, self._video = redact(source), view, record_video
        self._store = RunStore(output)
        self._stack = ExitStack()
        self._folder = self._stack.enter_context(WorkDir()).path
        self._waiting: deque[tuple[int, str, FrameAnnotations]] = deque()
        self._writer: AnnotationWriter | None = None
        self._clip: Clip | None = None
        self._names: dict[int, str] = {}
        self._phrases: list[dict[str, Any]] = []
        self._labels: dict[str, None] = {}  # phrases of the current clip's rows, in order
        self._encoder = Encoder(self._folder, self._publish) if record_video else None

    def __enter__(self) -> Recorder:
        self._stack.enter_context(self._store.lease("live"))
        info = self._store.run_info() if self._store.exists() else None
        if info is not None and "live" not in info:
            raise UserError(f"{redact(self._store.output)} belongs to a job; choose another output for the recording")
        self._fingerprint = {"live": self._source, "model": _described(self._view.model_info)}
        self._clips = self._store.manifest() if info is not None else []
        if info is None:
            self._store.create_growing(self._fingerprint, {"output": self._store.output}, {"live": self._source})
        self._number = len(self._clips)
        done = [clip.clip_id for clip in self._clips if self._store.is_done(clip.clip_id)]
        if done:
            self._view.start_ids_at(int(self._store.read_clip_metadata(max(done))["clip"].get("next_id", 1)))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while self._waiting:
                self._let_go()
            self._finish()
            if self._encoder is not None:
                self._encoder.close()
        finally:
            self._stack.close()

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
        if self._encoder is not None:
            self._encoder.check()
        if retracted:
            self._waiting = deque(
                (number, name, replace(each, objects=tuple(o for o in each.objects if o.object_id not in retracted)))
                for number, name, each in self._waiting
            )
        name = self._name(placed, began_at)
        self._waiting.append((placed.clip, name, frame))
        asked: dict[str, Any] = {"phrases": list(self._view.phrases)}
        if thresholds := self._view.changed_thresholds:
            asked["thresholds"] = thresholds
        if not self._phrases or {k: v for k, v in self._phrases[-1].items() if k not in ("clip", "frame")} != asked:
            self._phrases.append({"clip": name, "frame": frame.frame_index, **asked})
        while len(self._waiting) > max(0, self._view.hotstart_delay - 1):
            self._let_go()
        return name

    def _name(self, placed: Placed, began_at: float) -> str:
        if placed.clip not in self._names:
            self._names[placed.clip] = clip_name(began_at, self._number + placed.clip)
            for old in [each for each in self._names if each < placed.clip - 10]:
                del self._names[old]
        return self._names[placed.clip]

    def _let_go(self) -> None:
        _, name, frame = self._waiting.popleft()
        if self._clip is None or self._clip.clip_id != name:
            self._finish()
            self._begin(name)
        assert self._writer is not None
        self._writer.write(frame)
        self._labels.update((each.prompt, None) for each in frame.objects)

    def _begin(self, name: str) -> None:
        uri = self._store.path(layout.RECORDINGS, f"{name}.mp4") if self._video else self._source
        self._clip = Clip(name, uri, self._view.phrases or ("object",))
        about = {
            "uri": uri,
            "source": {"live": self._source},
            "started_at": began_at_of(name).isoformat(),
            "time_base": str(TIME_BASE),
        }
        facts: dict[str, Mapping[str, Any]] = {
            "fingerprint": self._fingerprint, "clip": about, "model": _described(self._view.model_info),
        }  # fmt: skip
        self._writer = AnnotationWriter(self._folder / f"{name}.parquet", name, facts)

    def _finish(self) -> None:
        """Commits the current clip."""
        if self._writer is None or self._clip is None:
            return
        name = self._clip.clip_id
        of_clip = [each for each in self._phrases if each["clip"] == name] or self._phrases[-1:]
        self._phrases = [each for each in self._phrases if each["clip"] != name] or self._phrases[-1:]
        self._writer.finish(
            next_id=self._view.next_id, prompts=[{k: v for k, v in e.items() if k != "clip"} for e in of_clip]
        )
        # Phrases may change within a clip, and clicked objects have their own labels.
        asked = dict.fromkeys((*self._clip.prompts, *self._labels))
        self._clips.append(replace(self._clip, prompts=tuple(asked)))
        self._labels = {}
        self._store.grow(self._clips)
        self._store.commit(name, self._writer.path)
        os.unlink(self._writer.path)
        self._writer, self._clip = None, None

    def _publish(self, name: str, path: Path) -> None:
        self._store.storage.create(os.fspath(path), f"{layout.RECORDINGS}/{name}.mp4")
        path.unlink()


def _described(info: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(info), default=str))
