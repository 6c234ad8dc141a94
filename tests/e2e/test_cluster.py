"""Two nodes, one of which goes away in the middle; and a job submitted to a cluster."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sam3ray.failures import Reason
from sam3ray.store import RunStore, verify_run
from tests.e2e.clips import write_clips
from tests.e2e.gate import Gate
from tests.e2e.nodes import REPOSITORY, Nodes, family, wait_for_nodes
from tests.e2e.runs import PROMPTS, assert_same_annotations, config_for, start_driver
from tests.e2e.test_kills import PATIENCE_S, finished, wait_until


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    cluster = Nodes(tmp_path)
    yield cluster
    cluster.stop()


def test_a_lost_node_loses_nothing_and_charges_nobody(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_clips(tmp_path / "clips", 10, frames=20)
    nodes.start_head(cpus=1)
    wait_for_nodes(nodes, 1)
    doomed = nodes.start_node(cpus=1)
    wait_for_nodes(nodes, 2)
    for name in ("HOME", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, nodes.environment[name])
    output = tmp_path / "run"
    # One actor per node; with one try per crash, a charge for the lost node would fail its clip.
    config = config_for(manifest, output, cpus=1, cluster={"address": nodes.address}, retry={"crashes": 1})
    gate = Gate(tmp_path)
    gate.open_for(3)
    driver = start_driver(config, tmp_path, gated=True)

    def the_doomed_one_is_at_work() -> bool:
        return bool(gate.waiting().intersection(family(nodes.nodes[doomed].pid)))

    wait_until(lambda: finished(output) == 3 and the_doomed_one_is_at_work(), driver)
    nodes.kill(doomed)
    gate.open_for(10)
    assert driver.wait(timeout=PATIENCE_S) == 0
    assert finished(output) == 10
    assert verify_run(str(output)) == []
    assert [failure.reason for failure in RunStore(str(output)).failures()] == [Reason.PREEMPTED]
    undisturbed = tmp_path / "whole"
    again = start_driver(config_for(manifest, undisturbed), tmp_path)
    assert again.wait(timeout=PATIENCE_S) == 0
    assert_same_annotations(output, undisturbed)


def test_submitted_job(nodes: Nodes, tmp_path: Path) -> None:
    """`ray job submit -- python jobs/prelabel.py CONFIG`, as in configs/deploy."""
    manifest = write_clips(tmp_path / "clips", 2, frames=6)
    config: dict[str, Any] = config_for(manifest, tmp_path / "run").model_dump(mode="json")
    config = {key: config[key] for key in ("manifest", "output", "cluster")} | {"prompts": list(PROMPTS)}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    nodes.start_head(cpus=2, dashboard=True)
    wait_for_nodes(nodes, 1)
    command = [
        nodes.ray, "job", "submit", "--address", f"http://127.0.0.1:{nodes.dashboard}", "--",
        sys.executable, str(REPOSITORY / "tests/e2e/submitted.py"), str(path),
    ]  # fmt: skip
    deadline = time.monotonic() + PATIENCE_S
    while True:
        done = subprocess.run(command, env=nodes.environment, capture_output=True, text=True, timeout=PATIENCE_S)
        output = done.stdout + done.stderr
        starting = "Failed to connect" in output or "No available agent" in output  # the dashboard, the job agent
        if done.returncode == 0 or not starting or time.monotonic() > deadline:
            break
        time.sleep(2.0)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "2/2 clips" in done.stdout + done.stderr
    assert verify_run(str(tmp_path / "run")) == []
