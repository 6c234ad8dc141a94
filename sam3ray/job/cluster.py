"""Connects to Ray: starts a private one on this machine, or joins a cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sam3ray.config import ClusterConfig
from sam3ray.failures import JobStopped, UserError
from sam3ray.guard.redact import redact
from sam3ray.job.capacity import Node
from sam3ray.job.head import no_answer

# Actors return only small values; annotations go straight to storage.
_OBJECT_STORE_BYTES = 256 * 2**20
_LONGEST_TEMP_DIR = 40
_AUTH_MODE, _AUTH_TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
_QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
LOCAL_STARTS = 3
LOOK_EVERY_S = 5.0  # seconds between two looks at the nodes: which exist, which are about to leave


@dataclass
class _Connection:
    """This process's one connection to a Ray; its jobs, in whatever threads, share it."""

    address: str | None  # the address that the first job asked for
    users: int = 0
    brought: bool = False  # connected before, by a test or a notebook: not disconnected
    environment: dict[str, str | None] = field(default_factory=dict)  # its values before we changed them


_LOCK = threading.Lock()
_CONNECTION: _Connection | None = None


@contextlib.contextmanager
def connected(config: ClusterConfig, *, dashboard: bool = False) -> Iterator[None]:
    """Connects to Ray; disconnects, and ends a private Ray, when the last job of this process ends.

    Within the block, Ray's calls do not start or join another cluster, as they would without a connection.

    Raises:
        JobStopped: no Ray could be started, or there is no cluster at the address.
        UserError: this process is connected to another Ray than `cluster.address` asks for.
    """
    # Ray prints raylet messages about dead workers on stdout, which is for results, whatever `log_to_driver`
    # says (2.60, _private/worker.py, listen_error_messages). We report ourselves what died and why.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    with _LOCK:
        _join(config, dashboard)
    try:
        yield
    finally:
        with _LOCK:
            _leave()


def _join(config: ClusterConfig, dashboard: bool) -> None:
    global _CONNECTION
    import ray

    if _CONNECTION is None and ray.is_initialized():
        _CONNECTION = _Connection(_gcs_address(), brought=True)
    if _CONNECTION is not None:
        if not _honours(_CONNECTION, config.address):
            raise UserError(
                f"cluster.address is {config.address or 'null'!r}, but this process is connected to "
                f"{_CONNECTION.address or 'its own local Ray'!r}; run the job in a separate process"
            )
    else:
        before = _prepare_token(config)
        try:
            _connect(config, dashboard)
        except BaseException:
            _restore(before)
            raise
        _CONNECTION = _Connection(config.address, environment=before)
    _start_by_itself(False)
    _CONNECTION.users += 1


def _leave() -> None:
    global _CONNECTION
    import ray

    assert _CONNECTION is not None
    _CONNECTION.users -= 1
    if _CONNECTION.users == 0:
        if not _CONNECTION.brought:
            ray.shutdown()
            _restore(_CONNECTION.environment)
        _start_by_itself(True)
        _CONNECTION = None


def _honours(connection: _Connection, address: str | None) -> bool:
    if connection.brought:
        return address in (None, "auto", "local") or address == connection.address
    return (address or "local") == (connection.address or "local") or address == _gcs_address()


def _gcs_address() -> str:
    import ray

    return str(ray.get_runtime_context().gcs_address)


def _start_by_itself(allowed: bool) -> None:
    from ray._private import auto_init_hook

    auto_init_hook.enable_auto_connect = allowed and os.environ.get("RAY_ENABLE_AUTO_CONNECT", "") != "0"


def _prepare_token(config: ClusterConfig) -> dict[str, str | None]:
    """Ensures that a private Ray can create its token; returns the previous environment variables.

    Ray 2.60 writes the token to the user's home, which may not be writable: then we put one into the environment.
    Ray also leaves RAY_AUTH_MODE set.
    """
    before = {name: os.environ.get(name) for name in (_AUTH_MODE, _AUTH_TOKEN)}
    home = os.path.join(os.path.expanduser("~"), ".ray")
    if config.alone and _AUTH_MODE not in os.environ and not _has_token() and not _may_write(home):
        os.environ[_AUTH_TOKEN] = secrets.token_hex(32)
    return before


def _has_token() -> bool:
    """Whether Ray would find a token."""
    home = os.path.expanduser("~")
    paths = [os.environ.get("RAY_AUTH_TOKEN_PATH"), os.path.join(home, ".ray", "auth_token")]
    return bool(os.environ.get(_AUTH_TOKEN)) or any(os.path.isfile(path) for path in paths if path)


