"""Runs a function in its own process on the cluster, connected by a pipe: the page's model on the cluster's GPU.

Messages arrive in the order in which they were sent. The process reads a file in place if it can see it, as on this
machine or a shared disk. Otherwise it gets a copy, which is deleted with the process.
"""

from __future__ import annotations

import hashlib
import os
import queue
import socket
import threading
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3ray.config import ClusterConfig
from sam3ray.failures import WorkerUnfit
from sam3ray.files.workdir import WorkDir
from sam3ray.job.agreement import Agreement, check_software
from sam3ray.job.cluster import look
from sam3ray.job.losses import judge
from sam3ray.job.versions import software_versions
from sam3ray.values.versions import ENGINE_VERSION

_CHUNK = 8 * 2**20
_WAIT_S = 20.0  # wait for a message before the next request
_LOOK_S = 2.0  # between two looks for a place


class RemoteEnd:
    """The function's end of the pipe, with the methods of a `multiprocessing.Pipe` end."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def send(self, message: Any) -> None:
        self.outbox.put(message)

    def recv(self) -> Any:
        return self.inbox.get()

    def poll(self) -> bool:
        return not self.inbox.empty()


class Host:
    """The actor. `put`, `take`, the other methods and the function each have their own thread."""

    def __init__(self) -> None:
        self._pipe = RemoteEnd()
        self._folder = WorkDir()
        self._is_over = threading.Event()

    def begin(self, main: Callable[..., None], args: tuple[Any, ...], software: dict[str, str]) -> tuple[str, str]:
        """The node's id and its host. Raises WorkerUnfit where other versions are installed."""
        import ray

        check_software(Agreement(software, ENGINE_VERSION, "", "", {}), software_versions(), ENGINE_VERSION)

        def run() -> None:
            try:
                main(self._pipe, *args)
            except BaseException:  # noqa: BLE001 - like an ordinary process: it prints a traceback and ends
                traceback.print_exc()
                os._exit(1)
            self._is_over.set()

        threading.Thread(target=run, name="main", daemon=True).start()
        return ray.get_runtime_context().get_node_id(), socket.gethostname()

    def put(self, message: Any) -> None:
        self._pipe.inbox.put(message)

    def take(self) -> list[Any] | None:
        """All available messages; empty if none came in time; None once the function has returned and all are taken."""
        try:
            found = [self._pipe.outbox.get(timeout=0.2 if self._is_over.is_set() else _WAIT_S)]
        except queue.Empty:
            return None if self._is_over.is_set() else []
        while not self._pipe.outbox.empty():
            found.append(self._pipe.outbox.get())
        return found

    def sees(self, path: str, size: int, mtime_ns: int) -> bool:
        """Whether this node can read the same file at this path."""
        try:
            found = os.stat(path)
        except OSError:
            return False
        return (found.st_size, found.st_mtime_ns) == (size, mtime_ns)

    def write(self, name: str, data: bytes, offset: int) -> str:
        """Writes a part of a file into the folder; returns the file's path."""
        path = self._folder.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(data)
        return str(path)

    def remove(self, name: str) -> None:
        for each in sorted((self._folder.path / name).rglob("*"), reverse=True):
            each.unlink() if each.is_file() else each.rmdir()
        if (path := self._folder.path / name).exists():
            path.unlink() if path.is_file() else path.rmdir()


@dataclass(frozen=True)
class _Lent:
    path: str
    size: int


