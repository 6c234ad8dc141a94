"""Long clips cut into windows that several actors work on: the scheduler in a simulated world."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3ray.failures import Reason
from sam3ray.job import actions as s
from sam3ray.job.graph import MOST_ROUNDS, Cutting, Graph, Stage, Work
from sam3ray.job.scheduler import Scheduler
from tests.job.simulation import Faults, Long, Nature, World

FRAME_S = 1 / 9.8  # 16 objects on an H100, as published
TWO_HOURS = 216_000 * FRAME_S  # at 30 frames a second
PATIENT = s.Limits(actors_max=1, no_progress_s=1e9)  # the simulated worker of a whole clip shows no progress


def two_hours(**more) -> Long:
    """In windows of 1,800 frames that share 16 and throw 14 away; a minute to link, another to merge."""
    return Long(120, extra=30 / 216_000, opens=20.0, links=60.0, merges=60.0, **more)


def begun(cutting: Cutting, actors: int = 2) -> Scheduler:
    """One clip, which the first actor has found to be cut."""
    scheduler = Scheduler([100.0], s.Limits(actors_max=actors))
    scheduler.start(0.0)
    scheduler.actor_ready(0, 1.0)
    scheduler.clip_cut(0, 0, cutting, 2.0)
    return scheduler


def test_windows_then_links_then_the_merge():
    scheduler = begun(Cutting((0.5, 0.6)), actors=1)
    assert [scheduler.work(item) for item in (1, 2)] == [Work(0, Stage.WINDOW, 0), Work(0, Stage.WINDOW, 1)]
    assert scheduler.running_on(0) == 2, "the longer window goes first"
    scheduler.clip_done(0, 2, 3.0)
    actions = scheduler.clip_done(0, 1, 4.0)
    assert actions == [s.Assign(0, 3, attempt=1, rung=0)]
    assert scheduler.work(3) == Work(0, Stage.LINK)
    assert scheduler.give_merges(2, 5.0) == [], "nothing is merged before it is linked"
    assert scheduler.clip_done(0, 3, 6.0) == [s.Kill(0, "no clips left for it", idle=True)]
    assert not scheduler.finished
    assert scheduler.give_merges(2, 6.0) == [s.Merge(4, attempt=1)]
    assert scheduler.counts.running == 1
    scheduler.merge_ended(4, 7.0)
    assert scheduler.finished
    assert (scheduler.counts.done, scheduler.counts.clips) == (1, 1)


def test_several_actors_on_one_clip_are_one_clip_to_who_asks():
    scheduler = begun(Cutting((0.25,) * 4))
    scheduler.actor_placed(1, 2.0)
    scheduler.actor_ready(1, 2.0)
    assert [scheduler.work(scheduler.running_on(actor)).index for actor in (0, 1)] == [0, 2], "the first holds window 1"
    counts = scheduler.counts
    assert (counts.clips, counts.running, counts.waiting, counts.done) == (1, 1, 0, 0)


def test_what_an_earlier_run_has_kept_is_not_made_again():
    out = World([100.0], s.Limits(actors_max=3), longs={0: Long(6, kept={0, 2, 5})}).run()
    assert out.done == {0}
    assert len(out.started_order) == 1 + 3 + 1
    linked = Long(6, kept=set(range(6)), linked=True)
    assert World([100.0], s.Limits(), longs={0: linked}).run().started_order == [0]


def test_one_clip_on_64_actors_takes_a_fortieth():
    alone = World([TWO_HOURS], PATIENT).run().now
    shared = World([TWO_HOURS], replace(PATIENT, actors_max=64), longs={0: two_hours()}).run().now
    assert shared <= alone / 40


def test_actors_for_the_windows_of_a_clip_load_while_it_is_opened():
    scheduler = Scheduler([100.0], s.Limits(actors_max=3))
    assert scheduler.start(0.0) == [s.StartActor(0)]
    assert scheduler.expect({0: 5}, 0.0) == [s.StartActor(1), s.StartActor(2)], "bounded by actors_max"
    for actor in range(3):
        scheduler.actor_placed(actor, 1.0)
        scheduler.actor_ready(actor, 2.0)
    assert scheduler.counts.actors_ready == 3, "they wait for what they were started for"
    actions = scheduler.clip_cut(0, 0, Cutting((0.5, 0.6)), 3.0)
    assert [each.why for each in actions if isinstance(each, s.Kill)] == ["no clips left for it"]
    assert sum(isinstance(each, s.Assign) for each in actions) == 2


def test_actors_go_where_a_clip_is_not_cut_after_all():
    scheduler = Scheduler([100.0], s.Limits(actors_max=3))
    scheduler.start(0.0)
    scheduler.expect({0: 5}, 0.0)
    scheduler.actor_placed(0, 1.0)
    scheduler.actor_ready(0, 2.0)
    gone = [each.actor for each in scheduler.stays_whole(0, 0, 3.0) if isinstance(each, s.Kill)]
    assert sorted(gone) == [1, 2]
    assert scheduler.stays_whole(0, 0, 4.0) == []
    assert scheduler.expect({}, 4.0) == []
    failed = scheduler.clip_failed(0, 0, Reason.UNREADABLE_VIDEO, "no video", 5.0)
    assert any(isinstance(each, s.RecordFailure) and each.final for each in failed)
    assert scheduler.expect({0: 5}, 6.0) == [], "news of a clip that is over"


def test_a_job_of_one_clip_ends_sooner_by_a_model_that_loads():
    def ends(**more):
        return World([600.0], s.Limits(actors_max=4), longs={0: Long(8, opens=30.0)}, seed=3, **more).run().now

    assert ends(expected={0: 8}) <= ends() - 5


def test_a_long_clip_among_a_thousand_ends_with_the_job():
    rng = random.Random(5)
    lengths = [TWO_HOURS, *(rng.uniform(100, 500) * FRAME_S for _ in range(1000))]
    limits = replace(PATIENT, actors_max=64)
    out = World(lengths, limits, longs={0: two_hours()}).run()
    assert len(out.done) == 1001
    assert out.now <= 1.05 * sum(lengths) / 64
    assert World(lengths, limits).run().now > 10 * out.now, "as one piece it would hold the job up"


def test_a_window_that_crashes_is_charged_alone():
    long = Long(8, natures={3: Nature(crashes=2), 5: Nature(crashes=2)})
    out = World([80.0], s.Limits(actors_max=4, crashes=3), longs={0: long}).run()
    assert out.done == {0}
    assert sum(out.records.values()) == 4


@pytest.mark.parametrize("part", [3, -1, -2])
def test_a_part_that_always_crashes_takes_its_clip_with_it(part):
    long = Long(8, natures={part: Nature(crashes=-1)})
    out = World([80.0, *[5.0] * 20], s.Limits(actors_max=4, crashes=3), longs={0: long}).run()
    assert out.final == {0: Reason.CRASHED}
    assert out.done == set(range(1, 21))
    assert sum(out.records.values()) == 3


def test_no_window_is_begun_once_one_is_given_up():
    long = Long(100, natures={20: Nature(error=Reason.UNREADABLE_VIDEO)})
    out = World([2000.0], s.Limits(actors_max=4), longs={0: long}).run()
    assert out.final == {0: Reason.UNREADABLE_VIDEO}
    assert len(out.started_order) <= 1 + 21 + 4
    assert len(long.kept) >= 21, "what ran beside it is kept for the next attempt"


def test_the_windows_of_a_bad_clip_strike_a_place_once():
    bad = {index: Nature(crashes=1) for index in range(40)}
    out = World([400.0, *[3.0] * 40], s.Limits(actors_max=4), longs={0: Long(40, natures=bad)}).run()
    assert out.stopped is None
    assert out.said == []
    assert out.done == set(range(41))


def test_crashes_of_earlier_runs_count_for_their_window():
    prior = {Work(0, Stage.WINDOW, 2): [Reason.CRASHED] * 2}
    long = Long(4, natures={1: Nature(crashes=2), 2: Nature(crashes=1)})
    out = World([8.0], s.Limits(actors_max=1, crashes=3), longs={0: long}, prior_parts=prior).run()
    assert out.final == {0: Reason.CRASHED}


def test_windows_that_are_found_damaged_are_made_again():
    long = Long(5, rots={1, 4})
    out = World([50.0], s.Limits(actors_max=2), longs={0: long}).run()
    assert out.done == {0}
    assert len(out.started_order) == 1 + 5 + 1 + 2 + 1


def test_a_store_that_keeps_losing_windows_does_not_hold_the_job_for_ever():
    scheduler = begun(Cutting((1.0, 1.0), frozenset({0, 1})), actors=1)
    for turn in range(MOST_ROUNDS):
        link = scheduler.running_on(0)
        assert scheduler.work(link).stage is Stage.LINK
        scheduler.parts_lost(0, link, {1}, 3.0 + turn)
        scheduler.clip_done(0, scheduler.running_on(0), 3.5 + turn)
    actions = scheduler.parts_lost(0, scheduler.running_on(0), {1}, 9.0)
    assert any(isinstance(each, s.RecordFailure) and each.final and each.reason is Reason.STORAGE for each in actions)
    assert scheduler.finished


def test_links_that_are_damaged_are_made_again():
    scheduler = begun(Cutting((1.0, 1.0), frozenset({0, 1}), linked=True), actors=1)
    (merge,) = scheduler.give_merges(1, 3.0)
    actions = scheduler.parts_lost(-1, merge.clip, (), 4.0)
    assert any(isinstance(each, s.StartActor) for each in actions), "actors had gone: one is wanted again"


def test_longest_path_first():
    graph = Graph([100.0, 10.0])
    windows = graph.cut(0, Cutting((0.02,) * 50))
    assert all(length < 10.0 for _, length in windows)
    for number, (work, _) in enumerate(windows, start=2):
        graph.number(number, work)
    *_, (link,) = [graph.done(item) for item in range(2, 52)]
    assert link[0] == Work(0, Stage.LINK)
    assert link[1] < windows[0][1]


def test_an_interrupt_waits_for_what_runs_and_begins_no_merge():
    scheduler = begun(Cutting((1.0, 1.0), frozenset({0, 1}), linked=True), actors=1)
    (merge,) = scheduler.give_merges(1, 3.0)
    scheduler.drain(4.0)
    assert not scheduler.finished
    scheduler.merge_ended(merge.clip, 5.0)
    assert scheduler.finished
    idle = begun(Cutting((1.0, 1.0), frozenset({0, 1}), linked=True), actors=1)
    idle.drain(3.0)
    assert idle.give_merges(1, 3.0) == []
    assert idle.finished


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_whatever_fails_every_clip_ends_once(seed):
    rng = random.Random(seed)
    lengths = [rng.uniform(1, 60) for _ in range(rng.randint(1, 25))]
    kinds = [
        Nature(crashes=1),
        Nature(crashes=-1),
        Nature(hangs=1),
        Nature(oom_below=3),
        Nature(oom_below=6),
        Nature(error=Reason.UNREADABLE_VIDEO),
        Nature(error=Reason.INTERNAL),
        Nature(storage=2),
        Nature(kills_node=1),
    ]
    natures = {clip: rng.choice(kinds) for clip in range(len(lengths)) if rng.random() < 0.15}
    longs = {}
    for clip in rng.sample(range(len(lengths)), k=min(len(lengths), rng.randint(1, 4))):
        count = rng.randint(2, 12)
        longs[clip] = Long(
            count,
            opens=rng.random(),
            links=rng.random(),
            merges=rng.random(),
            kept=set(rng.sample(range(count), k=rng.randint(0, count - 1))),
            natures={part: rng.choice(kinds[:6]) for part in range(-2, count) if rng.random() < 0.1 and part != -2},
            rots=set(rng.sample(range(count), k=rng.randint(0, 1))),
        )
        if rng.random() < 0.2:
            longs[clip].natures[-2] = Nature(crashes=rng.choice([1, -1]))
    faults = Faults(actor_dies=rng.choice([0, 0.05]), node_dies=rng.choice([0, 0.05]), start_fails=rng.choice([0, 0.1]))
    limits = s.Limits(actors_max=rng.randint(1, 6), no_progress_s=120.0, crashes=rng.randint(1, 3))
    expected = {clip: rng.randint(1, 12) for clip in range(len(lengths)) if rng.random() < 0.3}  # right or wrong
    merge_slots = rng.randint(1, 3)
    world = World(lengths, limits, natures, faults, seed=seed, longs=longs, merge_slots=merge_slots, expected=expected)
    out = world.run(1e6)
    assert out.stopped is not None or out.done | out.final.keys() == set(range(len(lengths)))
    assert not out.done & out.final.keys()
