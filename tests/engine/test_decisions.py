"""Association, hotstart and suppression as pure decisions, against transformers' own on random clips."""

import functools
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3ray.config import TrackingConfig
from sam3ray.engine.association import associate
from sam3ray.engine.hotstart import Hotstart
from sam3ray.engine.rules import Rules
from sam3ray.engine.suppression import ALWAYS, NEVER, _added, _compared, recently_occluded, suppress_shrunk


@functools.cache
def config():
    from transformers import Sam3VideoConfig

    return Sam3VideoConfig()


def rules(**values) -> Rules:
    return Rules.of(config(), TrackingConfig(**values))


class Upstream:
    """transformers' decisions, called without a model: its own methods on plain numbers."""

    def __init__(self, **values):
        from transformers.models.sam3_video.modeling_sam3_video import Sam3VideoModel

        names = [name for name in vars(rules()) if name != "published"]
        self.model = SimpleNamespace(**{name: values.get(name, getattr(config(), name, None)) for name in names})
        self.methods = Sam3VideoModel
        self.metadata = {
            "obj_first_frame_idx": {},
            "unmatched_frame_inds": defaultdict(list),
            "trk_keep_alive": {},
            "overlap_pair_to_frame_inds": defaultdict(list),
            "removed_obj_ids": set(),
            "suppressed_obj_ids": defaultdict(set),
        }

    def associate(self, det_masks, det_scores, trk_masks, ids, det_prompts, trk_prompts):
        return self.methods._associate_det_trk(
            self.model, det_masks, det_scores, trk_masks, ids, torch.tensor(det_prompts), torch.tensor(trk_prompts)
        )

    def hotstart(self, frame, matched, new, empty, unmatched):
        removed, _ = self.methods._process_hotstart(
            self.model, None, frame, False, matched, new, empty, unmatched, self.metadata
        )
        return removed, self.metadata["suppressed_obj_ids"][frame]


def overlap(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    from transformers.models.sam3_video.modeling_sam3_video import mask_iou

    return mask_iou(a > 0, b > 0).numpy() if len(a) and len(b) else np.zeros((len(a), len(b)), dtype=np.float32)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(
        [
            {},
            {"suppress_unmatched_only_within_hotstart": False, "init_trk_keep_alive": 3, "max_trk_keep_alive": 4},
            {"decrease_trk_keep_alive_for_empty_masklets": True, "suppress_unmatched_only_within_hotstart": False},
            {"hotstart_delay": 0},
            {"hotstart_delay": 5, "hotstart_unmatch_thresh": 2, "hotstart_dup_thresh": 3},
        ]
    ),
)
def test_random_clips_are_decided_as_by_transformers(seed, values):
    """Masks, detections and scores at random over 30 frames: same new objects, removals and hidden ones."""
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = rules(rules="transformers", **values), Upstream(**values)
    hotstart = Hotstart(ours)
    ids: list[int] = []
    prompt_of: dict[int, int] = {}
    next_id = 1
    base = torch.rand(6, 6, 6, generator=generator)  # six places that objects and detections come from

    def masks(count):
        places = base[torch.randint(6, (count,), generator=generator)]
        masks = (places > 0.6) & (torch.rand(count, 6, 6, generator=generator) > 0.2)
        gone = torch.rand(count, generator=generator) < 0.1
        return (masks & ~gone[:, None, None]).float() - 0.5

    for frame in range(30):
        found = masks(int(torch.randint(4, (1,), generator=generator)))
        tracks = masks(len(ids))
        scores = 0.5 + torch.rand(len(found), generator=generator) / 2
        det_prompts = torch.randint(2, (len(found),), generator=generator).tolist()
        trk_prompts = [prompt_of[i] for i in ids]
        new, unmatched, matched, recondition, empty = theirs.associate(
            found, scores, tracks, ids, det_prompts, trk_prompts
        )
        mine = associate(
            overlap(found, tracks),
            scores.numpy(),
            np.array(det_prompts, dtype=np.int64),
            np.array(trk_prompts, dtype=np.int64),
            ~(tracks > 0).flatten(1).any(1).numpy(),
            ours,
        )
        assert list(mine.new) == new
        assert [ids[k] for k in mine.unmatched] == unmatched
        assert [ids[k] for k in mine.empty] == empty
        assert {d: [ids[k] for k in places] for d, places in enumerate(mine.matched_tracks)} == matched
        assert {ids[k]: d for k, d in mine.recondition.items()} == recondition

        new_ids = list(range(next_id, next_id + len(new)))
        next_id += len(new)
        expected = theirs.hotstart(frame, matched, new_ids, empty, unmatched)
        got = hotstart.update(frame, new_ids, matched.values(), unmatched, empty)
        assert got[0] == expected[0]
        assert got[1] - got[0] == expected[1] - expected[0]
        prompt_of.update({i: det_prompts[d] for i, d in zip(new_ids, new, strict=True)})
        ids = [i for i in [*ids, *new_ids] if i not in got[0]]
        assert len(hotstart) == len(ids), "nothing is kept of objects that are gone"


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.integers(0, 6))
def test_a_phrase_is_decided_as_if_it_were_alone(seed, detections, tracks):
    """Of three phrases, some with tracks and some without, each gets what it gets on its own."""
    rng = np.random.default_rng(seed)
    ious = rng.random((detections, tracks)).astype(np.float32)
    scores = rng.uniform(0.5, 1, detections).astype(np.float32)
    found_by, tracked_by = rng.integers(0, 3, detections), rng.integers(0, 3, tracks)
    empty = rng.random(tracks) < 0.2
    together = associate(ious, scores, found_by, tracked_by, empty, rules())
    for phrase in range(3):
        rows, columns = np.flatnonzero(found_by == phrase), np.flatnonzero(tracked_by == phrase)
        part = ious[np.ix_(rows, columns)]
        alone = associate(part, scores[rows], found_by[rows], tracked_by[columns], empty[columns], rules())
        assert tuple(rows[list(alone.new)]) == tuple(d for d in together.new if d in rows)
        assert tuple(columns[list(alone.unmatched)]) == tuple(t for t in together.unmatched if t in columns)
        assert tuple(columns[list(alone.empty)]) == tuple(t for t in together.empty if t in columns)
        assert {columns[t]: rows[d] for t, d in alone.recondition.items()} == {
            t: d for t, d in together.recondition.items() if t in columns
        }
        for row, matched in zip(rows, alone.matched_tracks, strict=False):
            assert tuple(columns[list(matched)]) == together.matched_tracks[row]


