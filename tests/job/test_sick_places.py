"""Processes, GPUs and nodes that fail whatever they are given, among well ones: the scheduler in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3ray.failures import Reason
from sam3ray.job import actions as s
from sam3ray.job.health import STRIKES
from tests.job.simulation import Cluster, Faults, Nature, Sickness, World

FAULTS = [Reason.INTERNAL, Reason.CRASHED, Reason.DEVICE, Reason.LOCAL_DISK, Reason.TIMED_OUT, Reason.STORAGE]
LIMITS = s.Limits(actors_max=100, no_progress_s=60.0)


def lengths(count: int) -> list[float]:
    return [5.0 + clip % 25 for clip in range(count)]


def nodes(count: int, slots: int = 1) -> dict[str, int]:
    return {f"n{number}": slots for number in range(count)}


@pytest.mark.parametrize("reason", [Reason.INTERNAL, Reason.DEVICE, Reason.CRASHED])
def test_one_sick_process_among_a_hundred_costs_no_clip(reason: Reason) -> None:
    cluster = Cluster(nodes(10, 10), sick={"actor 37": Sickness(reason)})
    out = World(lengths(3000), LIMITS, cluster=cluster).run()
    assert len(out.done) == 3000
    assert 1 <= len(out.touched["actor 37"]) <= STRIKES
    assert out.said == []


@pytest.mark.parametrize("reason", FAULTS)
@pytest.mark.parametrize("sick", ["n3", "n3/gpu5"])
def test_a_sick_gpu_or_node_costs_no_clip_and_is_set_aside(reason: Reason, sick: str) -> None:
    if sick == "n3/gpu5" and reason in (Reason.LOCAL_DISK, Reason.STORAGE):
        pytest.skip("no fault of a GPU")
    cluster = Cluster(nodes(5, 8), gpus=True, sick={sick: Sickness(reason)})
    limits = s.Limits(actors_max=40, no_progress_s=60.0)
    out = World(lengths(1000), limits, cluster=cluster).run()
    assert len(out.done) == 1000
    assert len(out.touched[sick]) <= limits.actors_max
    name = {"n3": "n3", "n3/gpu5": "GPU 5 of n3"}[sick]
    told = [action for action in out.said if isinstance(action, s.SetAside)]
    assert told[0].name == name or sick == "n3"
    assert any(action.name == name for action in told)
    assert reason.value in told[0].why


@pytest.mark.parametrize("reason", FAULTS)
def test_one_of_two_nodes_is_sick(reason: Reason) -> None:
    cluster = Cluster(nodes(2), sick={"n0": Sickness(reason)}, slow_to_load={"n1": 120.0})
    out = World(lengths(300), s.Limits(actors_max=2, no_progress_s=60.0), cluster=cluster).run()
    assert len(out.done) == 300
    assert len(out.touched["n0"]) <= 4 + 8  # and one at each trial of a long run


def test_a_node_where_nothing_starts_is_set_aside() -> None:
    cluster = Cluster(nodes(5, 4), sick={"n2": Sickness(Reason.DEVICE, starts=True)})
    out = World(lengths(2000), s.Limits(actors_max=20), cluster=cluster).run()
    assert len(out.done) == 2000
    assert out.loads < 20 + 15
    assert {action.name for action in out.said} == {"n2"}


def test_a_node_with_videos_missing_costs_no_clip() -> None:
    cluster = Cluster(nodes(4, 2), sick={"n1": Sickness(Reason.NOT_FOUND)})
    out = World(lengths(1000), s.Limits(actors_max=8), cluster=cluster).run()
    assert len(out.done) == 1000


def test_videos_that_are_missing_everywhere_are_recorded() -> None:
    behaviour = {clip: Nature(error=Reason.NOT_FOUND) for clip in range(0, 400, 2)}
    out = World(lengths(400), s.Limits(actors_max=8), behaviour, cluster=Cluster(nodes(4, 2))).run()
    assert set(out.final) == set(behaviour)
    assert out.stopped is None
    assert len(out.done) == 200


def test_a_node_comes_back_once_it_is_well() -> None:
    sick = Sickness(Reason.LOCAL_DISK, since_s=100.0, until_s=400.0)
    out = World(lengths(2000), s.Limits(actors_max=4), cluster=Cluster(nodes(4), sick={"n1": sick})).run()
    assert len(out.done) == 2000
    assert isinstance(out.said[-1], s.Reinstate)


@pytest.mark.parametrize("reason", [Reason.INTERNAL, Reason.CRASHED, Reason.DEVICE, Reason.LOCAL_DISK])
@pytest.mark.parametrize("cluster", [nodes(1), nodes(1, 8), nodes(6, 2)])
def test_a_job_that_fails_everywhere_stops_with_its_clips_unburnt(reason: Reason, cluster: dict[str, int]) -> None:
    sick = {node: Sickness(reason) for node in cluster}
    out = World(lengths(1000), s.Limits(actors_max=12), cluster=Cluster(cluster, gpus=True, sick=sick)).run()
    assert out.stopped
    assert reason.value in out.stopped
    assert out.final == {}
    assert len({clip for clip, _ in out.records}) < 60


@pytest.mark.parametrize("reason", [Reason.DEVICE, Reason.LOCAL_DISK])
@pytest.mark.parametrize("clips", [1, 2, 3])
def test_the_only_node_of_a_small_job_is_sick(reason: Reason, clips: int) -> None:
    out = World(
        [1.0] * clips, s.Limits(actors_max=2), cluster=Cluster(nodes(1, 2), sick={"n0": Sickness(reason)})
    ).run()
    assert out.stopped
    assert out.final == {}


@pytest.mark.parametrize("reason", [Reason.DEVICE, Reason.LOCAL_DISK, Reason.STORAGE, Reason.INTERNAL])
@pytest.mark.parametrize("cluster", [nodes(1), nodes(1, 2), nodes(2)])
def test_a_few_bad_clips_at_the_head_stop_nobody(reason: Reason, cluster: dict[str, int]) -> None:
    behaviour = {clip: Nature(error=reason) for clip in range(3)}
    long_first = [100.0 - clip for clip in range(12)]
    limits = s.Limits(actors_max=2)
    out = World(long_first, limits, behaviour, cluster=Cluster(cluster)).run()
    assert out.done == set(range(3, 12))
    assert out.stopped is None
    assert out.final == dict.fromkeys(range(3), reason)
    # The next run begins with those that were not tried: here there are none, and it ends, too.
    prior = {clip: [reason] for clip in range(3)}
    again = World(long_first, limits, behaviour, prior=prior, cluster=Cluster(cluster)).run()
    assert again.done == set(range(3, 12))
    assert set(again.started_order[:3]) & set(behaviour) == set()


def test_a_clip_that_comes_back_goes_to_another_node() -> None:
    cluster = Cluster(nodes(2))
    world = World([1.0] * 6, s.Limits(actors_max=2), {2: Nature(crashes=2)}, cluster=cluster)
    seen = []
    plain = world.on_end
    world.on_end = lambda actor, clip, *rest: (seen.append((clip, world.places[actor].node)), plain(actor, clip, *rest))
    out = world.run()
    assert out.done == set(range(6))
    first, second, *_ = [node for clip, node in seen if clip == 2]
    assert first != second


def test_a_defect_is_final_after_two_nodes() -> None:
    out = World(
        lengths(50), s.Limits(actors_max=4), {9: Nature(error=Reason.INTERNAL)}, cluster=Cluster(nodes(4))
    ).run()
    assert out.final == {9: Reason.INTERNAL}
    assert out.attempts[9] == 2


def sicknesses(*reasons: Reason) -> st.SearchStrategy[Sickness]:
    return st.builds(
        Sickness,
        reason=st.sampled_from(reasons),
        fails_s=st.sampled_from([0.1, 0.5, 5.0, 20.0]),
        since_s=st.sampled_from([0.0, 0.0, 50.0, 300.0]),
        until_s=st.sampled_from([float("inf"), 400.0]),
        starts=st.sampled_from([False, False, True]),
    )


OF_PROCESS = (Reason.INTERNAL, Reason.CRASHED, Reason.DEVICE, Reason.TIMED_OUT)
sick_places = st.one_of(
    st.dictionaries(st.builds("actor {}".format, st.integers(0, 9)), sicknesses(*OF_PROCESS), max_size=1),
    st.dictionaries(
        st.builds("n{}/gpu{}".format, st.integers(1, 5), st.integers(0, 3)), sicknesses(*OF_PROCESS), max_size=1
    ),
    st.dictionaries(
        st.builds("n{}".format, st.integers(1, 5)),
        sicknesses(*FAULTS, Reason.NOT_FOUND, Reason.UNREADABLE_VIDEO, Reason.OUT_OF_MEMORY),
        max_size=1,
    ),
)
natures = [
    Nature(error=Reason.UNREADABLE_VIDEO),
    Nature(crashes=1),
    Nature(hangs=1),
    Nature(oom_below=2),
    Nature(storage=1),
]


@settings(max_examples=100, deadline=None)
@given(
    clips=st.integers(1, 150),
    slots=st.lists(st.integers(1, 4), min_size=2, max_size=6),
    gpus=st.booleans(),
    sick=sick_places,
    loads=st.dictionaries(st.builds("n{}".format, st.integers(0, 5)), st.sampled_from([1.0, 60.0, 300.0])),
    bad=st.dictionaries(st.integers(0, 149), st.sampled_from(natures), max_size=5),
    actors=st.integers(1, 12),
    seed=st.integers(0, 2**31),
)
def test_whatever_is_sick_no_clip_pays_for_it(clips, slots, gpus, sick, loads, bad, actors, seed) -> None:
    cluster = Cluster({f"n{i}": count for i, count in enumerate(slots)}, gpus, sick, loads)
    limits = s.Limits(actors_max=actors, no_progress_s=60.0)
    out = World(lengths(clips), limits, bad, Faults(), seed, cluster=cluster).run(until=1e5)
    assert out.now < 1e5, "starved"
    assert out.stopped is None
    hopeless = {clip for clip, nature in bad.items() if nature.error and clip < clips}
    assert set(out.final) == hopeless
    assert out.done == set(range(clips)) - hopeless
