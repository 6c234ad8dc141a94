"""All that a clip's file says of it is the same, however often its worker died on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sam3ray.config import JobConfig, TrackingConfig
from sam3ray.engine import session
from sam3ray.engine.engine import Engine
from sam3ray.job.windows import ClipWindows
from sam3ray.job.worker import ClipWorker
from sam3ray.prompts import ExemplarPrompt
from sam3ray.store import RunStore, verify_run
from sam3ray.store.annotation_file import read_file_metadata
from sam3ray.values.clip import Clip
from tests.engine.pipeline import Found, ScriptedDetector, checkpoint
from tests.engine.tiny import small_model
from tests.video.media import write_video
from tests.video.test_folder import write_frames

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTH = 18
OF_THE_ATTEMPT = {"attempt", "attempt_id", "finished_at", "seconds", "timings", "windows"}


class Scripted:
    """A `sam3ray.model.Model` with too many objects on its first frames for its cap."""

    can_resume = True

    def __init__(self, *_: object) -> None:
        self.model_info = {"checkpoint": "scripted"}
        detector = ScriptedDetector(self._script, small_model(0).low_res_mask_size)
        rules = TrackingConfig(hotstart_delay=3, hotstart_unmatch_thresh=2, hotstart_dup_thresh=2, max_num_objects=1)
        self._engine = Engine(checkpoint(small_model(0, 1.0)), rules, detector)

    @staticmethod
    def _script(frame: int, _prompt: int) -> list[Found]:
        return [Found((0.25, 0.25), 0.12, 0.9, 6.0), *[Found((0.7, 0.7), 0.12, 0.85, 6.0)] * (frame < 2)]

    @property
    def stats(self) -> dict[str, int]:
        return {"dropped_objects": self._engine.tally.dropped}

    def set_memory_rung(self, rung: int) -> None:
        pass

    def segment(self, *clip: Any, **how: Any) -> Iterator[Any]:
        return self._engine.annotate(*clip, **how)


class Killed(BaseException):
    """No handler may mistake it for an error."""


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    folder = write_frames(tmp_path / "folder", [f"shot_{5 * i:03d}.png" for i in range(LENGTH)])
    half = write_video(tmp_path / "half.ts", LENGTH // 2)
    twice = tmp_path / "twice.ts"  # its clock starts again in the middle
    twice.write_bytes(half.read_bytes() * 2)
    shown = ExemplarPrompt(((2.0, 2.0, 20.0, 20.0),), (True,), frame_index=3, phrase="red")
    later = ExemplarPrompt(((2.0, 2.0, 20.0, 20.0),), (True,), time_s=0.3, label="bolt")
    return [
        Clip("folder", str(folder), ("red",)),
        Clip("sampled", str(folder), ("red",), start_s=0.1, fps=20.0, exemplars=(shown,)),
        Clip("twice", str(twice), ("red",)),
        Clip("moment", str(write_video(tmp_path / "a.mp4", LENGTH)), ("red",), exemplars=(later,)),
    ]


def annotate(clips: list[Clip], output: Path) -> ClipWorker:
    config = JobConfig(manifest="m.csv", output=str(output), windows={"seconds": 1e-6})
    store = RunStore(config.output)
    store.create_or_open({"a": 1}, {}, clips)
    return ClipWorker(config, store, {"a": 1}, Scripted)


def test_a_resumed_clip_has_the_metadata_of_an_undisturbed_one(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LENGTH_HORIZON", 2)
    whole, again = annotate(clips, tmp_path / "whole"), annotate(clips, tmp_path / "again")
    at_rest = ClipWindows.at_rest
    rests: list[int] = []

    def settles(windows: ClipWindows, *arguments: Any) -> None:
        at_rest(windows, *arguments)
        windows.settle()

    def dies(windows: ClipWindows, *arguments: Any) -> None:
        settles(windows, *arguments)
        rests.append(1)
        if len(rests) == 3:
            raise Killed

    for clip in clips:
        whole.process(clip)
        with monkeypatch.context() as patch:
            patch.setattr(ClipWindows, "at_rest", dies)
            for attempt in (1, 2):
                rests.clear()
                with pytest.raises(Killed):
                    again.process(clip, attempt=attempt)
        again.process(clip, attempt=3)
        left, right = (
            pq.read_table(tmp_path / name / "annotations" / f"{clip.clip_id}.parquet") for name in ("again", "whole")
        )
        assert left.equals(right)
        ours, theirs = (
            read_file_metadata(pq.read_metadata(tmp_path / name / "annotations" / f"{clip.clip_id}.parquet"))
            for name in ("again", "whole")
        )
        assert {window["attempt"] for window in ours["clip"]["windows"]} == {1, 2, 3}
        for about in (ours, theirs):
            about["clip"] = {name: value for name, value in about["clip"].items() if name not in OF_THE_ATTEMPT}
            about["clip"]["source"].pop("seen_at", None)
        assert ours == theirs
        assert ours["clip"]["dropped_objects"] > 0
        assert ours["clip"]["clock"] == {"twice": "rebuilt", "moment": "container"}.get(clip.clip_id, "folder_fps")
        assert ("frame_names" in ours["clip"]) == (clip.clip_id in ("folder", "sampled"))
    assert verify_run(str(tmp_path / "again")) == []
    whole.close()
    again.close()
