"""The process's one connection to Ray: what it needs to authenticate, and who may share it. Without a Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import ray
from ray._private import services

from sam3ray.config import ClusterConfig
from sam3ray.failures import JobStopped, UserError
from sam3ray.job import cluster
from sam3ray.job.cluster import connected

CONNECT = cluster._connect
AWAY = ClusterConfig(address="10.0.0.1:6379")


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[tuple[str | None, ...]]]:
    """What Ray would be connected to, with the mode and token that it would see. The home is a folder of the test's."""
    made: list[tuple[str | None, ...]] = []

    def connect(config: ClusterConfig, dashboard: bool) -> None:
        made.append((config.address, os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_AUTH_TOKEN")))
        if config.alone:
            os.environ["RAY_AUTH_MODE"] = "token"  # as Ray 2.60 leaves it

    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: made.append(("shutdown",)))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "_CONNECTION", None)  # this process may hold one for other tests
    monkeypatch.setattr(cluster, "_connect", connect)
    monkeypatch.setattr(cluster, "no_answer", lambda host, port: "")
    monkeypatch.setattr(services, "find_gcs_addresses", lambda: {"192.0.2.2:6379"})
    monkeypatch.setattr(cluster, "_gcs_address", lambda: "192.0.2.2:6379")
    yield made
    assert cluster._CONNECTION is None
    assert "RAY_AUTH_MODE" not in os.environ or os.environ["RAY_AUTH_MODE"] == "disabled"


def test_jobs_share_a_connection_and_the_last_one_ends_it(calls: list[tuple[str | None, ...]]) -> None:
    with ExitStack() as outlives:
        with connected(ClusterConfig()):
            outlives.enter_context(connected(ClusterConfig(address="local")))
            with pytest.raises(UserError, match="but this process is connected to 'its own local Ray'"):
                outlives.enter_context(connected(AWAY))
        assert len(calls) == 1
    assert calls[1:] == [("shutdown",)]


def test_a_cluster_has_several_names(calls: list[tuple[str | None, ...]]) -> None:
    with connected(AWAY):
        for name in ("10.0.0.1:6379", "192.0.2.2:6379"):
            with connected(ClusterConfig(address=name)):
                pass
        for name in ("10.0.0.2:6379", None):
            with (
                pytest.raises(UserError, match=r"is connected to '10\.0\.0\.1:6379'"),
                connected(ClusterConfig(address=name)),
            ):
                pass


@pytest.mark.parametrize(
    ("address", "asks", "token", "mode", "tried"),
    [
        ("10.0.0.1:6379", False, True, None, [None]),
        ("10.0.0.1:6379", True, True, None, [None, "token"]),
        ("10.0.0.1:6379", True, False, None, [None]),
        ("10.0.0.1:6379", True, True, "disabled", ["disabled"]),
        ("auto", False, True, None, [None, "disabled"]),  # where Ray sends one by itself, and it were refused
        ("auto, RAY_ADDRESS=10.0.0.1:6379", True, True, None, [None, "token"]),
        ("auto, RAY_ADDRESS=10.0.0.1:6379", False, True, None, [None]),
    ],
)
def test_clusters_with_and_without_tokens(
    address: str, asks: bool, token: bool, mode: str | None, tried: list[str | None], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    modes: list[str | None] = []
    address, _, explicit = address.partition(", RAY_ADDRESS=")
    if explicit:
        monkeypatch.setenv("RAY_ADDRESS", explicit)

    def init(address: str, **_: object) -> None:
        modes.append(os.environ.get("RAY_AUTH_MODE"))
        if (modes[-1] == "token" or (address == "auto" and not explicit and modes[-1] is None)) != asks:
            raise ConnectionError("no")

    monkeypatch.setattr(cluster, "_connect", CONNECT)
    monkeypatch.setattr(ray, "init", init)
    if token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("x")
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    try:
        with connected(ClusterConfig(address=address)):
            assert tried[-1] in ("token", "disabled", None)
    except JobStopped:
        assert asks
        assert tried[-1] != "token"
    assert modes == tried


def test_without_a_writable_home_the_token_stays_in_the_environment(
    calls: list[tuple[str | None, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(ClusterConfig()):
        pass
    monkeypatch.setenv("HOME", "/proc/nowhere")
    with connected(ClusterConfig()):
        pass
    writable, other = (call[2] for call in calls if len(call) > 1)
    assert writable is None
    assert other is not None
    assert len(other) == 64
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_ray_starts_nothing_by_itself_while_a_job_runs(calls: list[tuple[str | None, ...]]) -> None:
    from ray._private import auto_init_hook

    assert auto_init_hook.enable_auto_connect
    with connected(ClusterConfig()):
        assert not auto_init_hook.enable_auto_connect
    assert auto_init_hook.enable_auto_connect


def test_a_connection_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: ClusterConfig, dashboard: bool) -> None:
        raise JobStopped("no Ray")

    monkeypatch.setattr(cluster, "_connect", fail)
    with pytest.raises(JobStopped), connected(AWAY):
        pass


def test_what_ray_says_is_not_all_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert cluster._no_ray(ClusterConfig(address="auto"), "oops") == (
        "no Ray cluster at 'auto' (RAY_ADDRESS is 'http://head:8265'): oops; "
        "if the cluster requires a token, put it in RAY_AUTH_TOKEN or ~/.ray/auth_token"
    )
    assert cluster._no_ray(ClusterConfig(), "Permission denied: '/root'") == (
        "a local Ray could not be started: Permission denied: '/root'; "
        "it writes to the folders in RAY_TMPDIR and TMPDIR, and keeps its settings in HOME"
    )


@pytest.mark.parametrize(
    ("environment", "heads", "said"),
    [
        (
            None,
            set(),
            "no Ray cluster at 'auto': no Ray runs on this machine; run `ray start --head`, or name the head node as "
            "host:port",
        ),
        (
            "http://head",
            set(),
            "no Ray cluster at 'auto' (RAY_ADDRESS is 'http://head'): it must be host:port of the head node",
        ),
        ("head:6379", set(), "no Ray cluster at 'auto' (RAY_ADDRESS is 'head:6379'): nobody answers"),
        (None, {"192.0.2.2:6379"}, "no Ray cluster at 'auto': nobody answers"),
    ],
)
def test_an_address_without_a_head(
    environment: str | None, heads: set[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_connect", CONNECT)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray tries for minutes"))
    monkeypatch.setattr(services, "find_gcs_addresses", lambda: heads)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: None)
    monkeypatch.setattr(cluster, "no_answer", lambda host, port: "nobody answers")
    if environment:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    with pytest.raises(JobStopped) as caught, connected(ClusterConfig(address="auto")):
        pass
    assert str(caught.value) == said


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265", "head", "head:port", "-", "a b:1"])
def test_addresses_that_no_job_can_use_are_refused_before_anything_starts(address: str) -> None:
    with pytest.raises(UserError, match="allowed: null, auto, or host:port of the head node"):
        ClusterConfig(address=address)