class RemoteProcess:
    """Runs `main(pipe, *args)` in an actor, whose GPUs and CPUs are those of an actor of a job (`cluster`).

    Use it from one thread that receives and one that sends, within `job.cluster.connected`.

    Args:
        told: called with a sentence while the actor waits for a node.
        max_bytes: limit on copied files; the oldest are deleted.

    Attributes:
        has_place: a worker of the cluster has the actor. Ray does not notice if that worker then hangs, even while it
            starts.
        why: how the process ended.
    """

    def __init__(
        self,
        main: Callable[..., None],
        args: tuple[Any, ...],
        cluster: ClusterConfig,
        max_bytes: int,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        import ray

        groups = {"in": 1, "out": 1, "files": 1}
        methods = {"put": "in", "take": "out", "sees": "files", "write": "files", "remove": "files"}
        kind = type("Host", (Host,), {name: _in_group(name, group) for name, group in methods.items()})
        options: dict[str, Any] = {
            "num_cpus": cluster.cpus_per_actor,
            "num_gpus": cluster.gpus_per_actor,
            "memory": cluster.memory,
            "resources": cluster.resources or None,
            "accelerator_type": cluster.accelerator_type,
            "label_selector": dict(cluster.label_selector) or None,
        }
        settings: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": groups}
        actor_class: Any = ray.remote(**settings)(kind)
        self._actor: Any = actor_class.options(**options).remote()
        self._began = self._actor.begin.remote(main, args, software_versions())
        self._cluster, self._max_bytes, self._told = cluster, max_bytes, told
        self._node: str | None = None
        self._here: deque[Any] = deque()
        self._lent: OrderedDict[str, _Lent] = OrderedDict()
        self._is_closed = False
        self.has_place = False
        self.why = "it was closed"

    def send(self, message: Any) -> None:
        self._actor.put.remote(message)

    def recv(self) -> Any:
        """The next message. Raises EOFError once the process has ended; `why` has the reason."""
        import ray

        try:
            if self._node is None:
                self._wait_for_place()
            while not self._here:
                found = ray.get(self._actor.take.remote())
                if found is None:
                    self.why = "it ended by itself"
                    raise EOFError
                self._here.extend(found)
        except ray.exceptions.RayError as error:
            self.why = self._reason(error)
            self.close()
            raise EOFError from None
        return self._here.popleft()

    def _wait_for_place(self) -> None:
        import ray

        is_told = False
        while not ray.wait([self._began], timeout=_LOOK_S)[0] and not _has_worker(self._actor):
            if not is_told:
                gpus = self._cluster.gpus_per_actor
                self._told(f"it waits for {gpus:g} GPU and {self._cluster.cpus_per_actor:g} CPU of the cluster")
                is_told = True
        self.has_place = True
        self._node, host = ray.get(self._began)
        self._told(f"it is being loaded on {host}")

    def _reason(self, error: Exception) -> str:
        cause = getattr(error, "cause", None)
        if isinstance(cause, WorkerUnfit):
            return str(cause)
        if self._is_closed:
            return "it was closed"
        return judge(error, self._node).message

    def close(self) -> None:
        """Ends the process at once."""
        import ray

        self._is_closed = True
        ray.kill(self._actor)

    def lend(self, path: str, is_wanted: Callable[[], bool] = lambda: True) -> str:
        """The path at which the process finds this file or folder of files. Copies it if the process cannot see it.

        Args:
            is_wanted: called between two parts of the copy; False ends it.

        Raises:
            OSError: the file cannot be read here.
            Unwanted: `is_wanted` returned False.
            EOFError: the process has ended, which `recv` also reports.
        """
        import ray

        try:
            return self._lend(path, is_wanted)
        except ray.exceptions.RayError:
            raise EOFError from None

    def _lend(self, path: str, is_wanted: Callable[[], bool]) -> str:
        import ray

        source = Path(path)
        files = sorted(each for each in source.rglob("*") if each.is_file()) if source.is_dir() else [source]
        facts = [(str(each), each.stat().st_size, each.stat().st_mtime_ns) for each in files]
        if all(ray.get([self._actor.sees.remote(*each) for each in facts])):
            return path
        name = hashlib.sha256(repr(facts).encode()).hexdigest()[:20] + ("" if source.is_dir() else source.suffix)
        if name not in self._lent:
            size = sum(size for _, size, _ in facts)
            self._make_room(size)
            for each in files:
                target = f"{name}/{each.relative_to(source)}" if source.is_dir() else name
                for offset, data in _parts(each):
                    if not is_wanted():
                        self._actor.remove.remote(name)
                        raise Unwanted
                    where = ray.get(self._actor.write.remote(target, data, offset))
            root = where.removesuffix(target) + name
            self._lent[name] = _Lent(root, size)
        self._lent.move_to_end(name)
        return self._lent[name].path

    def _make_room(self, size: int) -> None:
        while self._lent and sum(each.size for each in self._lent.values()) + size > self._max_bytes:
            name, _ = self._lent.popitem(last=False)
            self._actor.remove.remote(name)


class Unwanted(Exception):
    """The file is no longer needed."""


def with_gpu_if_any(cluster: ClusterConfig) -> ClusterConfig:
    """The settings with one GPU, or with none if the cluster has none now. A configured number is kept."""
    if "gpus_per_actor" in cluster.model_fields_set or any(node.resources.get("GPU") for node in look()):
        return cluster
    return cluster.model_copy(update={"gpus_per_actor": 0})


def _has_worker(actor: Any) -> bool:
    """Ray 2.60's public calls do not tell an actor that waits for a place from one that hangs while it starts."""
    from ray._private import state

    found: dict[str, Any] = state.actors(actor._actor_id.hex())
    return bool(found.get("Address", {}).get("Port"))


def _parts(path: Path) -> Iterator[tuple[int, bytes]]:
    with open(path, "rb") as file:
        offset = 0
        while (data := file.read(_CHUNK)) or offset == 0:
            yield offset, data
            offset += len(data)
            if not data:
                return


def _in_group(name: str, group: str) -> Any:
    """A copy of the method, because Ray's decorator marks it: `Host` itself stays free of Ray."""
    import ray

    inner = getattr(Host, name)

    def method(self: Host, *args: Any) -> Any:
        return inner(self, *args)

    method.__name__ = name
    return ray.method(concurrency_group=group)(method)
