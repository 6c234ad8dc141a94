"""A stretch of training goes on where it was killed."""

from __future__ import annotations

import itertools
import json
import sys

import pytest
import torch
from torch import nn

from sam3ray.failures import UserError
from tools.training import stages
from tools.training.__main__ import main
from tools.training.samples import stream
from tools.training.schedule import Options, Run


def a_run(folder, model):
    return Run(model, nn.Identity(), None, folder, Options("stage", 60.0, 1e-2, seed=0), save_s=0.0)


def train(run, steps):
    """Stops after `steps`, as a kill does: without a last word."""
    drawn = []
    for value in itertools.islice(run.steps([*run.model.parameters()], float), steps):
        drawn.append(value)
        run.step({"loss": run.model(torch.full((1, 3), value)).square().sum()})
    return drawn


def test_a_killed_stage_goes_on_with_its_weights_its_averages_and_the_next_batch(tmp_path):
    torch.manual_seed(0)
    killed = a_run(tmp_path, nn.Linear(3, 3))
    assert train(killed, 60) == list(map(float, range(60)))
    saved = torch.load(tmp_path / "stage.pt", weights_only=True)

    resumed = a_run(tmp_path, nn.Linear(3, 3))
    drawn = train(resumed, 3)
    assert drawn[0] == saved["count"] >= 58
    assert resumed.count == saved["count"] + 3
    assert (resumed.model.weight - saved["raw"][0]).abs().max() < 0.1
    assert resumed.spent_s >= saved["spent_s"] > 0
    log = [json.loads(line) for line in (tmp_path / "stage.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [50]


def test_a_stream_is_a_function_of_its_start():
    assert list(itertools.islice(stream(lambda i: i * i, 3), 4)) == [9, 16, 25, 36]


def test_a_folder_goes_on_with_its_own_seed_alone(tmp_path):
    (tmp_path / "seed").write_text("3\n")
    with pytest.raises(UserError, match="has a training from seed 3, not 4; choose another folder"):
        stages.train(tmp_path, minutes=0.1, seed=4)
    assert [file.name for file in tmp_path.iterdir()] == ["seed"]


def test_a_missing_checkpoint_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tools.training", "evaluate", "/nonexistent"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "sam3ray: model.checkpoint is '/nonexistent': no such folder exists" in capsys.readouterr().err
