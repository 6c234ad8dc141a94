from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3ray.failures import Reason
from sam3ray.job import actions as s
from sam3ray.job.appeals import MOST_PLACES
from sam3ray.job.health import Place
from sam3ray.job.scheduler import Scheduler
from tests.job.simulation import Faults, Nature, World

LIMITS = s.Limits(actors_min=1, actors_max=4, no_progress_s=30.0, start_timeout_s=60.0)


def test_longest_first_and_all_done() -> None:
    out = World([3.0, 9.0, 1.0, 7.0], s.Limits(actors_max=1)).run()
    assert out.done == {0, 1, 2, 3}
    assert out.started_order == [1, 3, 0, 2]
    assert out.actors_started == 1


def test_no_more_actors_than_clips() -> None:
    assert World([1.0, 1.0], s.Limits(actors_max=8)).run().actors_started == 2


def test_nothing_to_do_starts_nothing() -> None:
    scheduler = Scheduler([], LIMITS)
    assert scheduler.start(0.0) == []
    assert scheduler.finished


def test_a_clip_is_prefetched_while_another_runs() -> None:
    scheduler = Scheduler([2.0, 1.0], s.Limits(actors_max=1))
    assert scheduler.start(0.0) == [s.StartActor(0)]
    assert scheduler.actor_ready(0, 1.0) == [
        s.Assign(0, 0, attempt=1, rung=0),
        s.Prefetch(0, 1, first_frames=True),
    ]
    scheduler.prefetched(0, 1, 1.5)
    assert scheduler.clip_done(0, 0, 2.0) == [s.Assign(0, 1, attempt=1, rung=0)]
    assert scheduler.clip_done(0, 1, 3.0) == [s.Kill(0, "no clips left for it", idle=True)]
    assert scheduler.finished
    assert scheduler.counts.done == 2


def test_actors_of_an_earlier_driver_go_on_with_their_clips() -> None:
    scheduler = Scheduler([3.0, 2.0, 1.0, 0.5], s.Limits(actors_max=2))
    busy = scheduler.adopt(Place("node"), 0.0, clip=1)
    idle = scheduler.adopt(Place("node"), 0.0)
    actions = scheduler.start(0.0)
    assert s.Assign(idle, 0, attempt=1, rung=0) in actions
    assert not any(isinstance(action, s.StartActor) for action in actions)
    assert scheduler.running_on(busy) == 1
    assert s.Assign(busy, 2, attempt=1, rung=0) in scheduler.clip_done(busy, 1, 1.0)
    lost = scheduler.actor_lost(idle, Reason.CRASHED, "it died", 2.0)
    assert [action.clip for action in lost if isinstance(action, s.RecordFailure)] == [0]


def test_an_idle_actor_takes_over_what_another_holds() -> None:
    scheduler = Scheduler([9.0, 8.0, 7.0], s.Limits(actors_max=2))
    scheduler.start(0.0)
    scheduler.actor_ready(0, 1.0)  # runs 0, holds 1
    assert scheduler.running_on(0) == 0
    actions = scheduler.actor_ready(1, 1.0)  # runs 2, the only free one
    assert s.Assign(1, 2, attempt=1, rung=0) in actions
    actions = scheduler.clip_done(1, 2, 2.0)
    assert actions == [s.DropPrefetch(0, 1), s.Assign(1, 1, attempt=1, rung=0)]


def test_a_crashing_clip_gets_exactly_its_tries() -> None:
    for cap in (1, 2, 3, 5):
        limits = s.Limits(actors_max=2, crashes=cap)
        out = World([1.0] * 10, limits, {4: Nature(crashes=-1)}).run()
        assert out.final == {4: Reason.CRASHED}
        assert out.attempts[4] == out.records[4, Reason.CRASHED] == cap
        assert out.done == set(range(10)) - {4}


def test_crashes_of_earlier_runs_count() -> None:
    out = World([1.0], s.Limits(crashes=3), {0: Nature(crashes=-1)}, prior={0: [Reason.CRASHED] * 2}).run()
    assert out.attempts[0] == 1
    assert out.final == {0: Reason.CRASHED}


@pytest.mark.parametrize("cap", [1, 2, 3])
def test_a_clip_that_kills_while_decoded_ahead_is_the_only_one_given_up(cap: int) -> None:
    hostile = {clip: Nature(crashes=-1, crashes_ahead=True) for clip in (3, 11, 12, 25)}
    out = World([5.0] * 40, s.Limits(actors_max=3, crashes=cap), hostile).run()
    assert set(out.final) == set(hostile)
    assert all(out.attempts[clip] == cap for clip in hostile)
    # An innocent neighbour pays at most once.
    assert all(count <= 1 for (clip, _), count in out.records.items() if clip not in hostile)


