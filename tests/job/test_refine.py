"""Corrections teach: what a refined clip holds, and what the tracker is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from sam3ray import read_annotations
from sam3ray.config import JobConfig
from sam3ray.exports import import_labels
from sam3ray.failures import UserError
from sam3ray.job.refinement import latest_refinement
from sam3ray.job.refining import refined_output
from sam3ray.job.worker import ClipWorker
from sam3ray.masks import decode_rle, encode_masks
from sam3ray.prompts import BoxPrompt, MaskPrompt, PointPrompt
from sam3ray.revisions import Accept, Add, Delete, EditConflict, Edits, Merge, Rename, ReplaceMask, SetId, Split, Swap
from sam3ray.store import RunStore, verify_run
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation
from tests.exports.labels import FRAMES, HEIGHT, WIDTH, make_run
from tests.job.fakes import DrawnSegmenter

CLIP = "a-clip"


def item(
    object_id: int, x: int, y: int = 60, score: float = 1.0, side: int = 6, label: str = "ring"
) -> ObjectAnnotation:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + side, x : x + side] = True
    found = encode_masks(mask[None])[0]
    return ObjectAnnotation(object_id, label, score, score, tuple(map(float, found.bbox)), found.area, found.rle)


def frame_of(index: int, *items: ObjectAnnotation) -> FrameAnnotations:
    return FrameAnnotations(index, index * 512, index / 25, HEIGHT, WIDTH, items)


class Tracker(DrawnSegmenter):
    """Follows every object as a square at its number, and notes what it was told."""

    told: tuple[Any, Any] = ((), ())

    def segment(self, frames, height, width, prompts=(), visual_prompts=(), *, progress=None) -> Iterator[Any]:
        type(self).told = (tuple(prompts), tuple(visual_prompts))
        ids = sorted({each.object_id for each in visual_prompts})
        labels = {each.object_id: each.label for each in visual_prompts}
        for frame in frames.read():
            objects = []
            for number in ids:
                each = item(number, 20 + frame.index, number % 60, 0.5)
                objects.append(ObjectAnnotation(number, labels[number], 1.0, 0.5, each.bbox, each.area, each.rle))
            yield FrameAnnotations(frame.index, frame.pts, frame.time_s, HEIGHT, WIDTH, tuple(objects))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from fractions import Fraction

    from sam3ray.video import VideoWriter

    path = tmp_path_factory.mktemp("video") / "video.mp4"
    with VideoWriter(path, WIDTH, HEIGHT, Fraction(1, 25), Fraction(25)) as writer:
        for index in range(FRAMES):
            writer.write(np.full((HEIGHT, WIDTH, 3), 40 * index, np.uint8), index)
    return path


@pytest.fixture
def run(tmp_path: Path, video: Path) -> RunStore:
    return make_run(tmp_path, uris={CLIP: str(video), "empty": str(video)})


def refined(run: RunStore, folder: Path, only: list[str] | None = None) -> RunStore:
    """What the job does, without Ray: `Refinement.clips`, then a worker."""
    refinement = latest_refinement(run, "latest", only)
    clips = refinement.clips()
    config = JobConfig(
        manifest=run.path("manifest.parquet"), output=str(folder / "refined"), cluster={"gpus_per_actor": 0}
    )
    store = RunStore(config.output)
    store.create_or_open(refinement.fingerprint, config.model_dump(mode="json"), clips, extra=refinement.facts)
    worker = ClipWorker(config, store, refinement.fingerprint, Tracker, refinement=refinement)
    for clip in store.manifest():
        worker.process(clip)
    worker.close()
    return store


def rows(store: RunStore, clip: str = CLIP, revision: Any = None) -> dict[tuple[int, int], dict[str, Any]]:
    table = read_annotations(store.output, revision=revision).to_table()
    return {(r["frame_index"], r["object_id"]): r for r in table.to_pylist() if r["clip_id"] == clip}


def correct(run: RunStore, object_id: int, *frames: int, prompts=(), by_hand: bool = True) -> int:
    edits = Edits(run)
    data = edits.put_data(CLIP, [frame_of(n, item(object_id, 90)) for n in frames], prompts, by_hand=by_hand)
    return edits.append([ReplaceMask(CLIP, object_id, (frames[0], frames[-1]), *data)])


class TestWhatIsTracked:
    def test_a_corrected_object_alone_from_all_its_corrected_frames(self, run, tmp_path):
        before = rows(run)
        correct(run, 1, 1, 4)
        new = rows(refined(run, tmp_path))
        phrases, prompts = Tracker.told
        assert phrases == ()
        assert {type(each) for each in prompts} == {MaskPrompt}
        assert [(each.object_id, each.frame_index) for each in prompts] == [(1, 1), (1, 4)]
        for frame in range(FRAMES):
            if frame in (1, 4):  # set by hand
                assert new[frame, 1]["segmentation"]["counts"] == item(1, 90).rle
            else:
                assert new[frame, 1]["segmentation"]["counts"] == item(1, 20 + frame, 1).rle
        untouched = {key: row for key, row in before.items() if key[1] != 1}
        assert {key: row for key, row in new.items() if key[1] != 1} == untouched

    def test_deleted_rows_stay_away_and_are_no_prompt(self, run, tmp_path):
        correct(run, 1, 0)
        Edits(run).append([Delete(CLIP, 1, (3, 5)), Delete(CLIP, 1203)])
        new = rows(refined(run, tmp_path))
        assert [frame for frame, number in new if number == 1] == [0, 1, 2]
        assert not any(number == 1203 for _, number in new)
        assert {each.object_id for each in Tracker.told[1]} == {1}

    def test_a_deletion_alone_needs_no_video(self, run, tmp_path, video):
        Edits(run).append([Delete("a-clip", 1, (2, 3)), Rename("a-clip", 2, "bars")])
        Tracker.told = ("untouched", ())
        moved = latest_refinement(run, None).clips()
        assert moved[0].visual_prompts == ()
        assert moved[0].prompts == ("ring", "two words", "absent", "bars")
        store = refined(run, tmp_path)
        assert Tracker.told[0] == "untouched"
        assert rows(store) == rows(run, revision="latest")
        assert store.read_clip_metadata(CLIP)["clip"]["frames"] == FRAMES

    def test_a_box_is_told_instead_of_the_mask_that_stood_in_for_it(self, run, tmp_path):
        box = BoxPrompt((80.0, 50.0, 100.0, 70.0), 2, 1)
        click = PointPrompt(((90.0, 62.0),), (True,), 2, 1)
        correct(run, 1, 2, prompts=(click, box))
        new = rows(refined(run, tmp_path))
        (prompt,) = Tracker.told[1]
        assert isinstance(prompt, BoxPrompt)
        assert prompt.box == box.box
        assert new[2, 1]["segmentation"]["counts"] == item(1, 22, 1).rle  # the tracker's, on that frame too

    def test_clicks_where_there_is_neither_mask_nor_box(self, run, tmp_path):
        correct(run, 1, 2, prompts=(PointPrompt(((90.0, 62.0),), (True,), 2, 1),))
        refined(run, tmp_path)
        assert [type(each) for each in Tracker.told[1]] == [PointPrompt]

    def test_ids_stay_wherever_they_moved(self, run, tmp_path):
        correct(run, 1, 2)
        Edits(run).append([Swap(CLIP, 1, 2), SetId(CLIP, 2, 77)])
        new = rows(refined(run, tmp_path))
        assert [(each.object_id, each.frame_index) for each in Tracker.told[1]] == [(77, 2)]
        assert {number for _, number in new} == {1, 77, 1203}

    def test_an_object_set_on_every_frame_is_copied(self, run, tmp_path):
        correct(run, 1, *range(FRAMES))
        assert latest_refinement(run, None).clips()[0].visual_prompts == ()

    def test_a_label_that_was_corrected_on_one_frame_follows_too(self, run, tmp_path):
        correct(run, 1, 2)
        Edits(run).append([Rename(CLIP, 1, "hoop", (3, 3)), Rename(CLIP, 2, "bars", (4, 4))])
        new = rows(refined(run, tmp_path))
        assert {(number, row["prompt"]) for (_, number), row in new.items()} == {
            (1, "hoop"),
            (2, "bars"),
            (1203, "ring"),
        }

    def test_clips_that_nobody_corrected_are_not_in_it(self, run):
        Edits(run).append([Accept("empty")])
        correct(run, 1, 2)
        assert [clip.clip_id for clip in latest_refinement(run, None).clips()] == [CLIP]

    def test_a_new_object_is_followed(self, run, tmp_path):
        edits = Edits(run)
        edits.append([Add("empty", 9, *edits.put_data("empty", [frame_of(3, item(9, 5))]))])
        new = rows(refined(run, tmp_path), "empty")
        assert sorted(new) == [(frame, 9) for frame in range(FRAMES)]
        assert {row["prompt"] for row in new.values()} == {"ring"}


class TestMarks:
    def marks(self, run, *operations):
        edits = Edits(run)
        data = edits.put_data(CLIP, [frame_of(n, item(1, 90)) for n in (1, 2)])
        return edits.marks([ReplaceMask(CLIP, 1, (1, 2), *data), *operations])

    def test_a_split_takes_marks_along(self, run):
        marks = self.marks(run, Split(CLIP, 1, 2, 50))
        assert marks.is_drawn(1, 1)
        assert marks.is_drawn(50, 2)
        assert not marks.is_drawn(1, 2)

    def test_deleting_forgets_what_was_drawn(self, run):
        marks = self.marks(run, Delete(CLIP, 1, (2, 4)))
        assert not marks.is_drawn(1, 2)
        assert [marks.is_gone(1, n) for n in range(6)] == [False, False, True, True, True, False]

    def test_drawing_again_ends_a_deletion_there(self, run):
        edits = Edits(run)
        data = edits.put_data(CLIP, [frame_of(3, item(1, 90))])
        marks = self.marks(run, Delete(CLIP, 1), ReplaceMask(CLIP, 1, (3, 3), *data))
        assert [n for n in range(6) if marks.is_gone(1, n)] == [0, 1, 2, 4, 5]
        assert marks.is_drawn(1, 3)

    def test_a_deletion_moves_with_the_id(self, run):
        marks = self.marks(run, Delete(CLIP, 2, (4, 5)), SetId(CLIP, 2, 8))
        assert marks.is_gone(8, 4)
        assert not marks.is_gone(2, 4)

    def test_a_union_counts_as_drawn(self, run):
        edits = Edits(run)
        box = BoxPrompt((80.0, 50.0, 100.0, 70.0), 2, 2)
        data = edits.put_data(CLIP, [frame_of(2, item(2, 90))], [box])
        marks = self.marks(run, ReplaceMask(CLIP, 2, (2, 2), *data), Merge(CLIP, 1, 2))
        assert marks.is_drawn(1, 2)

    def test_what_a_tool_worked_out_is_not_drawn(self, run):
        edits = Edits(run)
        data = edits.put_data(CLIP, [frame_of(1, item(1, 90))], by_hand=False)
        marks = self.marks(run, ReplaceMask(CLIP, 1, (1, 1), *data))
        assert not marks.is_drawn(1, 1)
        assert marks.is_drawn(1, 2)


class TestHome:
    def test_the_rows_come_home_as_a_revision(self, run, tmp_path):
        own = Path(run.output, "annotations", f"{CLIP}.parquet").read_bytes()
        correct(run, 1, 1, 4)
        new = refined(run, tmp_path)
        done = import_labels(run.output, new.output, "run", author="ann")
        assert done.revision == 2
        assert rows(run, revision="latest") == rows(new)
        assert Path(run.output, "annotations", f"{CLIP}.parquet").read_bytes() == own
        assert Edits(run).entry(2).tool == "import run"

    def test_a_second_round_starts_from_all_that_was_drawn_and_not_from_what_was_tracked(self, run, tmp_path):
        correct(run, 1, 1)
        import_labels(run.output, refined(run, tmp_path / "one").output, "run")
        correct(run, 1, 4)
        refined(run, tmp_path / "two")
        assert [(each.object_id, each.frame_index) for each in Tracker.told[1]] == [(1, 1), (1, 4)]

    def test_rows_that_the_tracker_lost_are_deleted(self, run, tmp_path, monkeypatch):
        correct(run, 1, 1)
        whole = Tracker.segment

        def loses(self, *arguments, **named):
            for frame in whole(self, *arguments, **named):
                keep = frame.objects if frame.frame_index < 4 else ()
                yield FrameAnnotations(frame.frame_index, frame.pts, frame.time_s, HEIGHT, WIDTH, keep)

        monkeypatch.setattr(Tracker, "segment", loses)
        new = refined(run, tmp_path)
        import_labels(run.output, new.output, "run")
        assert rows(run, revision="latest") == rows(new)
        assert not any(number == 1 and frame >= 4 for frame, number in rows(new))

    def test_somebody_was_faster(self, run, tmp_path):
        correct(run, 1, 1)
        new = refined(run, tmp_path)
        correct(run, 1, 3)
        with pytest.raises(EditConflict, match="revision 2 meanwhile"):
            import_labels(run.output, new.output, "run")

    def test_another_runs_refinement(self, run, tmp_path):
        correct(run, 1, 1)
        new = refined(run, tmp_path)
        (tmp_path / "other").mkdir()
        other = make_run(tmp_path / "other")
        with pytest.raises(UserError, match="refines the run"):
            import_labels(other.output, new.output, "run")
        with pytest.raises(UserError, match="is not a refined run"):
            import_labels(run.output, other.output, "run")
        assert not Path(other.output, "edits").exists()

    def test_the_new_run_verifies_and_names_its_parent(self, run, tmp_path):
        correct(run, 1, 1)
        new = refined(run, tmp_path)
        assert verify_run(new.output) == []
        info = new.run_info()
        assert info["fingerprint"] == {"refine.run": run.run_id(), "refine.revision": 1}
        assert info["refines"] == {"output": run.output, "run_id": run.run_id(), "revision": 1}
        about = pq.read_metadata(Path(new.output, "annotations", f"{CLIP}.parquet")).metadata
        assert run.run_id().encode() in about[b"sam3ray.fingerprint"]


class TestBadInput:
    def test_no_corrections(self, run):
        with pytest.raises(UserError, match="no corrections at revision 0"):
            latest_refinement(run, "latest").clips()

    def test_no_such_revision_or_clip(self, run):
        correct(run, 1, 1)
        with pytest.raises(UserError, match="allowed: latest, or 0 to 1"):
            latest_refinement(run, 7)
        with pytest.raises(UserError, match="--clips empty: it has no corrections"):
            latest_refinement(run, 1, ["empty"]).clips()
        with pytest.raises(UserError, match="no such clip"):
            latest_refinement(run, 1, ["nowhere"]).clips()

    def test_damaged_data(self, run):
        edits = Edits(run)
        name, _ = edits.put_data(CLIP, [frame_of(1, item(1, 90))])
        path = Path(run.output, "edits", "data", name, f"{CLIP}.parquet")
        import hashlib

        path.write_bytes(b"no Parquet")
        with pytest.raises(UserError, match="is damaged"):
            edits.append([ReplaceMask(CLIP, 1, (1, 1), name, hashlib.sha256(b"no Parquet").hexdigest())])


def test_the_default_place_is_beside_the_run(tmp_path):
    assert refined_output(str(tmp_path / "run/"), 3) == str(tmp_path / "run-refined-3")


def test_masks_of_the_tracker_have_the_size_of_the_frame(run, tmp_path):
    correct(run, 1, 1)
    for row in rows(refined(run, tmp_path)).values():
        assert decode_rle(row["segmentation"]["counts"], HEIGHT, WIDTH).sum() == row["area"]


def test_rows_on_frames_that_had_none_come_home(run, tmp_path):
    edits = Edits(run)
    edits.append([Add("empty", 9, *edits.put_data("empty", [frame_of(3, item(9, 5))]))])
    new = refined(run, tmp_path)
    import_labels(run.output, new.output, "run")
    assert rows(run, "empty", "latest") == rows(new, "empty")
    assert len(rows(new, "empty")) == FRAMES
