"""What a frame reads of an object's past, and that dropping the rest changes nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3ray.engine.memory import NO_ROW, Bank, FrameEntry, ObjectMemory, ReadRules, Reads, RuleSet, select_conditioning

RULES: list[RuleSet] = ["published", "transformers"]


def rules(name: RuleSet, num_frames: int | None = None) -> ReadRules:
    return ReadRules(name, num_memories=7, max_pointers=16, max_conditioning=4, num_frames=num_frames)


def entry(frame: int, passed: bool = True) -> FrameEntry:
    """Rows that tell the frame: its pointer is in row `frame`, its memory in row 1000 + `frame`."""
    return FrameEntry(pointer=frame, memory=1000 + frame, passed=passed)


def past(conditioning: list[int], tracked: list[int], failed: tuple[int, ...] = ()) -> ObjectMemory:
    return ObjectMemory({t: entry(t) for t in conditioning}, {t: entry(t, passed=t not in failed) for t in tracked})


def frames_read(memory: ObjectMemory, frame: int, name: RuleSet, reverse: bool = False) -> tuple[list, list]:
    """([(frame, temporal encoding), ...], [(frame, offset), ...]) that are read."""
    reads = rules(name).reads(memory, frame, reverse)
    return [(row - 1000, k) for row, k in reads.memories], [(row, offset) for row, offset in reads.pointers]


class TestReads:
    def test_both_rules_agree_on_an_object_that_is_always_there(self):
        memory = past([0], list(range(1, 30)))
        published, transformers = (frames_read(memory, 30, name) for name in RULES)
        expected = [(0, 0), *((30 - k, k) for k in range(6, 0, -1))]
        assert published[0] == transformers[0] == expected
        assert transformers[1] == [(0, 30), *((30 - k, k) for k in range(1, 16))]
        assert published[1] == transformers[1][:-1]  # the last of those remembered is not read

    def test_published_passes_over_frames_without_the_object(self):
        memory = past([0], list(range(1, 30)), failed=tuple(range(10, 30)))
        memories, pointers = frames_read(memory, 30, "published")
        assert memories == [(0, 0), (5, 6), (6, 5), (7, 4), (8, 3), (9, 2), (29, 1)]
        assert pointers == [(0, 30), (29, 1), *((11 - k, k) for k in range(2, 10))]
        assert [t for t, _ in frames_read(memory, 30, "transformers")[0]] == [0, *range(24, 30)]

    def test_a_conditioning_frame_just_behind_leaves_its_place_empty(self):
        memory = past([0, 9], list(range(1, 9)))
        assert frames_read(memory, 10, "published")[0] == [(0, 0), (9, 0), *((10 - k, k) for k in range(6, 1, -1))]

    def test_pointers_of_all_conditioning_frames_or_of_the_selected(self):
        conditioning = list(range(0, 160, 16))
        memory = past(conditioning, [t for t in range(150) if t % 16])
        assert [t for t, offset in frames_read(memory, 150, "transformers")[1] if offset == 150 - t][
            :10
        ] == conditioning
        selected = [t for t, _ in frames_read(memory, 150, "published")[1]][:4]
        assert selected == [144, 128, 112, 96]

    def test_an_unselected_conditioning_frame_nearby_counts_as_an_ordinary_one(self):
        memory = past([0, 5, 6, 7, 8], [1, 2, 3, 4])
        # 8 and the three next to it are selected; none is left within six frames but those
        assert (5, 5) not in frames_read(memory, 10, "transformers")[0]
        memory = past([5, 6, 7, 8, 9], [])
        assert (5, 5) in frames_read(memory, 10, "transformers")[0]
        assert (5, 5) not in frames_read(memory, 10, "published")[0]

    @pytest.mark.parametrize("name", RULES)
    def test_backward_is_the_mirror_of_forward(self, name):
        forward = past([0], list(range(1, 20)), failed=(4, 12))
        backward = past([100], [100 - t for t in range(1, 20)], failed=(96, 88))
        memories, pointers = frames_read(forward, 20, name)
        assert frames_read(backward, 80, name, reverse=True) == (
            [(100 - t, k) for t, k in memories],
            [(100 - t, k) for t, k in pointers],
        )

    @pytest.mark.parametrize("name", RULES)
    def test_conditioning_frames_ahead_lend_their_memory_but_no_pointer(self, name):
        memories, pointers = frames_read(past([0, 50], [1, 2]), 3, name)
        assert (50, 0) in memories
        assert 50 not in [t for t, _ in pointers]

    @pytest.mark.parametrize("name", RULES)
    def test_the_length_of_a_short_clip_limits_the_pointers(self, name):
        memory = past([0], list(range(1, 9)))
        pointers = rules(name, num_frames=4).reads(memory, 9).pointers
        assert max(offset for row, offset in pointers if row) <= 3

    @pytest.mark.parametrize("name", RULES)
    def test_an_object_without_a_prompt_cannot_be_tracked(self, name):
        with pytest.raises(ValueError, match="no conditioning frame, so frame 7"):
            rules(name).reads(past([], [1]), 7)


@settings(deadline=None)
@given(
    frame=st.integers(0, 60),
    frames=st.lists(st.integers(0, 60), unique=True, min_size=1, max_size=12),
    limit=st.sampled_from([-1, 2, 4]),
)
def test_conditioning_frames_are_selected_by_nearness(frame, frames, limit):
    chosen, rest = select_conditioning(frame, frames, limit)
    assert sorted([*chosen, *rest]) == sorted(frames)
    if limit == -1 or len(frames) <= limit:
        assert chosen == frames
        return
    assert len(chosen) == limit
    before, after = [t for t in frames if t < frame], [t for t in frames if t >= frame]
    assert not before or max(before) in chosen
    assert not after or min(after) in chosen
    others = [t for t in chosen if t not in (max(before, default=None), min(after, default=None))]
    assert all(abs(t - frame) <= abs(left - frame) for t in others for left in rest)


def in_order(reads: Reads) -> tuple[list, list]:
    """Attention does not care for order, which may differ where conditioning frames were dropped."""
    return sorted(reads.memories), sorted(reads.pointers)


@st.composite
def histories(draw):
    length = draw(st.integers(2, 48))
    start = draw(st.integers(0, length - 1))
    others = draw(st.sets(st.integers(0, length - 1), max_size=8))
    known_ahead = draw(st.sets(st.sampled_from(sorted(others)), max_size=3)) if others else set()
    failed = draw(st.sets(st.integers(0, length - 1)))
    return length, start, others, known_ahead, failed


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("then_backward", [False, True])
@settings(max_examples=80, deadline=None)
@given(history=histories(), reverse=st.booleans())
def test_what_is_dropped_is_never_read(name, then_backward, history, reverse):
    """Frame by frame, with prompts on the way and some known ahead: pruned and complete memories read the same."""
    length, start, prompted, known_ahead, failed = history
    if then_backward:
        reverse = False
    read = rules(name, length if length < 16 else None)
    whole, kept = ObjectMemory(), ObjectMemory(backward_from=start if then_backward else None)

    def add(frame: int, conditioning: bool) -> None:
        for memory in (whole, kept):
            entries = memory.conditioning if conditioning else memory.tracked
            entries[frame] = entry(frame, passed=frame not in failed)

    def prune(frame: int, backward: bool) -> None:
        following = frame - 1 if backward else frame + 1
        with_memory, with_pointer = read.keep(kept, following, backward)
        if then_backward and not backward:
            more = read.keep(kept, start - 1, True)
            with_memory, with_pointer = with_memory | more[0], with_pointer | more[1]
        for entries in (kept.conditioning, kept.tracked):
            for t in list(entries):
                if t not in with_memory:
                    entries[t].memory = NO_ROW
                if t not in with_memory | with_pointer:
                    del entries[t]

    add(start, True)
    for t in known_ahead:
        if (t < start) if reverse else (t > start):
            add(t, True)
    sweep = range(start - 1, -1, -1) if reverse else range(start + 1, length)
    prune(start, reverse)
    for frame in sweep:
        if frame not in whole.conditioning:
            assert in_order(read.reads(kept, frame, reverse)) == in_order(read.reads(whole, frame, reverse))
            add(frame, frame in prompted)
        prune(frame, reverse)
        assert len(kept.tracked) <= (2 if then_backward else 1) * 17
    if then_backward:
        for frame in range(start - 1, -1, -1):
            assert in_order(read.reads(kept, frame, True)) == in_order(read.reads(whole, frame, True))
            add(frame, False)
            prune(frame, True)


class TestBank:
    def test_rows_come_back_as_written_however_many_there_are(self):
        bank = Bank((2, 3), torch.float32, torch.device("cpu"), capacity=2)
        values = torch.arange(120.0).view(20, 2, 3)
        rows = [row for part in values.split(7) for row in bank.write(part)]
        assert torch.equal(bank.gather(torch.tensor(rows).view(4, 5)), values.view(4, 5, 2, 3))

    def test_released_rows_are_used_again(self):
        bank = Bank((4,), torch.float32, torch.device("cpu"))
        for _ in range(200):
            bank.release([*bank.write(torch.zeros(9, 4)), NO_ROW])
        assert len(bank.rows) == 16
        assert bank.in_use == 0

    def test_what_is_gathered_is_no_view(self):
        bank = Bank((1,), torch.float32, torch.device("cpu"))
        rows = bank.write(torch.ones(1, 1))
        gathered = bank.gather(torch.tensor(rows))
        bank.release(rows)
        bank.write(torch.zeros(1, 1))
        assert gathered.item() == 1