def test_a_hang_is_ended_retried_once_then_recorded() -> None:
    out = World([1.0] * 5, LIMITS, {1: Nature(hangs=-1), 2: Nature(hangs=1)}).run()
    assert out.final == {1: Reason.TIMED_OUT}
    assert out.attempts[1] == 2
    assert out.attempts[2] == 2
    assert 2 in out.done


def test_progress_is_what_counts_not_total_time() -> None:
    scheduler = Scheduler([1.0], s.Limits(actors_max=1, no_progress_s=10.0))
    scheduler.start(0.0)
    scheduler.actor_ready(0, 0.0)
    for now in range(1, 100):
        scheduler.progress(0, 0, now // 5, float(now))
        assert scheduler.tick(float(now)) == []
    actions = scheduler.tick(120.0)
    assert isinstance(actions[0], s.Kill)
    assert any(isinstance(a, s.RecordFailure) and a.reason is Reason.TIMED_OUT for a in actions)


def test_an_unreachable_actor_is_not_taken_for_a_hang() -> None:
    scheduler = Scheduler([1.0], s.Limits(actors_max=1, no_progress_s=10.0))
    scheduler.start(0.0)
    scheduler.actor_ready(0, 0.0)
    scheduler.actor_unreachable(0, 5.0)
    assert scheduler.tick(100.0) == []
    assert any(
        isinstance(a, s.RecordFailure) and not a.final
        for a in scheduler.actor_lost(0, Reason.PREEMPTED, "node gone", 101.0)
    )


def test_out_of_memory_goes_down_the_ladder() -> None:
    out = World([1.0] * 6, LIMITS, {2: Nature(oom_below=3), 3: Nature(oom_below=99), 4: Nature(oom_below=5)}).run()
    assert out.rungs[2] == [0, 1, 2, 3]
    assert out.rungs[4] == [0, 1, 2, 3, 4, 5]
    assert 4 in out.done
    assert out.final == {3: Reason.OUT_OF_MEMORY}
    assert out.attempts[3] == s.LAST_RUNG + 1
    assert out.fresh_rungs == [True, True]


def test_a_clip_that_wants_a_fresh_actor_gets_one_though_idle_ones_fill_the_minimum() -> None:
    limits = s.Limits(actors_min=3, actors_max=3)
    out = World([1.0, 1.0, 1.0], limits, {0: Nature(oom_below=5)}).run()
    assert out.done == {0, 1, 2}
    assert out.fresh_rungs == [True]


def test_lost_nodes_charge_nobody() -> None:
    limits = s.Limits(actors_max=2, crashes=1)
    out = World([1.0] * 20, limits, {5: Nature(kills_node=6)}).run()
    assert len(out.done) == 20
    assert not out.final
    assert out.started_order[-1] == 5  # after the third loss it lets all others go first


def test_a_clip_that_takes_every_node_down_ends_uncharged() -> None:
    out = World([1.0] * 5, s.Limits(node_losses=4), {0: Nature(kills_node=-1)}).run()
    assert out.final == {0: Reason.PREEMPTED}
    assert not Reason.PREEMPTED.is_charged
    assert out.attempts[0] == 4


@pytest.mark.parametrize("reason", [r for r in Reason if r.is_final])
def test_hopeless_clips_are_recorded_at_once(reason: Reason) -> None:
    out = World([1.0] * 3, LIMITS, {1: Nature(error=reason)}).run()
    assert out.final == {1: reason}
    assert out.attempts[1] == 1


def test_a_storage_outage_is_waited_out() -> None:
    out = World([1.0] * 50, s.Limits(actors_max=10), faults=Faults(outages=((12.0, 60.0),))).run()
    assert len(out.done) == 50
    assert out.stopped is None
    assert not out.final


def test_storage_that_stays_away_stops_the_job() -> None:
    out = World([1.0] * 500, s.Limits(actors_max=20), faults=Faults(outages=((0.0, 1e9),))).run()
    assert out.stopped
    assert "storage failed 8 times in a row" in out.stopped
    assert not out.done
    assert not out.final


def test_one_clip_whose_storage_fails_does_not_stop_the_others() -> None:
    out = World([1.0] * 400, s.Limits(actors_max=2), {7: Nature(storage=-1)}).run()
    assert out.stopped is None
    assert len(out.done) == 399
    assert out.final == {7: Reason.STORAGE}
    assert out.attempts[7] == 8


def test_actors_that_cannot_start_stop_the_job() -> None:
    out = World([1.0] * 100, s.Limits(actors_max=8, actor_starts=3), faults=Faults(start_fails=1.0)).run()
    assert out.stopped
    assert "3 actors in a row could not start; the last error: no model" in out.stopped
    assert out.actors_started <= 8 + 3


def test_a_hopeless_start_stops_the_job_at_once() -> None:
    scheduler = Scheduler([1.0], LIMITS)
    scheduler.start(0.0)
    actions = scheduler.actor_start_failed(0, "no such checkpoint", 1.0, hopeless=True)
    assert s.Stop("no actor can start: no such checkpoint") in actions
    assert scheduler.finished


def test_a_failing_node_does_not_stop_a_job_that_runs() -> None:
    scheduler = Scheduler([1.0] * 50, s.Limits(actors_max=2, actor_starts=2))
    scheduler.start(0.0)
    scheduler.actor_ready(0, 1.0)
    actor, now = 1, 2.0
    for _ in range(20):
        assert not any(isinstance(a, s.Stop) for a in scheduler.actor_start_failed(actor, "bad disk", now))
        now += 100.0
        scheduler.progress(0, 0, now, now)
        (start,) = [a for a in scheduler.tick(now) if isinstance(a, s.StartActor)]
        actor = start.actor


def test_waiting_for_room_has_a_limit_of_its_own_and_none_by_default() -> None:
    scheduler = Scheduler([1.0], LIMITS)
    scheduler.start(0.0)
    assert scheduler.tick(1e6) == []
    assert scheduler.counts.actors_unplaced == 1
    scheduler = Scheduler([1.0], s.Limits(start_timeout_s=10.0, place_timeout_s=60.0))
    scheduler.start(0.0)
    assert scheduler.tick(59.0) == []
    (stop,) = scheduler.tick(60.0)
    assert isinstance(stop, s.Stop)
    assert "no actor could be placed within 60 s" in stop.message


def test_only_so_many_actors_wait_for_room_at_a_time() -> None:
    scheduler = Scheduler([1.0] * 1000, s.Limits(actors_max=900))
    assert len(scheduler.start(0.0)) == s.PENDING_ACTORS
    assert scheduler.actor_placed(0, 1.0) == [s.Load(0), s.StartActor(s.PENDING_ACTORS)]


def test_an_actor_on_a_node_about_to_go_finishes_its_clip_and_gets_no_other() -> None:
    scheduler = Scheduler([9.0, 8.0, 7.0], s.Limits(actors_max=1))
    scheduler.start(0.0)
    scheduler.actor_ready(0, 0.0)  # runs 0, holds 1
    assert scheduler.actor_leaving(0, "notice", 1.0) == [s.DropPrefetch(0, 1), s.StartActor(1)]
    assert s.Assign(1, 1, attempt=1, rung=0) in scheduler.actor_ready(1, 2.0)
    assert scheduler.actor_leaving(0, "notice", 2.5) == []  # no news
    actions = scheduler.clip_done(0, 0, 3.0)
    assert [a.actor for a in actions if isinstance(a, s.Kill)] == [0]
    assert not any(isinstance(a, s.Assign | s.StartActor) for a in actions)
    assert scheduler.counts.done == 1


def test_an_actor_on_a_node_about_to_go_that_runs_nothing_goes_at_once() -> None:
    scheduler = Scheduler([1.0], s.Limits(actors_max=1))
    scheduler.start(0.0)
    scheduler.actor_placed(0, 0.0)
    actions = scheduler.actor_leaving(0, "notice", 1.0)
    assert actions == [s.Kill(0, "notice", idle=False), s.StartActor(1)]


def test_a_model_that_never_loads_counts_as_a_failed_start() -> None:
    scheduler = Scheduler([1.0], s.Limits(actor_starts=1, start_timeout_s=60.0))
    scheduler.start(0.0)
    scheduler.actor_placed(0, 50.0)
    assert scheduler.tick(100.0) == []
    assert any(isinstance(a, s.Stop) for a in scheduler.tick(110.0))


def test_drain_gives_out_nothing_more() -> None:
    scheduler = Scheduler([1.0] * 10, s.Limits(actors_max=2))
    scheduler.start(0.0)
    scheduler.actor_ready(0, 0.0)
    scheduler.actor_ready(1, 0.0)
    assert scheduler.drain(1.0) == []
    assert not scheduler.finished
    assert scheduler.clip_done(0, scheduler.running_on(0), 2.0) == []
    assert scheduler.actor_lost(1, Reason.PREEMPTED, "gone", 2.0)[0].final is False
    assert scheduler.finished
    assert scheduler.counts.done == 1


def test_news_of_an_actor_given_up_is_ignored() -> None:
    scheduler = Scheduler([1.0], s.Limits(actors_max=1, no_progress_s=5.0))
    scheduler.start(0.0)
    scheduler.actor_ready(0, 0.0)
    scheduler.tick(6.0)  # killed; clip goes to actor 1
    assert scheduler.clip_done(0, 0, 7.0) == []
    assert scheduler.actor_lost(0, Reason.CRASHED, "killed", 7.0) == []
    assert scheduler.actor_ready(1, 8.0) == [s.Assign(1, 0, attempt=2, rung=0)]


def test_idle_actors_go_whatever_the_minimum() -> None:
    scheduler = Scheduler([5.0, 1.0, 1.0, 1.0], s.Limits(actors_min=2, actors_max=4))
    scheduler.start(0.0)
    for actor in range(4):
        scheduler.actor_ready(actor, 0.0)
    killed = []
    for actor in range(4):
        if scheduler.running_on(actor) not in (0, None):
            killed += [a for a in scheduler.clip_done(actor, scheduler.running_on(actor), 1.0) if isinstance(a, s.Kill)]
    assert len(killed) == 3


natures = st.builds(
    Nature,
    crashes=st.sampled_from([0, 0, 0, 1, 2, -1]),
    crashes_ahead=st.booleans(),
    hangs=st.sampled_from([0, 0, 0, 1, -1]),
    oom_below=st.sampled_from([0, 0, 0, 1, 4, 5, 99]),
    error=st.sampled_from([None, None, None, *[r for r in Reason if r.is_final]]),
    storage=st.sampled_from([0, 0, 1, 3]),
    kills_node=st.sampled_from([0, 0, 1, 4, -1]),
).map(lambda n: n if n.crashes else Nature(0, False, n.hangs, n.oom_below, n.error, n.storage, n.kills_node))


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.floats(0.1, 40.0), max_size=40),
    behaviour=st.dictionaries(st.integers(0, 39), natures, max_size=10),
    limits=st.builds(
        s.Limits,
        actors_min=st.integers(1, 4),
        actors_max=st.integers(1, 6),
        crashes=st.integers(1, 4),
        no_progress_s=st.just(60.0),
        storage_errors=st.integers(4, 9),
        node_losses=st.integers(1, 6),
        actor_starts=st.just(1000),
    ),
    dies=st.floats(0, 0.2),
    nodes=st.floats(0, 0.2),
    starts=st.floats(0, 0.3),
    seed=st.integers(0, 2**31),
)
def test_every_clip_ends_once_and_caps_hold(lengths, behaviour, limits, dies, nodes, starts, seed) -> None:
    world = World(lengths, limits, behaviour, Faults(dies, nodes, starts), seed)
    out = world.run(until=1e6)
    assert out.now < 1e6, "starved"
    if out.stopped is None:
        assert out.done | set(out.final) == set(range(len(lengths)))
    assert not out.done & set(out.final)
    for (clip, reason), count in out.records.items():
        cap = {
            Reason.CRASHED: limits.crashes + (limits.crashes > 1),
            Reason.TIMED_OUT: 2,
            Reason.OUT_OF_MEMORY: s.LAST_RUNG + 1,
            Reason.PREEMPTED: limits.node_losses,
            Reason.STORAGE: limits.storage_errors,
            Reason.INTERNAL: MOST_PLACES,
        }.get(reason, 1)
        assert count <= cap, (clip, reason, count)
    counts = world.scheduler.counts
    assert counts.done == len(out.done)
    assert counts.settled == len(out.done) + len(out.final)
    assert counts.running == 0 or out.stopped


def test_thousands_of_clips_with_random_failures() -> None:
    rng = random.Random(7)
    lengths = [rng.uniform(1, 30) for _ in range(5000)]
    behaviour = {
        clip: rng.choice(
            [
                Nature(crashes=-1, crashes_ahead=True),
                Nature(crashes=1),
                Nature(hangs=1),
                Nature(oom_below=3),
                Nature(error=Reason.NOT_FOUND),
                Nature(storage=2),
                Nature(kills_node=2),
            ]
        )
        for clip in rng.sample(range(5000), 600)
    }
    limits = s.Limits(actors_max=60, no_progress_s=60.0)
    out = World(lengths, limits, behaviour, Faults(0.02, 0.02, 0.05, ((100.0, 160.0),)), seed=3).run()
    assert out.stopped is None
    assert len(out.done) + len(out.final) == 5000
    hopeless = {c for c, n in behaviour.items() if n.crashes < 0 or n.error}
    assert hopeless <= set(out.final)
    innocent = set(out.final) - set(behaviour)
    assert all(out.records[clip, Reason.CRASHED] == 3 for clip in innocent)  # three random deaths of its own
    assert out.most_actors == 60