@pytest.mark.parametrize(("rule_set", "new"), [("published", (0, 1)), ("transformers", (1,))])
def test_where_a_phrase_has_no_tracks_every_detection_is_new(rule_set, new):
    found = associate(
        np.zeros((3, 1), dtype=np.float32),
        np.array([0.6, 0.8, 0.6], dtype=np.float32),
        np.array([1, 1, 0]),
        np.array([0]),
        np.array([False]),
        rules(rules=rule_set),
    )
    assert found.new == new


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_recent_occlusion_is_decided_as_by_transformers(seed, n):
    from transformers.models.sam3_video.modeling_sam3_video import Sam3VideoModel

    generator = torch.Generator().manual_seed(seed)
    masks = (torch.rand(n, 4, 4, generator=generator) > 0.3) & (torch.rand(1, 4, 4, generator=generator) > 0.2)
    last = torch.randint(-1, 4, (n,), generator=generator)
    model = SimpleNamespace(suppress_overlapping_based_on_recent_occlusion_threshold=0.5)
    theirs = Sam3VideoModel._get_objects_to_suppress_based_on_most_recently_occluded(model, masks, last, list(range(n)))
    ours = recently_occluded(
        overlap(masks.float() - 0.5, masks.float() - 0.5), last.numpy(), np.zeros(n, dtype=np.int64), 0.5
    )
    assert ours.tolist() == theirs.tolist()


def test_one_being_removed_gives_way_at_any_frame_index():
    """transformers marks it with 100000, which is earlier than an occlusion on a later frame."""
    coincide = np.ones((2, 2), dtype=np.float32)
    prompts = np.zeros(2, dtype=np.int64)
    gives_way = recently_occluded(coincide, np.array([150_000, ALWAYS]), prompts, 0.7)
    assert gives_way.tolist() == [False, True]
    assert recently_occluded(coincide, np.array([NEVER, ALWAYS]), prompts, 0.7).tolist() == [False, False]
    assert recently_occluded(coincide, np.array([5, ALWAYS]), np.array([0, 1]), 0.7).tolist() == [False, False]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2), min_size=1, max_size=6))
