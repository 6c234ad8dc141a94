"""Whatever changes results changes the fingerprint; whatever does not, does not."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from sam3ray.config import JobConfig, config_from_text, differences, fingerprint, resolved_dtype
from sam3ray.manifest import Clip
from sam3ray.prompts import BoxPrompt

BASE = "{manifest: s3://b/m.csv, output: s3://b/out, prompts: [person]}"
CLIPS = [Clip(f"c{i}", f"s3://b/{i}.mp4", ("person",)) for i in range(5)]


def config(*overrides: str) -> JobConfig:
    return config_from_text(BASE, "job.yaml", overrides)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.checkpoint=other/sam3", "model.checkpoint"),
        ("model.revision=v2", "model.revision"),
        ("model.dtype=float32", "model.dtype"),
        ("model.compile=true", "model.compile"),
        ("tracking.rules=transformers", "tracking.rules"),
        ("tracking.new_det_thresh=0.9", "tracking.new_det_thresh"),
        ("tracking.max_num_objects=5", "tracking.max_num_objects"),
        ("video.fps=2", "video.fps"),
        ("prompts=[dog]", "prompts"),
    ],
)
def test_what_changes_results_is_named(override: str, key: str) -> None:
    (sentence,) = differences(fingerprint(config(override), CLIPS), fingerprint(config(), CLIPS))
    assert sentence.startswith(f"{key} is ")


@pytest.mark.parametrize(
    "override",
    [
        "video.max_frames=5",
        "cluster.actors.max=100",
        "retry.crashes=1",
        "render.enabled=true",
        "storage.anon=true",
        "tracking.object_batch=1",
        "tracking.frame_batch=4",
        "tracking.prompt_batch=1",
        "tracking.offload_state=true",
        "output=s3://b/other",
        "model.offline=true",
        "model.dtype=bfloat16",  # what `auto` means on a GPU
    ],
)
def test_what_does_not_change_results_is_not_in_it(override: str) -> None:
    assert fingerprint(config(override), CLIPS) == fingerprint(config(), CLIPS)


@pytest.mark.parametrize(
    "change",
    [
        {"uri": "s3://b/other.mp4"},
        {"prompts": ("dog",)},
        {"start_s": 1.0},
        {"end_s": 1.0},
        {"fps": 2.0},
        {"clip_id": "other"},
        {"visual_prompts": (BoxPrompt((0, 0, 1, 1), 0, 1),)},
    ],
)
def test_every_property_of_a_clip_counts(change: dict[str, object]) -> None:
    changed = [replace(CLIPS[0], **change), *CLIPS[1:]]  # type: ignore[arg-type]
    assert fingerprint(config(), changed)["manifest.digest"] != fingerprint(config(), CLIPS)["manifest.digest"]


def test_order_and_carried_columns_do_not_count() -> None:
    shuffled = [replace(clip, carried={"split": "train"}) for clip in CLIPS]
    random.Random(0).shuffle(shuffled)
    assert fingerprint(config(), shuffled) == fingerprint(config(), CLIPS)


def test_the_identity_of_the_checkpoint_counts() -> None:
    ours, theirs = (fingerprint(config(), CLIPS, {"commit": c}) for c in ("aaa", "bbb"))
    assert differences(ours, theirs) == ['checkpoint.commit is "aaa", the run has "bbb"']


def test_dtype_is_that_of_the_actors_not_of_the_driver() -> None:
    assert resolved_dtype(config()) == "bfloat16"
    assert resolved_dtype(config("cluster.gpus_per_actor=0")) == "float32"
    assert resolved_dtype(config("cluster.gpus_per_actor=0", "model.device=cpu")) == "float32"
    assert resolved_dtype(config("model.dtype=autocast")) == "autocast"


def test_numbers_of_other_types_are_the_same_number() -> None:
    ours = [replace(CLIPS[0], start_s=1)]
    theirs = [replace(CLIPS[0], start_s=1.0)]
    assert fingerprint(config(), ours) == fingerprint(config(), theirs)


def test_the_version_of_the_engine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(config(), CLIPS)
    monkeypatch.setattr("sam3ray.config._fingerprint.ENGINE_VERSION", before["engine_version"] + 1)
    (sentence,) = differences(fingerprint(config(), CLIPS), before)
    assert sentence.startswith("engine_version is ")
