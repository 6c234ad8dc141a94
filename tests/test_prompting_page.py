"""The examples of docs/prompting.md run as they stand, and find what they point at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import chdir
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sam3ray
from sam3ray.annotations import FrameAnnotations
from sam3ray.config import load_config
from sam3ray.planning import plan_job
from sam3ray.prompts import MaskPrompt, PointPrompt, parse_exemplars, parse_visual_prompts
from sam3ray.segment import track_video

PAGE = Path(__file__).parents[1] / "docs" / "prompting.md"
FRAMES = 20
FOLLOWED = 0.8  # mean IoU with the drawn circle over the frames where it is followed

pytestmark = pytest.mark.skipif(
    not (Path(str(resources.files("sam3ray"))) / "embedded" / "model.safetensors").exists(),
    reason="the package holds no checkpoint",
)


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """(section, text) of the page's blocks in a language."""
    page, section = PAGE.read_text(encoding="utf-8"), ""
    for heading, text in re.findall(rf"^## (.+?)$|^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL):
        if heading:
            section = heading
        else:
            yield section, text


@dataclass
class Page:
    """What became of its examples, by section.

    Attributes:
        frames: what `frames` is after each code block.
        prompts: what `track_video` was called with.
        names: what the code defined.
    """

    folder: Path
    frames: dict[str, list[list[FrameAnnotations]]] = field(default_factory=dict)
    prompts: dict[str, list[Sequence[Any]]] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, loaded_once: None) -> Page:
    found = Page(tmp_path_factory.mktemp("prompting"))
    with chdir(found.folder), pytest.MonkeyPatch.context() as patch:

        def recorded(path: str, visual_prompts: Sequence[Any], **options: Any) -> Iterator[FrameAnnotations]:
            found.prompts.setdefault(section, []).append(visual_prompts)
            return track_video(path, visual_prompts, **options)

        patch.setattr(sam3ray, "track_video", recorded)
        for section, code in blocks("python"):
            exec(compile(code, f"prompting.md: {section}", "exec"), found.names)  # noqa: S102
            if "frames" in found.names:
                found.frames.setdefault(section, []).append(found.names.pop("frames"))
    return found


@pytest.fixture(scope="module")
def results(page: Page) -> dict[str, list[list[FrameAnnotations]]]:
    return page.frames


@pytest.fixture(scope="module")
def truth() -> list[np.ndarray]:
    """Ids of what is drawn, per frame."""
    from sam3ray.shapes import ClipSpec, draw_clip

    return [frame.ids for frame in draw_clip(ClipSpec(seed=6, frames=FRAMES, width=320, height=180, objects=(2, 3)))]


def mean_iou(frames: list[FrameAnnotations], truth: list[np.ndarray], object_id: int, drawn: int) -> float:
    """Over the frames of the object's life here: from its first row to the last."""
    from sam3ray.masks import decode_rle

    ious = []
    for frame in frames:
        rle = next((found.rle for found in frame.objects if found.object_id == object_id), None)
        if rle is None:
            continue
        mask, true = decode_rle(rle, frame.height, frame.width), truth[frame.frame_index] == drawn
        ious.append((mask & true).sum() / max(1, (mask | true).sum()))
    return float(np.mean(ious)) if ious else 0.0


CLICKED = [
    "One click",
    "Several clicks",
    "A negative click",
    "A box",
    "A box and clicks",
    "A mask",
    "Several objects",
    "Refinement on a later frame",
    "Backward, and both ways",
    "Text and clicks in one clip",
]


def test_every_workflow_is_there(results):
    assert set(results) == {"Text", "By example", *CLICKED}
    assert all(len(frames) == FRAMES for runs in results.values() for frames in runs)


def test_an_example_stands_for_all_of_its_kind(results, truth):
    ((*_, last),) = results["By example"]
    assert {found.prompt for found in last.objects} == {"red circle"}
    assert len(last.objects) == len(set(np.unique(truth[-1])) & {1, 2}) == 2
    ((_, item),) = blocks("jsonc")
    ((shown,), wrong) = parse_exemplars(f"[{item}]")
    assert not wrong
    assert shown.boxes == ((87, 41, 136, 90),)


@pytest.mark.parametrize("section", CLICKED)
def test_the_object_pointed_at_is_followed(results, truth, section):
    for frames in results[section]:
        assert mean_iou(frames, truth, object_id=1, drawn=1) > FOLLOWED


def test_list_items_are_the_prompts_of_their_examples(page):
    shown = [(section, f"[{text}]") for section, text in blocks("json")]
    assert [section for section, _ in shown] == CLICKED[:-1]
    for section, text in shown:
        prompts, wrong = parse_visual_prompts(text)
        assert not wrong
        assert [meant(each) for each in prompts] in [[meant(each) for each in given] for given in page.prompts[section]]


def meant(prompt: Any) -> tuple[Any, ...]:
    """What a prompt says, however its mask is stored; labels of objects that have none are made up."""
    if isinstance(prompt, MaskPrompt):
        return MaskPrompt, prompt.frame_index, prompt.object_id
    shape = (prompt.points, prompt.labels) if isinstance(prompt, PointPrompt) else prompt.box
    return type(prompt), prompt.frame_index, prompt.object_id, prompt.units, shape


def test_the_job_can_be_run(page):
    """As far as `plan` can tell; tests/e2e runs every kind of prompt."""
    with chdir(page.folder):
        (_, manifest), (_, config) = next(blocks("jsonl")), next(blocks("yaml"))
        Path("clips.jsonl").write_text(manifest)
        Path("job.yaml").write_text(config)
        plan = plan_job(load_config("job.yaml"))
    assert (plan.clips, plan.to_do, plan.frames, plan.unreadable) == (2, 2, 2 * FRAMES, {})


def test_an_object_starts_on_the_frame_of_its_prompt(results):
    (frames,) = results["Several objects"]
    assert {found.object_id for frame in frames[:12] for found in frame.objects} <= {1}
    assert 2 in {found.object_id for found in frames[12].objects}


def test_both_ways_reach_both_ends(results):
    backward, both, text = results["Backward, and both ways"]
    for frames in (backward, both):
        assert all(found.object_id == 1 for frame in frames for found in frame.objects)
        assert frames[0].objects
    assert both[-1].objects
    ids = [{found.object_id for found in frame.objects} for frame in text]
    assert ids[0] & ids[12] & ids[-1]


def test_ids_of_phrases_lie_above_those_of_clicks(results):
    (frames,) = results["Text and clicks in one clip"]
    rows = {(found.object_id, found.prompt) for frame in frames for found in frame.objects}
    assert (1, "large circle") in rows
    assert all(object_id > 1 for object_id, prompt in rows if prompt == "red circle")
