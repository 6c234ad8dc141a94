"""Actors that outlive their driver on a cluster, and the driver that takes them over."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
import ray

from sam3ray.config import JobConfig
from sam3ray.job.health import Place
from sam3ray.job.outliving import Standing, options, take_over
from sam3ray.store import RunStore, verify_run
from tests.e2e.clips import write_clips
from tests.e2e.gate import Gate
from tests.e2e.nodes import Nodes, command, family, wait_for_nodes
from tests.e2e.runs import annotate_alone, assert_same_annotations, config_for, start_driver
from tests.e2e.test_kills import PATIENCE_S, wait_until


def test_the_next_driver_takes_actors_over_and_without_one_they_save_their_windows_and_go(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One actor works on a window of a clip that is cut, the other on a clip in one piece."""
    manifest = write_clips(tmp_path / "clips", 2, frames=[250, 90])
    nodes.start_head(cpus=2)
    wait_for_nodes(nodes, 1)
    for name in ("HOME", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, nodes.environment[name])

    def config(output: str, keep_s: float, **windows: Any) -> JobConfig:
        cluster = {"address": nodes.address, "keep_actors_s": keep_s}
        windows |= {"seconds": 3600.0}
        return config_for(manifest, tmp_path / output, cpus=1, cluster=cluster, windows=windows)

    def actors() -> set[int]:
        return {pid for pid in family(nodes.nodes[0].pid) if b"ClipActor" in command(pid)}

    def log() -> str:
        return (tmp_path / "driver.log").read_text()

    gate = Gate(tmp_path)
    gate.open_for(0)
    given = config("run", 300.0, mode="parallel", frames=100, overlap=4)
    first = start_driver(given, tmp_path, gated=True, long=(0,), resumes=True)
    wait_until(lambda: len(gate.waiting()) == 2, first)
    at_work = gate.waiting()
    first.kill()
    first.wait()
    second = start_driver(given, tmp_path, gated=True, long=(0,), resumes=True)
    wait_until(lambda: log().count("actor taken over") == 2, second)
    assert gate.waiting() == at_work == actors(), "they stand where they stood, and no other was started"
    gate.open_for(2)
    assert second.wait(timeout=PATIENCE_S) == 0
    assert verify_run(str(tmp_path / "run")) == []
    assert RunStore(str(tmp_path / "run")).failures() == []
    annotate_alone(config_for(manifest, tmp_path / "alone"))
    assert_same_annotations(tmp_path / "run", tmp_path / "alone")
    made = RunStore(str(tmp_path / "run")).read_clip_metadata("clip-000")["clip"]["windows"]
    assert [(each["name"], each["attempt"]) for each in made] == [("w0", 1), ("w1", 1), ("w2", 1)]
    wait_until(lambda: not actors(), nodes.nodes[0])

    ready = log().count("actor ready")
    third = start_driver(config("left", 10.0), tmp_path, frame_s=0.5, resumes=True)
    wait_until(lambda: log().count("actor ready") == ready + 2, third)
    third.kill()
    third.wait()
    wait_until(lambda: not actors(), nodes.nodes[0])
    kept = [file.parent.name for file in (tmp_path / "left" / "windows").glob("*/*.safetensors")]
    assert sorted(kept) == ["clip-000", "clip-001"]


def ask_until_gone(actor: Any) -> None:
    """Ray ends it a little after it was asked to."""
    while True:
        ray.get(actor.standing.remote())


@pytest.mark.usefixtures("local_ray")
def test_actors_of_other_settings_or_without_a_model_are_ended_and_those_of_other_runs_are_not() -> None:
    run, other = uuid.uuid4().hex, uuid.uuid4().hex

    @ray.remote(num_cpus=0)
    class Actor:
        def __init__(self, order: str, clip_id: str = "") -> None:
            self.order, self.clip_id = order, clip_id

        def standing(self) -> Standing:
            return Standing(self.order, Place("n", "h", ()), self.clip_id, 2)

    same, changed, empty = (Actor.options(**options(run)).remote(order, "a") for order in ("key", "old", ""))
    foreign = Actor.options(**options(other)).remote("key")
    ray.get([each.standing.remote() for each in (same, changed, empty, foreign)])
    (found,) = take_over(run, "key")
    assert (found.standing.clip_id, found.standing.rung) == ("a", 2)
    assert ray.get(foreign.standing.remote()).order == "key"
    for ended in (changed, empty):
        with pytest.raises(ray.exceptions.RayActorError):
            ask_until_gone(ended)
    for each in (same, foreign):
        ray.kill(each)
