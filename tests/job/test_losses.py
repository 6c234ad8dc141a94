from __future__ import annotations

import pytest
from ray import exceptions
from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo

from sam3ray.failures import Reason
from sam3ray.job import losses
from sam3ray.job.losses import judge

HERE, GONE = "a" * 56, "b" * 56


@pytest.fixture(autouse=True)
def nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "nodes_alive", lambda: {HERE})


def died(message: str, **more: object) -> exceptions.ActorDiedError:
    return exceptions.ActorDiedError(ActorDiedErrorContext(actor_id=b"0" * 16, error_message=message, **more))


WORKER_DIED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called"
)


def test_a_dead_process_is_a_crash_told_briefly() -> None:
    verdict = judge(died(WORKER_DIED), HERE)
    assert (verdict.reason, verdict.unsure) == (Reason.CRASHED, False)
    assert verdict.message.endswith("connection error code 2. End of file.")


def test_a_dead_node_is_nobodys_fault() -> None:
    assert judge(died("The actor died because its node has died. Node Id: x"), None).reason is Reason.PREEMPTED
    assert judge(died(WORKER_DIED), GONE).reason is Reason.PREEMPTED
    drained = NodeDeathInfo(reason=NodeDeathInfo.Reason.AUTOSCALER_DRAIN_PREEMPTED)
    assert judge(died(WORKER_DIED, node_death_info=drained), HERE).reason is Reason.PREEMPTED


def test_what_cannot_be_reached_is_asked_again() -> None:
    assert judge(exceptions.ActorUnavailableError("RPC error: Socket closed", b"0" * 16), HERE).unsure


def test_memory() -> None:
    text = "Task was killed due to the node running low on memory."
    assert judge(exceptions.OutOfMemoryError(text), HERE).reason is Reason.OUT_OF_MEMORY
    assert judge(died("The worker was killed by the memory monitor"), HERE).reason is Reason.OUT_OF_MEMORY


KILLED = (
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: 5c99) was "
    "23.1GB used / 23.54GB limit (0.98). Top 10 memory users: PID\tMEM(GB)\tCOMMAND\n{users}\n suggestions: Refer to"
)


def test_memory_that_a_neighbour_holds_is_no_doing_of_the_clips() -> None:
    users = "10092\t20.85\t/opt/bin/python -m serve --token=secret\n4888\t0.11\tray::ClipActor"
    verdict = judge(died(KILLED.format(users=users)), HERE)
    assert verdict.reason is Reason.PREEMPTED
    assert verdict.message == "its node ran out of memory, most of it held by python (process 10092, 20.85 GB)"
    ours = "4888\t20.11\tray::ClipActor.run\n10092\t0.85\t/opt/bin/python -m serve"
    assert judge(died(KILLED.format(users=ours)), HERE).reason is Reason.OUT_OF_MEMORY


def test_a_node_without_the_package_says_so() -> None:
    cause = exceptions.RayTaskError(
        "f", "Traceback ...\nModuleNotFoundError: No module named 'sam3ray'", ImportError("x")
    )
    cause._actor_id = "0"
    verdict = judge(exceptions.ActorDiedError(cause), HERE)
    assert verdict.message == "the worker could not be set up: ModuleNotFoundError: No module named 'sam3ray'"
