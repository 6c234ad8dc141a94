from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from sam3ray.config import ClusterConfig
from sam3ray.failures import JobStopped, UserError
from sam3ray.job import cluster
from sam3ray.job.capacity import Node, matches, room_on


def config(low: int, high: int, gpus: float, cpus: float = 1, **more: object) -> ClusterConfig:
    return ClusterConfig(actors={"min": low, "max": high}, gpus_per_actor=gpus, cpus_per_actor=cpus, **more)


def nodes(*each: tuple[float, float] | dict[str, float], **more: object) -> list[Node]:
    found = []
    for number, has in enumerate(each):
        resources = has if isinstance(has, dict) else {"CPU": has[0], "GPU": has[1]}
        found.append(Node(f"n{number}", {name: amount for name, amount in resources.items() if amount}, **more))
    return found


@pytest.mark.parametrize(
    ("asked", "there", "fit"),
    [
        (config(1, 8, 1), nodes((16, 8)), 8),
        (config(1, 8, 1), nodes((16, 2), (16, 3)), 5),
        (config(1, 8, 1), nodes((2, 4)), 2),  # CPUs run out first
        (config(1, 8, 0.5), nodes((16, 3)), 6),
        (config(1, 8, 0.4), nodes((16, 3)), 6),  # a fraction lies within one GPU
        (config(1, 8, 2), nodes((16, 3), (16, 3)), 2),  # and whole ones within one node
        (config(1, 8, 0, 0.5), nodes((2, 0)), 4),
        (config(1, 8, 1, 0), nodes((0, 1)), 1),
        (config(1, 8, 0, memory=2 * 2**30), nodes({"CPU": 8, "memory": 5 * 2**30}), 2),
        (config(1, 8, 0, resources={"decoder": 0.5}), nodes({"CPU": 8, "decoder": 1}, (8, 0)), 2),
        (config(1, 8, 1, accelerator_type="A100"), nodes({"CPU": 8, "GPU": 2, "accelerator_type:A100": 1}, (8, 4)), 2),
        (config(1, 8, 1, accelerator_type="H100"), nodes({"CPU": 8, "GPU": 2, "accelerator_type:A100": 1}), 0),
        (config(1, 8, 0, label_selector={"zone": "in(a, b)"}), nodes((2, 0), (3, 0), labels={"zone": "b"}), 5),
        (config(1, 8, 0, label_selector={"zone": "!a"}), nodes((2, 0), labels={"zone": "a"}), 0),
        (config(1, 8, 0), nodes((4, 0), draining=True), 0),
        (config(3, 8, 1, autoscaling=True), nodes((4, 0)), 0),  # which has no effect
    ],
)
def test_actors_that_fit(asked: ClusterConfig, there: list[Node], fit: int) -> None:
    room = room_on(there, asked.model_copy(update={"address": "auto"}), clips=100)
    assert room.actors == fit
    assert bool(room.notice) == (fit < 8)
    if fit < asked.actors.min:
        with pytest.raises(JobStopped):
            room_on(there, asked, clips=100)
    else:
        assert room_on(there, asked, clips=100).actors == fit


def test_too_little_for_the_minimum_says_what_there_is() -> None:
    with pytest.raises(JobStopped) as caught:
        room_on(nodes((16, 2), (16, 1)), config(4, 8, 1), clips=9)
    assert str(caught.value) == (
        "cluster.actors.min asks for 4 actors of 1 GPU and 1 CPU each, but the cluster has 3 GPUs and 32 CPUs "
        "on 2 nodes: room for 3 only"
    )
    with pytest.raises(JobStopped, match=r"no GPU .*: room for none; set cluster\.gpus_per_actor to 0"):
        room_on(nodes((16, 0)), config(1, 8, 1), clips=9)
    assert room_on(nodes((16, 2), (16, 1)), config(4, 8, 1), clips=3).notice == ""  # no more actors than clips


def test_on_a_cluster_what_does_not_fit_waits_and_says_so() -> None:
    asked = config(
        2, 8, 1, address="auto", memory=3 * 2**30, resources={"decoder": 1}, accelerator_type="A100",
        label_selector={"zone": "a"},
    )  # fmt: skip
    assert room_on([], asked, clips=9).notice == (
        "cluster.actors.min asks for 2 actors of 1 GPU of type A100, 1 CPU, 1 decoder and 3 GiB of memory each on "
        "nodes with zone=a, but the cluster has no GPU, no CPU, 0 decoder, 0 GiB of memory, no node with A100 and "
        "no node with those labels on no node: room for none; the job is waiting for nodes"
    )
    room = room_on(nodes((4, 1)), config(2, 8, 1, address="auto"), clips=9)
    assert room.notice.endswith("room for 1 only; the others are waiting for nodes")


@pytest.mark.parametrize(
    ("wanted", "label", "yes"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", None, False),
        ("!a", "b", True),
        ("!a", "a", False),
        ("!a", None, True),
        ("in(a, b)", "b", True),
        ("in(a,b)", "c", False),
        ("in(a, b)", None, False),
        ("!in(a, b)", "c", True),
        ("!in(a, b)", "b", False),
        ("!in(a, b)", None, True),
    ],
)
def test_labels_match_as_in_ray(wanted: str, label: str | None, yes: bool) -> None:
    assert matches(wanted, label) == yes


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("resources", {"CPU": 2}, "set cluster.cpus_per_actor instead"),
        ("resources", {"decoder": 1.5}, "a fraction above 0, or a whole number"),
        ("resources", {"decoder": -1}, "a fraction above 0, or a whole number"),
        ("label_selector", {"zone": "in(a"}, "allowed: a, !a, in(a, b) or !in(a, b)"),
        ("label_selector", {"-zone": "a"}, "is no label"),
        ("memory", 0, "memory is 0; allowed: a whole number of at least 1, or null"),
    ],
)
def test_what_ray_would_refuse_is_refused_before_anything_starts(key: str, value: object, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        ClusterConfig(**{key: value})


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
