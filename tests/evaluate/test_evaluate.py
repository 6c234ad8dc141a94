"""Predicted against true tracks: what every figure means, shown on tracks made for it."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sam3ray.annotations import SCHEMA, TRUTH_SCHEMA, AnnotationWriter, FrameAnnotations, ObjectAnnotation, read_frames
from sam3ray.evaluate import Tolerance, evaluate, evaluate_run, merge
from sam3ray.failures import UserError
from sam3ray.masks import encode_masks
from sam3ray.shapes import ClipSpec, annotate, clip_phrases

SIDE = 64


def box(object_id, x, y, prompt="thing", size=12, seen=1.0):
    mask = np.zeros((1, SIDE, SIDE), bool)
    mask[0, y : y + size, x : x + size] = True
    encoded = encode_masks(mask)[0]
    bbox = tuple(float(v) for v in encoded.bbox)
    return ObjectAnnotation(object_id, prompt, 1.0, seen, bbox, encoded.area, encoded.rle)


def frames(*objects):
    """One frame for each argument, a list of objects."""
    return [FrameAnnotations(t, t, t / 10, SIDE, SIDE, tuple(found)) for t, found in enumerate(objects)]


TRUTH = frames(*[[box(1, 4 * t, 5), box(2, 40, 4 * t)] for t in range(6)])


def test_the_truth_itself_is_perfect():
    scores = evaluate(TRUTH, TRUTH).overall
    assert (scores.recall, scores.precision, scores.mean_iou, scores.j_and_f) == (1, 1, 1, 1)
    assert scores.switches == 0


def test_ids_do_not_have_to_be_the_same_numbers():
    renamed = [replace(f, objects=tuple(replace(o, object_id=o.object_id + 40) for o in f.objects)) for f in TRUTH]
    assert evaluate(renamed, TRUTH).overall.switches == 0


def test_nothing_found_is_no_recall_and_no_precision_at_all():
    scores = evaluate([], TRUTH).overall
    assert (scores.recall, scores.precision, scores.mean_iou, scores.j) == (0, None, None, 0)


def test_two_tracks_that_change_places_are_two_switches():
    swapped = [
        replace(
            f,
            objects=tuple(
                sorted((replace(o, object_id=3 - o.object_id) for o in f.objects), key=lambda o: o.object_id)
            ),
        )
        if f.frame_index >= 3
        else f
        for f in TRUTH
    ]
    scores = evaluate(swapped, TRUTH).overall
    assert scores.switches == 2
    assert (scores.recall, scores.precision) == (1, 1)
    assert scores.switches_per_1000 == pytest.approx(1000 * 2 / 12)


def test_a_missing_frame_costs_recall_and_a_spare_object_precision():
    lost = [f if f.frame_index != 2 else replace(f, objects=f.objects[:1]) for f in TRUTH]
    assert evaluate(lost, TRUTH).overall.recall == pytest.approx(11 / 12)
    spare = [replace(f, objects=(*f.objects, box(9, 20, 45))) for f in TRUTH]
    scores = evaluate(spare, TRUTH).overall
    assert (scores.recall, scores.precision) == (1, pytest.approx(12 / 18))


def test_hardly_visible_objects_are_neither_asked_for_nor_held_against_who_finds_them():
    hidden = [replace(f, objects=(f.objects[0], replace(f.objects[1], visibility=0.1))) for f in TRUTH]
    found, lost = (
        evaluate(TRUTH, hidden).overall,
        evaluate([replace(f, objects=f.objects[:1]) for f in TRUTH], hidden).overall,
    )
    assert (found.recall, found.precision) == (lost.recall, lost.precision) == (1, 1)
    strict = evaluate(
        [replace(f, objects=f.objects[:1]) for f in TRUTH], hidden, tolerance=Tolerance(min_visible=0)
    ).overall
    assert strict.recall == 0.5


def test_scores_of_the_truth_do_not_matter():
    weak = [replace(f, objects=tuple(replace(o, score=0.0, track_score=0.0) for o in f.objects)) for f in TRUTH]
    assert evaluate(TRUTH, weak).overall.true_boxes == 12


def test_visibility_is_a_column_of_the_truth_alone(tmp_path):
    hidden = [replace(f, objects=(f.objects[0], replace(f.objects[1], visibility=0.1))) for f in TRUTH]
    for name, schema in (("truth", TRUTH_SCHEMA), ("run", SCHEMA)):
        (tmp_path / name / "annotations").mkdir(parents=True)
        with AnnotationWriter(tmp_path / name / "annotations" / "c.parquet", "c", {}, schema) as writer:
            for frame in hidden:
                writer.write(frame)
            writer.finish()
    assert evaluate_run(str(tmp_path / "run"), str(tmp_path / "truth")).overall.true_boxes == 6
    assert evaluate_run(str(tmp_path / "truth"), str(tmp_path / "run")).overall.true_boxes == 12


def test_rows_that_are_not_sorted_are_refused(tmp_path):
    path = tmp_path / "c.parquet"
    with AnnotationWriter(path, "c", {}) as writer:
        for frame in TRUTH:
            writer.write(frame)
        writer.finish()
    assert list(read_frames(path)) == TRUTH
    table = pq.read_table(path)
    with pytest.raises(ValueError, match="frame 4 comes after frame 5; sort the rows"):
        list(read_frames(table.take(list(range(table.num_rows))[::-1])))


def test_phrases_are_kept_apart():
    other = [replace(f, objects=tuple(replace(o, prompt="other") for o in f.objects)) for f in TRUTH]
    report = evaluate(other, TRUTH)
    assert report.prompts["thing"].recall == 0
    assert report.prompts["other"].absent_rate == 1


def test_frames_with_output_for_an_absent_phrase_are_counted():
    ghost = [replace(f, objects=(*f.objects, box(9, 20, 45, "ghost"))) if f.frame_index == 1 else f for f in TRUTH]
    report = evaluate(ghost, TRUTH, ["thing", "ghost"])
    assert report.prompts["ghost"].absent_rate == pytest.approx(1 / 6)
    assert report.prompts["thing"].absent_rate is None
    assert report.overall.absent_rate == pytest.approx(1 / 6)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 3), st.integers(0, 50), st.integers(0, 50)), max_size=3),
        min_size=1,
        max_size=5,
    )
)
def test_rates_stay_between_nothing_and_all(tracks):
    predicted = frames(*[[box(k, x, y) for k, (_, x, y) in zip((1, 2, 3), row, strict=False)] for row in tracks])
    truth = TRUTH[: len(predicted)]
    scores = evaluate(predicted, truth).overall
    for value in (scores.recall, scores.precision, scores.mean_iou, scores.j, scores.f, scores.hota, scores.idf1):
        assert value is None or 0 <= value <= 1
    assert scores.true_boxes == 2 * len(truth)


def test_reports_of_clips_add_up():
    report = merge([evaluate(TRUTH, TRUTH, clip_id="found"), evaluate([], TRUTH, clip_id="lost")])
    assert report.overall.recall == 0.5
    assert report.overall.clips == 2
    assert {clip_id: scores.recall for clip_id, scores in report.clips.items()} == {"found": 1, "lost": 0}


def test_hota_and_idf1_come_from_track_eval():
    pytest.importorskip("trackeval")
    perfect = evaluate(TRUTH, TRUTH).overall
    assert (perfect.hota, perfect.idf1) == (pytest.approx(1), pytest.approx(1))


def test_of_nothing_nothing_is_said():
    scores = evaluate([], []).overall
    assert (scores.clips, scores.true_boxes, scores.switches) == (0, 0, 0)
    assert {scores.recall, scores.precision, scores.mean_iou, scores.hota, scores.idf1, scores.j_and_f} == {None}


def test_masks_of_another_size_are_an_error():
    spec = ClipSpec(3, 96, 64, frames=6, objects=(3, 3), look="plain")
    found = list(annotate(spec, clip_phrases(spec)))
    renamed = [replace(f, objects=tuple(replace(o, prompt="thing") for o in f.objects)) for f in found]
    with pytest.raises(ValueError, match=r"true masks are 64x64 pixels, predicted ones 96x64"):
        evaluate(renamed, TRUTH)


def test_a_long_clip_of_large_frames_is_compared_in_little_memory():
    tall, wide, count = 1080, 1920, 40
    mask = np.zeros((1, tall, wide), bool)
    mask[0, 200:700, 300:900] = True
    encoded = encode_masks(mask)[0]
    bbox = tuple(float(v) for v in encoded.bbox)
    things = tuple(ObjectAnnotation(k, "thing", 1.0, 1.0, bbox, encoded.area, encoded.rle) for k in (1, 2, 3, 4))
    clip = [FrameAnnotations(t, t, t / 10, tall, wide, things) for t in range(count)]
    evaluate(clip[:1], clip[:1])  # what is imported on the way does not count
    tracemalloc.start()
    try:
        assert evaluate(clip, clip).overall.j_and_f == 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * tall * wide  # the pixels of all masks: 320 * tall * wide


class TestRun:
    def write(self, folder, clip_id, found, **facts):
        path = folder / "annotations" / f"{clip_id}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        with AnnotationWriter(path, clip_id, {"clip": facts}) as writer:
            for frame in found:
                writer.write(frame)
            writer.finish()

    def test_a_run_is_compared_clip_by_clip(self, tmp_path):
        for clip_id in ("a", "b"):
            self.write(tmp_path / "truth", clip_id, TRUTH, prompts=["thing", "ghost"])
        self.write(tmp_path / "run", "a", TRUTH)
        report = evaluate_run(str(tmp_path / "run"), str(tmp_path / "truth"))
        assert report.missing == ("b",)
        assert report.prompts["thing"].recall == 0.5
        assert report.prompts["ghost"].absent_frames == 12
        assert report.as_json()["overall"]["precision"] == 1
        assert report.table().row_count == 3
        assert report.overall.clips == 2  # not four, with two phrases in each
        assert [report.as_json()["clips"][clip_id]["recall"] for clip_id in ("a", "b")] == [1, 0]

    def test_frames_on_which_nothing_is_to_be_found_count(self, tmp_path):
        self.write(tmp_path / "truth", "a", frames([], [], [box(1, 5, 5)]), prompts=["thing"])
        self.write(tmp_path / "run", "a", frames([box(1, 5, 5)], [], [box(1, 5, 5)]))
        assert evaluate_run(str(tmp_path / "run"), str(tmp_path / "truth")).overall.precision == 0.5

    def test_frames_that_the_run_did_not_look_at_are_left_out(self, tmp_path):
        self.write(tmp_path / "truth", "a", TRUTH, frames=len(TRUTH), prompts=["thing"])
        every_second = [f for f in TRUTH if f.frame_index % 2 == 0]
        self.write(tmp_path / "run", "a", every_second, frames=3, fps=5.0, source_fps=10.0)
        for truth in ("truth", "run"):  # another run is as good a truth
            scores = evaluate_run(str(tmp_path / "run"), str(tmp_path / truth)).overall
            assert (scores.recall, scores.precision, scores.frames) == (1, 1, 3)

    def test_what_cannot_be_read_is_named(self, tmp_path):
        self.write(tmp_path / "run", "a", TRUTH)
        self.write(tmp_path / "truth", "a", TRUTH)
        (tmp_path / "truth/annotations/a.parquet").write_bytes(b"PAR1 and nothing else")
        with pytest.raises(UserError, match=r"^clip a: .*Parquet"):
            evaluate_run(str(tmp_path / "run"), str(tmp_path / "truth"))

    def test_a_folder_without_truth_is_the_users_error(self, tmp_path):
        with pytest.raises(UserError, match="holds no annotations"):
            evaluate_run(str(tmp_path), str(tmp_path / "nothing"))

    def test_processes_that_share_the_clips_find_the_same(self, tmp_path):
        for clip_id in ("a", "b", "c"):
            self.write(tmp_path / "truth", clip_id, TRUTH, prompts=["thing", "ghost"])
        self.write(tmp_path / "run", "a", TRUTH)
        self.write(tmp_path / "run", "b", TRUTH[:3])
        seen = []
        folders = str(tmp_path / "run"), str(tmp_path / "truth")
        shared = evaluate_run(*folders, workers=2, progress=lambda *counts: seen.append(counts))
        assert shared.as_json() == evaluate_run(*folders).as_json()
        assert seen == [(1, 3), (2, 3), (3, 3)]

    def test_what_a_process_has_to_say_is_a_sentence(self, tmp_path):
        small = ObjectAnnotation(
            1, "thing", 1.0, 1.0, (0.0, 0.0, 1.0, 1.0), 1, encode_masks(np.eye(1, 9, dtype=bool)[None])[0].rle
        )
        for clip_id in ("a", "b"):
            self.write(tmp_path / "truth", clip_id, TRUTH)
            self.write(tmp_path / "run", clip_id, [FrameAnnotations(0, 0, 0.0, 1, 9, (small,))])
        with pytest.raises(UserError, match="clip a: true masks are 64x64 pixels, predicted ones 9x1"):
            evaluate_run(str(tmp_path / "run"), str(tmp_path / "truth"), workers=2)


def test_the_documented_way_to_make_truth_of_labelled_images_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("DAVIS/Annotations/480p/bear")
    folder.mkdir(parents=True)
    for t in range(3):
        labels = np.zeros((48, 64), np.uint8)
        if t:
            labels[10:20, 5 + t : 25] = 1
            labels[30:40, 5:25] = 7
        image = Image.fromarray(labels)
        image.putpalette([9 * (i // 3) % 256 for i in range(768)])
        image.save(folder / f"{t:05}.png")
    page = (Path(__file__).parents[2] / "docs/evaluation.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    subprocess.run([sys.executable, "-c", code], check=True)
    report = evaluate_run("truth", "truth")
    assert (report.overall.objects, report.overall.frames, report.overall.recall) == (2, 3, 1)


def test_a_revision_is_compared(tmp_path):
    from sam3ray.revisions import Delete, Edits
    from tests.exports.labels import make_run

    (tmp_path / "truth").mkdir()
    run, truth = make_run(tmp_path), make_run(tmp_path / "truth")
    Edits(run).append([Delete("a-clip", 1)])
    assert evaluate_run(run.output, truth.output).overall.recall == 1
    assert evaluate_run(run.output, truth.output, revision=0).overall.recall == 1
    revised = evaluate_run(run.output, truth.output, revision="latest").overall
    assert revised.recall == pytest.approx(5 / 11)
    with pytest.raises(UserError, match="allowed: latest, or 0 to 1"):
        evaluate_run(run.output, truth.output, revision=2)