def test_the_shrink_rule_is_that_of_transformers(seed, prompts):
    from transformers.models.sam3_video.modeling_sam3_video import Sam3VideoModel

    masks = torch.randn(len(prompts), 5, 5, generator=torch.Generator().manual_seed(seed)) - 0.3
    stub = SimpleNamespace(
        _apply_non_overlapping_constraints=lambda m: Sam3VideoModel._apply_non_overlapping_constraints(None, m),
        _suppress_shrunk_masks=lambda *m: Sam3VideoModel._suppress_shrunk_masks(None, *m),
    )
    stub._suppress_object_pw_area_shrinkage_impl = lambda m: Sam3VideoModel._suppress_object_pw_area_shrinkage_impl(
        stub, m
    )
    theirs = Sam3VideoModel._suppress_object_pw_area_shrinkage(stub, masks.unsqueeze(1), prompts).squeeze(1)
    groups = [[k for k, p in enumerate(prompts) if p == prompt] for prompt in sorted(set(prompts))]
    ours, there = suppress_shrunk(masks.clone(), groups, lone=False)
    assert torch.equal(ours, theirs)
    assert there.tolist() == (theirs > 0).flatten(1).any(1).tolist()


def test_a_lone_empty_mask_is_surely_absent_under_the_published_rules_alone():
    faint = torch.full((1, 4, 4), -0.2)
    assert torch.equal(suppress_shrunk(faint.clone(), [[0]], lone=False)[0], faint)
    absent, there = suppress_shrunk(faint.clone(), [[0]], lone=True)
    assert torch.all(absent == -10)
    assert not there.item()


class TestCap:
    def detections(self, tracks: int, limit: int, scores: list[float]):
        n = len(scores)
        return associate(
            np.zeros((n, tracks), dtype=np.float32),
            np.array(scores, dtype=np.float32),
            np.zeros(n, dtype=np.int64),
            np.zeros(tracks, dtype=np.int64),
            np.zeros(tracks, dtype=bool),
            rules(max_num_objects=limit),
        )

    @pytest.mark.parametrize("tracks", [0, 3])
    def test_keeps_the_best_and_counts_the_others(self, tracks):
        found = self.detections(tracks, tracks + 2, [0.8, 0.95, 0.75, 0.9])
        assert found.new == (1, 3)
        assert found.dropped == 2

    def test_those_long_gone_make_room(self):
        found = associate(
            np.zeros((2, 3), dtype=np.float32),
            np.array([0.8, 0.9], dtype=np.float32),
            np.zeros(2, dtype=np.int64),
            np.zeros(3, dtype=np.int64),
            np.array([True, False, False]),
            rules(max_num_objects=3),
            absent=1,
        )
        assert found.new == (1,)
        assert found.dropped == 1

    def test_a_phrase_without_tracks_gets_the_room_that_is_left(self):
        found = associate(
            np.zeros((3, 2), dtype=np.float32),
            np.array([0.55, 0.6, 0.65], dtype=np.float32),
            np.array([1, 1, 1]),
            np.array([0, 0]),
            np.array([False, False]),
            rules(max_num_objects=4),
        )
        assert found.new == (2, 1)
        assert found.dropped == 1

    def test_no_room_at_all(self):
        found = self.detections(4, 3, [0.9, 0.8])
        assert found.new == ()
        assert found.dropped == 2

    def test_room_for_all_leaves_the_order_of_the_detector(self):
        found = self.detections(0, 8, [0.8, 0.95, 0.75])
        assert found.new == (0, 1, 2)
        assert found.dropped == 0


class TestRules:
    def test_thresholds_that_contradict_each_other(self):
        with pytest.raises(
            ValueError, match=r"hotstart_unmatch_thresh is 20, above tracking\.hotstart_delay, which is 15"
        ):
            rules(hotstart_unmatch_thresh=20)
        with pytest.raises(ValueError, match=r"min_trk_keep_alive is 40, above tracking\.max_trk_keep_alive"):
            rules(min_trk_keep_alive=40)

    def test_what_the_job_does_not_set_is_the_checkpoints(self):
        from transformers import Sam3VideoConfig

        chosen = Rules.of(Sam3VideoConfig(new_det_thresh=0.66, hotstart_delay=9), TrackingConfig(hotstart_delay=12))
        assert (chosen.new_det_thresh, chosen.hotstart_delay, chosen.published) == (0.66, 12, True)


@pytest.mark.parametrize("n", [2, 5, 64])
def test_pixels_are_counted_on_a_gpu_as_on_a_cpu(n):
    torch.manual_seed(n)
    owner, counts = torch.randint(0, n, (37, 41)), torch.rand(37, 41) > 0.4
    assert torch.equal(_compared(owner, counts, n), _added(owner, counts, n))
