"""What transformers 5.23 does wrong with prompts (if one of these fails, it was mended), and ours does right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sam3ray.prompts import PointPrompt
from tests.engine.documented import Session, worst_iou
from tests.engine.prompted import LENGTH, WORKFLOWS, mask_of, on_frame, run

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_documented_refinement_is_lost(frames):
    theirs = Session(frames)
    theirs.add(0, [1], **WORKFLOWS["click"].inputs)
    theirs.segment(0)
    before = theirs.propagate()
    theirs.add(8, [1], **WORKFLOWS["box"].inputs)
    after = theirs.propagate()
    assert all(np.array_equal(before[t].masks, after[t].masks) for t in before)

    prompts = [*WORKFLOWS["click"].prompts, on_frame(WORKFLOWS["box"].prompts[0], 8)]
    for rules in ("transformers", "published"):
        plain = run(frames, WORKFLOWS["click"].prompts, rules)
        refined = run(frames, prompts, rules)
        same = [np.array_equal(mask_of(a, 1), mask_of(b, 1)) for a, b in zip(plain, refined, strict=True)]
        assert all(same[:8])
        assert not any(same[8:10])


def test_an_object_queued_for_later_exists_before_its_prompt(frames):
    theirs = Session(frames)
    theirs.add(5, [1], **WORKFLOWS["mask"].inputs)
    theirs.propagate(start_frame_idx=0)
    assert sorted(theirs.session.output_dict_per_obj[0]["cond_frame_outputs"]) == [0, 1, 2, 3, 4, 5]

    ours = run(frames, [on_frame(WORKFLOWS["mask"].prompts[0], 5)])
    assert [bool(result.objects) for result in ours[:6]] == [False] * 5 + [True]


def test_the_second_of_two_queued_frames_is_ignored(frames):
    click, box = WORKFLOWS["click"], WORKFLOWS["box"]
    one, two = Session(frames), Session(frames)
    one.add(0, [1], **click.inputs)
    two.add(0, [1], **click.inputs)
    two.add(8, [1], **box.inputs)
    first, second = one.propagate(start_frame_idx=0), two.propagate(start_frame_idx=0)
    assert all(np.array_equal(first[t].masks, second[t].masks) for t in first)

    prompts = [*click.prompts, on_frame(box.prompts[0], 8)]
    ours, single = run(frames, prompts, refine="throughout"), run(frames, click.prompts)
    assert not np.array_equal(mask_of(ours[8], 1), mask_of(single[8], 1))


def test_unequal_numbers_of_clicks_change_each_other(frames):
    points = [[[50, 40], [60, 50], [70, 20]], [[20, 60]]]
    together, alone = Session(frames), Session(frames)
    together.add(0, [1, 2], input_points=[points], input_labels=[[[1, 1, 0], [1]]])
    alone.add(0, [1], input_points=[points[1:]], input_labels=[[[1]]])
    padded, single = together.segment(0).masks[1], alone.segment(0).masks[0]
    assert worst_iou([(padded, single)]) < 0.99

    first = PointPrompt(((50.0, 40.0), (60.0, 50.0), (70.0, 20.0)), (True, True, False), 0, 1)
    second = PointPrompt(((20.0, 60.0),), (True,), 0, 2)
    both, lone = run(frames[:2], [first, second])[0], run(frames[:2], [second])[0]
    assert worst_iou([(mask_of(both, 2), mask_of(lone, 2))]) >= 0.999
    assert worst_iou([(mask_of(both, 2), single)]) >= 0.999


def test_a_prompt_changes_what_is_remembered_of_the_others(frames):
    def memory_of_first(prompts_second: bool) -> torch.Tensor:
        theirs = Session(frames)
        theirs.add(0, [1, 2], input_points=[[[[50, 40]], [[20, 60]]]], input_labels=[[[1], [1]]])
        theirs.segment(0)
        theirs.segment(1)
        if prompts_second:
            theirs.add(2, [2], input_points=[[[[30, 60]]]], input_labels=[[[1]]])
        theirs.segment(2)
        return theirs.session.output_dict_per_obj[0]["non_cond_frame_outputs"][2]["maskmem_features"].float()

    assert (memory_of_first(True) - memory_of_first(False)).abs().max() > 0.05

    first = PointPrompt(((50.0, 40.0),), (True,), 0, 1)
    others = [PointPrompt(((20.0, 60.0),), (True,), 0, 2), PointPrompt(((30.0, 60.0),), (True,), 2, 2)]
    for rules in ("transformers", "published"):
        with_other, without = run(frames, [first, *others], rules), run(frames, [first, others[0]], rules)
        pairs = [(mask_of(a, 1), mask_of(b, 1)) for a, b in zip(with_other, without, strict=True)]
        assert worst_iou(pairs) >= 0.999


def test_the_callers_list_of_ids_is_emptied(frames):
    theirs, ids = Session(frames), [1]
    theirs.processor.add_inputs_to_inference_session(
        theirs.session, frame_idx=0, obj_ids=ids, **WORKFLOWS["click"].inputs
    )
    theirs.segment(0)
    assert ids == []

    prompts = list(WORKFLOWS["click"].prompts)
    first = run(frames, prompts)
    assert prompts == list(WORKFLOWS["click"].prompts)
    assert all(np.array_equal(mask_of(a, 1), mask_of(b, 1)) for a, b in zip(first, run(frames, prompts), strict=True))


def test_an_object_with_a_prompt_ahead_turns_the_others_round(frames):
    """Backward, after prompts on frame 8, with another of object 1 waiting on frame 2: object 2 is tracked forward."""
    click, other = {"input_points": [[[[50, 40]]]], "input_labels": [[[1]]]}, [[[[20, 60]]]]

    def second(prompted_again: bool) -> dict[int, np.ndarray]:
        theirs = Session(frames)
        theirs.add(8, [1], **click)
        theirs.segment(8)
        theirs.add(8, [2], input_points=other, input_labels=[[[1]]])
        theirs.segment(8)
        if prompted_again:
            theirs.add(2, [1], **click)
        return {t: shown.masks[1] for t, shown in theirs.propagate(start_frame_idx=7, reverse=True).items()}

    alone, beside = second(False), second(True)
    # Frames 3 to 5 have no prompt of anybody's: nothing but the direction is between the two.
    assert worst_iou((alone[t], beside[t]) for t in (5, 4, 3)) < 0.999

    first = PointPrompt(((50.0, 40.0),), (True,), 8, 1)
    again = PointPrompt(((50.0, 40.0),), (True,), 2, 1)
    lone = PointPrompt(((20.0, 60.0),), (True,), 8, 2)
    one = run(frames, [first, lone], direction="backward")
    two = run(frames, [first, again, lone], direction="backward")
    assert worst_iou((mask_of(one[t], 2), mask_of(two[t], 2)) for t in range(9)) >= 0.999


def test_backward_from_the_first_frame_yields_nothing(frames):
    theirs = Session(frames)
    theirs.add(0, [1], **WORKFLOWS["click"].inputs)
    assert theirs.propagate(start_frame_idx=0, reverse=True) == {}

    ours = run(frames, WORKFLOWS["click"].prompts, direction="backward")
    assert [bool(result.objects) for result in ours] == [True] + [False] * (LENGTH - 1)


def test_the_range_is_one_frame_longer_than_asked(frames):
    theirs = Session(frames)
    theirs.add(0, [1], **WORKFLOWS["click"].inputs)
    assert len(theirs.propagate(start_frame_idx=0, max_frame_num_to_track=10)) == 11
    assert len(run(frames[:10], WORKFLOWS["click"].prompts)) == 10
