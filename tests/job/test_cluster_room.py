from __future__ import annotations

import os
from pathlib import Path

import pytest

from sam3ray.config import ClusterConfig
from sam3ray.failures import JobStopped
from sam3ray.job import cluster
from sam3ray.job.capacity import room_on


def config(low: int, high: int, gpus: float, cpus: float = 1, **more: object) -> ClusterConfig:
    return ClusterConfig(actors={"min": low, "max": high}, gpus_per_actor=gpus, cpus_per_actor=cpus, **more)


def node(cpus: float, gpus: float = 0) -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}


@pytest.mark.parametrize(
    ("asked", "nodes", "fit"),
    [
        (config(1, 8, 1), [node(16, 8)], 8),
        (config(1, 8, 1), [node(16, 2), node(16, 3)], 5),
        (config(1, 8, 1), [node(2, 4)], 2),  # CPUs run out first
        (config(1, 8, 0.5), [node(16, 3)], 6),
        (config(1, 8, 0.4), [node(16, 3)], 6),  # a fraction lies within one GPU
        (config(1, 8, 2), [node(16, 3), node(16, 3)], 2),  # and whole ones within one node
        (config(1, 8, 0, 0.5), [node(2)], 4),
        (config(1, 8, 1, 0), [node(0, 1)], 1),
        (config(3, 8, 1, autoscaling=True), [node(4)], 8),
    ],
)
def test_actors_that_fit(asked: ClusterConfig, nodes: list[dict[str, float]], fit: int) -> None:
    room = room_on(nodes, asked)
    assert room.actors == fit
    assert (f"running {fit}" in room.notice) == (fit < 8)


def test_too_little_for_the_minimum_says_what_there_is() -> None:
    with pytest.raises(JobStopped) as caught:
        room_on([node(16, 2), node(16, 1)], config(4, 8, 1))
    assert str(caught.value) == (
        "cluster.actors.min asks for 4 actor(s) of 1 GPU and 1 CPU each, but the cluster has 3 GPUs and 32 CPUs "
        "on 2 nodes: room for 3 only"
    )
    with pytest.raises(JobStopped, match=r"no GPU .*: room for none; set cluster\.gpus_per_actor to 0"):
        room_on([node(16)], config(1, 8, 1))


def test_ray_keeps_its_sockets_in_a_short_folder_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    assert cluster._temp_dir() == "/tmp/ray"
    monkeypatch.setattr("tempfile.tempdir", "/tmp/" + "deep/" * 12)
    assert cluster._temp_dir() == "/tmp/ray"
    monkeypatch.setattr(cluster.os.path, "exists", lambda path: path == "/tmp/ray")
    monkeypatch.setattr(cluster.os, "access", lambda path, mode: path == "/tmp")  # another user's /tmp/ray
    assert cluster._temp_dir() == f"/tmp/ray-{os.getuid()}"
    monkeypatch.setenv("RAY_TMPDIR", "/elsewhere")
    assert cluster._temp_dir() is None