def _restore(environment: Mapping[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _forget_mode()


def _forget_mode() -> None:
    """Makes Ray read the mode again, which it otherwise does once per process."""
    from ray import _raylet

    with contextlib.suppress(AttributeError):
        _raylet.Config.initialize("")  # type: ignore[attr-defined]


def _connect(config: ClusterConfig, dashboard: bool) -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if config.alone:
            start_local(include_dashboard=dashboard)
        else:
            _reach(str(config.address))
    except JobStopped:
        raise
    except Exception as error:  # Ray raises many kinds, ConnectionError and RuntimeError among them
        raise JobStopped(redact(_no_ray(config, " ".join(str(error).split())[:400]))) from error


def _reach(address: str) -> None:
    """Connects to a cluster, with or without a token.

    Ray 2.60 sends a token to an explicit address (also one in RAY_ADDRESS) only if RAY_AUTH_MODE says so, and to a head
    that it finds itself whenever there is a token. If that fails and the user has not set the mode, the other way is
    tried.
    """
    import ray

    host, port = _head(address)
    if problem := no_answer(host, port):
        raise JobStopped(redact(f"no Ray cluster at {_named(address)}: {problem}"))
    given = _AUTH_MODE in os.environ
    try:
        ray.init(address=address, **_QUIET)
        return
    except Exception:
        ray.shutdown()
        if given or not _has_token():
            raise
    is_found = address == "auto" and not os.environ.get("RAY_ADDRESS")
    os.environ[_AUTH_MODE] = "disabled" if is_found else "token"
    _forget_mode()
    try:
        ray.init(address=address, **_QUIET)
    except Exception:
        ray.shutdown()
        raise


def _head(address: str) -> tuple[str, int]:
    """Where Ray would look for the head: `auto` means RAY_ADDRESS, or the latest head on this machine.

    Raises:
        JobStopped: that is nowhere.
    """
    from ray._private import services

    try:
        found = services.canonicalize_bootstrap_address(address)
        host, _, port = (found or "").rpartition(":")
        return host.strip("[]"), int(port)
    except ConnectionError:
        why = "no Ray runs on this machine; run `ray start --head`, or name the head node as host:port"
    except ValueError:
        why = "it must be host:port of the head node"
    raise JobStopped(redact(f"no Ray cluster at {_named(address)}: {why}"))


def _named(address: str) -> str:
    """The address as the user wrote it."""
    given = os.environ.get("RAY_ADDRESS")
    return f"{address!r} (RAY_ADDRESS is {given!r})" if address == "auto" and given else repr(address)


def _no_ray(config: ClusterConfig, said: str) -> str:
    """The message for a Ray that could not be started or reached."""
    if config.alone:
        text = f"a local Ray could not be started: {said}"
        if not _may_write(tempfile.gettempdir()) or "ermission" in said or "ead-only" in said or "No space" in said:
            text += "; it writes to the folders in RAY_TMPDIR and TMPDIR, and keeps its settings in HOME"
        return text
    text = f"no Ray cluster at {_named(str(config.address))}: {said}"
    if os.environ.get(_AUTH_MODE) != "token":
        text += "; if the cluster requires a token, put it in RAY_AUTH_TOKEN or ~/.ray/auth_token"
    return text


def start_local(**options: Any) -> None:
    """Starts a private Ray on this machine. Retries, because Ray 2.60 waits only 30 s, too little on a busy machine."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # `local`: whatever RAY_ADDRESS says.
    options = {"object_store_memory": _OBJECT_STORE_BYTES, "_temp_dir": _temp_dir(), **_QUIET, **options}
    for tries_left in reversed(range(LOCAL_STARTS)):
        try:
            ray.init(address="local", **options)
            return
        except Exception:
            ray.shutdown()
            if tries_left == 0:
                raise


def _temp_dir() -> str | None:
    """Where a private Ray keeps its sessions; None means Ray's default.

    Ray puts Unix sockets below it, whose paths must not exceed 107 bytes, some 65 of which are Ray's own. The default
    is `ray` in the system's temporary folder, which may be too deep or belong to another user.
    """
    if "RAY_TMPDIR" in os.environ:
        return None
    for folder in (os.path.join(tempfile.gettempdir(), "ray"), "/tmp/ray", f"/tmp/ray-{os.getuid()}"):
        if len(os.fsencode(folder)) <= _LONGEST_TEMP_DIR and _may_write(folder):
            return folder
    return tempfile.mkdtemp(prefix="ray-", dir="/tmp")


def _may_write(folder: str) -> bool:
    there = folder if os.path.exists(folder) else os.path.dirname(folder)
    return os.access(there, os.W_OK | os.X_OK)


def look() -> list[Node]:
    """The nodes of the connected cluster."""
    import ray

    draining = _draining()
    return [
        Node(node["NodeID"], dict(node["Resources"]), dict(node.get("Labels") or {}), node["NodeID"] in draining)
        for node in ray.nodes()
        if node["Alive"]
    ]


def _draining() -> set[str]:
    """Ids of nodes that are about to leave: reclaimed by the cloud, or removed by an autoscaler or a person.

    Ray 2.60 has no public call for it; its own Train library asks in the same way (train/v2, preemption.py).
    """
    import ray

    ask = getattr(ray._private.state.state, "get_draining_nodes", None)
    return set(ask()) if ask is not None else set()


def dead_process() -> str:
    """The essential process of a private Ray that has died; empty if none has.

    About 15 s after its raylet has died, Ray 2.60 ends the driver with code 1 and without a message.
    """
    import ray

    node = getattr(ray._private.worker, "_global_node", None)
    if node is None or not node.head:
        return ""
    return ", ".join(kind for kind, _ in node.dead_processes() if kind in ("raylet", "gcs_server"))
