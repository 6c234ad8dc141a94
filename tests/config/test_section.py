"""Sections of the configuration, made in Python: what is wrong is said in our words."""

from __future__ import annotations

import pickle

import pytest

from sam3ray.config import ClusterConfig, JobConfig, ModelConfig, TrackingConfig, load_config
from sam3ray.failures import UserError


def problems(kind, **values):
    with pytest.raises(UserError) as caught:
        kind(**values)
    return caught.value.problems


def test_every_wrong_key_and_value_is_named_with_what_is_allowed():
    assert problems(TrackingConfig, new_det_thresh=2, hotstart_delay="soon") == (
        "new_det_thresh is 2; allowed: a number from 0 to 1, or null",
        "hotstart_delay is 'soon'; allowed: a whole number from 0 to 1000, or null",
    )
    assert problems(ModelConfig, device="tpu", gpu=1) == (
        "device is 'tpu'; allowed: 'auto', 'cpu', 'cuda' or one GPU such as 'cuda:0'",
        "gpu is not a key of ModelConfig; allowed: cache_dir, checkpoint, compile, device, dtype, image_size, offline, "
        "revision",
    )
    assert problems(ClusterConfig, address="")[0].startswith("address is ''; allowed: ")


def test_keys_that_contradict_each_other_are_a_sentence():
    said = problems(ModelConfig, checkpoint="embedded", revision="v2")
    assert said[0].startswith("model.revision is 'v2', but the `embedded` checkpoint is part of the package")


def test_a_whole_job_names_the_place_within_it():
    values = {"manifest": "a.csv", "prompts": ["x"], "model": {"dtype": "int8"}, "tracking": {"score": 1}}
    assert problems(JobConfig, **values) == (
        "output is missing; it needs text, not empty",
        "model.dtype is 'int8'; allowed: 'auto', 'bfloat16', 'float32' or 'autocast'",
        "tracking.score is not a key of TrackingConfig; allowed: " + ", ".join(sorted(TrackingConfig.model_fields)),
    )


def test_a_section_is_copied_and_a_file_read_as_before():
    config = TrackingConfig(new_det_thresh=0.5)
    assert pickle.loads(pickle.dumps(config)) == config == TrackingConfig(**config.model_dump())  # noqa: S301
    assert load_config({"manifest": "a.csv", "output": "out", "prompts": ["x"]}).model == ModelConfig()
