"""Phrases and thresholds against a checkpoint's small files: the same answers as with its weights."""

from __future__ import annotations

import json
import re
import shutil
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3ray.config import ModelConfig, TrackingConfig
from sam3ray.engine.preflight import MAX_TOKENS, long_phrases, threshold_problem

EMBEDDED = ModelConfig(checkpoint="embedded")
WORDS = st.lists(st.sampled_from(["red", "circle", "käfer", "猫", "İ", "xyzzy", "!?", "  ", "ﬁ", "Σ"]), max_size=20)


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(resources.files("sam3ray") / "embedded"))


@given(st.one_of(st.text(max_size=60), WORDS.map(" ".join)))
@settings(max_examples=150)
def test_tokens_are_counted_as_the_engine_counts_them(tokenizer, phrase: str) -> None:
    tokens = len(tokenizer(phrase)["input_ids"])
    assert long_phrases(EMBEDDED, [phrase]) == ({phrase: tokens} if tokens > MAX_TOKENS else {})


def test_a_tokenizer_without_its_fast_file_counts_the_same(tmp_path: Path) -> None:
    """Files as older checkpoints have them: a vocabulary and merges."""
    from transformers import CLIPTokenizer

    (tmp_path / "config.json").write_text('{"model_type": "sam3_video"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    embedded = str(resources.files("sam3ray") / "embedded")
    CLIPTokenizer.from_pretrained(embedded).save_pretrained(tmp_path)
    config = ModelConfig(checkpoint=str(tmp_path))
    phrase = "a very long phrase " * 8
    expected = long_phrases(EMBEDDED, [phrase])
    assert list(expected) == [phrase]
    model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]))
    assert long_phrases(config, [phrase]) == expected


def test_short_phrases_ask_nobody(tmp_path: Path) -> None:
    absent = ModelConfig(checkpoint=str(tmp_path / "absent"))
    assert long_phrases(absent, ["person", "forklift", "a" * (MAX_TOKENS - 2)]) == {}
    assert threshold_problem(absent, TrackingConfig(new_det_thresh=0.5)) is None


@pytest.mark.parametrize(
    ("tracking", "says"),
    [
        (TrackingConfig(hotstart_delay=2), r"tracking\.hotstart_\w+_thresh is \d+, above tracking\.hotstart_delay"),
        (TrackingConfig(max_trk_keep_alive=-100), r"tracking\.min_trk_keep_alive is -?\d+, above"),
    ],
)
def test_thresholds_that_contradict_the_checkpoints_are_named(tracking: TrackingConfig, says: str) -> None:
    problem = threshold_problem(EMBEDDED, tracking)
    assert problem is not None
    assert re.search(says, problem)


def test_thresholds_are_checked_without_weights(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(str(resources.files("sam3ray") / "embedded" / name), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    assert threshold_problem(ModelConfig(checkpoint=str(tmp_path)), TrackingConfig(hotstart_delay=2)) is not None
