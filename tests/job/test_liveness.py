"""A job always ends, or says what it waits for: whatever the CPUs, GPUs, minima, stages and changes."""

from __future__ import annotations

import os
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from sam3ray.config import ClusterConfig
from sam3ray.failures import JobStopped, Reason
from tests.job.shared_cluster import Change, Machine, SharedCluster
from tests.job.simulation import Nature

EXAMPLES = int(os.environ.get("SAM3RAY_LIVENESS", "300"))
HORIZON_S = 6_000.0  # of virtual time

sizes = st.tuples(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 8.0]), st.sampled_from([0, 0, 1, 2, 4]))
names = st.sampled_from(["a", "b", "c", "d"])
natures = st.sampled_from(
    [
        Nature(crashes=1),
        Nature(crashes=-1, crashes_ahead=True),
        Nature(hangs=1),
        Nature(oom_below=5),
        Nature(oom_below=99),
        Nature(error=Reason.NOT_FOUND),
        Nature(storage=2),
        Nature(kills_node=1),
    ]
)
joins = st.builds(
    lambda at, name, size: (at, name, size, 0.0), st.floats(1.0, 300.0), st.sampled_from(["e", "f", "g"]), sizes
)
goes = st.builds(
    lambda at, name, notice: (at, name, None, notice),
    st.floats(1.0, 300.0),
    st.sampled_from(["a", "b", "c", "e", "f"]),
    st.sampled_from([0.0, 1.0, 30.0, 120.0]),
)
ended: Counter[str] = Counter()


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    machines=st.dictionaries(names, sizes, max_size=4),
    changes=st.lists(st.one_of(joins, goes), max_size=5),
    alone=st.booleans(),
    low=st.integers(1, 4),
    more=st.integers(0, 6),
    cpus=st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]),
    gpus=st.sampled_from([0.0, 0.0, 0.25, 0.4, 0.5, 1.0, 2.0]),
    clips=st.integers(0, 10),
    behaviour=st.dictionaries(st.integers(0, 9), natures, max_size=4),
    videos=st.booleans(),
    unrendered=st.integers(0, 4),
    cpus_per_task=st.sampled_from([0.25, 1.0, 2.0, 6.0]),
    seed=st.integers(0, 2**31),
)
def test_a_job_ends_or_says_why_not(
    machines, changes, alone, low, more, cpus, gpus, clips, behaviour, videos, unrendered, cpus_per_task, seed
) -> None:
    config = ClusterConfig(
        address=None if alone else "auto",
        actors={"min": low, "max": low + more},
        cpus_per_actor=cpus,
        gpus_per_actor=gpus,
    )
    there = {name: Machine(*size) for name, size in machines.items()}
    later = [Change(at, name, Machine(*size) if size else None, notice) for at, name, size, notice in changes]
    stage = {"videos": videos, "unrendered": unrendered, "cpus_per_task": cpus_per_task}
    try:
        world = SharedCluster(config, there, [] if alone else later, clips, **stage, natures=behaviour, seed=seed)
    except JobStopped:
        assert alone
        ended["refused"] += 1
        return
    if not world.run_all(until=HORIZON_S):
        assert not alone, "nothing can join, so it waits in vain"
        assert world.lacks, "there is room for all that is left, and still it waits"
        assert world.stages.notice, "it waits and does not say for what"
        ended["waits for nodes"] += 1
        return
    ended["ended"] += 1
    assert world.out.stopped is None
    assert world.out.done | set(world.out.final) == set(range(clips))
    assert not world.at, "actors are left"
    if videos:
        assert world.queue.total == len(world.out.done) + unrendered
        assert world.queue.rendered == world.queue.total or alone
        assert all("CPUs" in why for why in world.queue.failures.values())


def test_the_case_of_old() -> None:
    """Two CPUs, two actors at least and at most, two clips, and videos."""
    config = ClusterConfig(actors={"min": 2, "max": 2}, cpus_per_actor=1, gpus_per_actor=0)
    world = SharedCluster(config, {"a": Machine(2, 0)}, [], 2, videos=True)
    assert world.run_all(until=HORIZON_S)
    assert world.queue.rendered == 2


def test_waiting_for_what_others_use_is_told() -> None:
    config = ClusterConfig(address="auto", actors={"min": 1, "max": 2}, cpus_per_actor=2, gpus_per_actor=0)
    machine = Machine(2, 0)
    machine.free_cpus = 0.0  # another job has them
    world = SharedCluster(config, {"a": machine}, [], 2, videos=False)
    assert not world.run_all(until=100.0)
    assert "others are using the cluster's resources" in world.stages.notice
    machine.free_cpus = 2.0
    world.later(0.0, "look")
    assert world.run_all(until=HORIZON_S)
    assert world.stages.notice == ""


def test_clips_that_want_a_fresh_process_get_one_where_actors_wait_for_room() -> None:
    """One actor fits after nodes have gone; those that wait for room are fresh, but get none unless it goes."""
    config = ClusterConfig(address="auto", actors={"min": 1, "max": 4}, cpus_per_actor=1, gpus_per_actor=0)
    hungry = {clip: Nature(oom_below=5) for clip in range(4)}
    for at_s in range(40, 120, 2):
        machines = {name: Machine(1, 0) for name in "abcd"}
        gone = [Change(at_s, name) for name in "bcd"]
        world = SharedCluster(config, machines, gone, 4, videos=False, natures=hungry, seed=at_s)
        assert world.run_all(until=HORIZON_S), at_s
        assert world.out.done == set(range(4))
