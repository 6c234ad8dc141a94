"""Which frames of a clip are decoded: none to learn where the frames are, whatever goes backward."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from sam3ray.config import TrackingConfig
from sam3ray.engine.engine import Engine
from sam3ray.failures import ClipError
from sam3ray.prompts import ExemplarPrompt, PointPrompt
from sam3ray.video import ClipFrames, Frame, VideoReader
from tests.engine.pipeline import Found, ScriptedDetector, checkpoint
from tests.engine.prompted import Clip
from tests.engine.tiny import tiny_model
from tests.video.media import write_video
from tests.video.test_folder import write_frames

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS: dict[str, dict[str, Any]] = {
    "file": {},
    "folder": {},
    "variable rate": {},
    "sampled": {"fps": 12.5},
    "a range": {"start_s": 0.2},
}
LAST = 4  # position of the last frame that is asked about; the clips have 9 to 20


class Counted(ClipFrames):
    """Counts the frames that it makes images of."""

    decoded = 0

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        for frame in super().read(start, stop):
            self.decoded += 1
            yield frame


def written(kind: str, folder: Path) -> Path:
    if kind == "folder":
        return write_frames(folder / "frames", [f"{n}.png" for n in range(12)])
    if kind == "variable rate":
        pts = [n * 40 + 13 * (n % 3) for n in range(12)]
        return write_video(folder / "clip.mp4", len(pts), pts=pts, time_base=Fraction(1, 1000))
    return write_video(folder / "clip.mp4", 18)


def asked(way: str, first: int, last: int) -> dict[str, Any]:
    clicks = [PointPrompt(((20.0, 15.0),), (True,), frame, n) for n, frame in ((1, first), (2, last))]
    exemplar = ExemplarPrompt(((5.0, 5.0, 25.0, 25.0),), frame_index=first, label="it")
    return {
        "clicks backward": {"visual": clicks, "direction": "backward"},
        "clicks backward, refined": {"visual": clicks, "direction": "backward", "refine": "throughout"},
        "phrases backward": {"phrases": ["it"], "start_frame": last, "phrase_direction": "backward"},
        "exemplars backward": {"exemplars": [exemplar], "start_frame": last, "phrase_direction": "backward"},
        "phrases and clicks backward": {
            "phrases": ["a"], "visual": clicks, "direction": "backward", "start_frame": last,
            "phrase_direction": "backward",
        },
    }[way]  # fmt: skip


WAYS = {  # how often the frames up to the last that is asked about are decoded
    "clicks backward": 1,
    "clicks backward, refined": 2,
    "phrases backward": 1,
    "exemplars backward": 1,
    "phrases and clicks backward": 2,
}


@pytest.fixture(scope="module")
def engine() -> Engine:
    model = tiny_model(0)
    detector = ScriptedDetector(lambda frame, prompt: [Found((0.5, 0.5), 0.2, 0.9)], model.low_res_mask_size)
    return Engine(checkpoint(model), TrackingConfig(), detector)


@pytest.mark.parametrize(
    ("kind", "way"), [*((kind, "clicks backward") for kind in KINDS), *(("sampled", way) for way in [*WAYS][1:])]
)
def test_frames_after_the_last_that_is_asked_about_are_not_decoded(
    kind: str, way: str, engine: Engine, tmp_path: Path
) -> None:
    path, how = written(kind, tmp_path), KINDS[kind]
    with VideoReader(path, **how) as video:
        frames = list(video)
    what = asked(way, frames[1].index, frames[LAST].index)
    in_memory = Clip(frames)  # which does not know its frames without reading them
    read = list(engine.annotate(in_memory, in_memory.height, in_memory.width, **what))
    clip = Counted(path, **how)
    listed = list(engine.annotate(clip, clip.height, clip.width, **what))
    assert listed == read
    assert any(each.objects for each in listed)
    assert [each.frame_index for each in listed] == [frame.index for frame in frames]
    assert clip.decoded == WAYS[way] * (LAST + 1)
    if kind == "folder":
        assert len(clip.frame_names) == len(frames)


def test_a_prompt_on_a_frame_that_is_not_read_is_named(engine: Engine, tmp_path: Path) -> None:
    clip = Counted(written("file", tmp_path), fps=12.5)
    prompt = PointPrompt(((20.0, 15.0),), (True,), 3, 1)
    with pytest.raises(ClipError, match="frame 3, on which object 1 is prompted, is not among the frames read"):
        list(engine.annotate(clip, clip.height, clip.width, (), [prompt], direction="backward"))
    assert clip.decoded == 0


@pytest.mark.parametrize(("frames", "told"), [(9, 9), (18, None)])
def test_a_tracker_that_sees_a_part_knows_how_long_the_clip_is(
    frames: int, told: int | None, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths, tracker = [], engine.tracker
    monkeypatch.setattr(engine, "tracker", lambda size, length: lengths.append(length) or tracker(size, length))
    clip = ClipFrames(write_video(tmp_path / "clip.mp4", frames))
    what = asked("clicks backward", 1, LAST)
    assert len(list(engine.annotate(clip, clip.height, clip.width, **what))) == frames
    assert lengths == [told]
