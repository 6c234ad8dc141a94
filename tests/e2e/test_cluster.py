"""A cluster that changes while a job runs; and a job submitted to a cluster."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from sam3ray.failures import Reason
from sam3ray.store import RunStore, verify_run
from tests.e2e.clips import write_clips
from tests.e2e.gate import Gate
from tests.e2e.nodes import REPOSITORY, Nodes, family, wait_for_nodes
from tests.e2e.runs import PROMPTS, annotate_alone, assert_same_annotations, config_for, start_driver
from tests.e2e.test_kills import PATIENCE_S, finished, wait_until


def test_a_cluster_that_changes_all_the_time_gives_the_same_rows(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the job runs, the cluster gains a node, loses one, has one drained and one that is short of memory."""
    count = 12
    manifest = write_clips(tmp_path / "clips", count, frames=20)
    nodes.start_head(cpus=1)
    wait_for_nodes(nodes, 1)
    doomed = nodes.start_node(1, "doomed")
    wait_for_nodes(nodes, 2)
    for name in ("HOME", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, nodes.environment[name])
    output = tmp_path / "run"
    # One actor per node; with one try per crash, a charge for a lost node would fail its clip.
    cluster = {"address": nodes.address, "actors": {"min": 3, "max": 5}}
    config = config_for(manifest, output, cpus=1, cluster=cluster, retry={"crashes": 1})
    gate = Gate(tmp_path)
    gate.open_for(2)
    driver = start_driver(config, tmp_path, gated=True)

    def at_work(node: int) -> bool:
        return bool(gate.waiting().intersection(family(nodes.nodes[node].pid)))

    def log() -> str:
        return (tmp_path / "driver.log").read_text()

    wait_until(lambda: finished(output) == 2 and at_work(doomed), driver)
    assert "asks for 3 actors of 0 GPU and 1 CPU each" in log()  # which waits: it does not fit yet
    drained = nodes.start_node(1, "drained")
    wait_until(lambda: at_work(drained), driver)
    nodes.kill(doomed)
    later = nodes.start_node(1, "later")
    wait_until(lambda: at_work(later), driver)
    nodes.give_notice("drained")
    wait_until(lambda: "(1 more are leaving)" in log(), driver)
    gate.admit(family(nodes.nodes[drained].pid))
    wait_until(lambda: finished(output) == 3 and "its node is leaving" in log(), driver)
    assert not at_work(drained)  # it has finished its clip, and gets no other
    nodes.start_node(1, "short", RAY_memory_usage_threshold="0.0")
    wait_until(lambda: "ran out of memory" in log(), driver)
    gate.open_for(count)
    assert driver.wait(timeout=PATIENCE_S) == 0
    assert finished(output) == count
    assert verify_run(str(output)) == []
    assert {failure.reason for failure in RunStore(str(output)).failures()} == {Reason.PREEMPTED}
    undisturbed = tmp_path / "whole"
    annotate_alone(config_for(manifest, undisturbed))
    assert_same_annotations(output, undisturbed)


def test_submitted_job(nodes: Nodes, tmp_path: Path) -> None:
    """`ray job submit -- python jobs/prelabel.py CONFIG`, as in configs/deploy."""
    manifest = write_clips(tmp_path / "clips", 2, frames=6)
    config: dict[str, Any] = config_for(manifest, tmp_path / "run", actors=1).model_dump(mode="json")
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
