"""Two runs side by side: what agrees, and where identities part."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from sam3ray.annotations import AnnotationWriter, FrameAnnotations, ObjectAnnotation
from sam3ray.cli import main
from sam3ray.evaluate import compare_runs
from sam3ray.failures import UserError
from sam3ray.masks import encode_masks


def block(object_id, x, y, size=12, prompt="thing", side=64):
    mask = np.zeros((1, side, side), bool)
    mask[0, y : y + size, x : x + size] = True
    found = encode_masks(mask)[0]
    return ObjectAnnotation(object_id, prompt, 0.9, 0.9, tuple(map(float, found.bbox)), found.area, found.rle)


def tracks(count=6, side=64):
    """Two objects that stay apart."""
    return [
        FrameAnnotations(t, t, t / 10, side, side, (block(1, 4 * t, 5, side=side), block(2, 40, 4 * t, side=side)))
        for t in range(count)
    ]


def renamed(frames, names, first=0):
    """With other ids from a frame on."""
    return [
        replace(
            frame,
            objects=tuple(
                sorted(
                    (replace(o, object_id=names.get(o.object_id, o.object_id)) for o in frame.objects),
                    key=lambda o: o.object_id,
                )
            ),
        )
        if frame.frame_index >= first
        else frame
        for frame in frames
    ]


def write(folder, clip_id, found, **facts):
    path = folder / "annotations" / f"{clip_id}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    with AnnotationWriter(path, clip_id, {"clip": facts}) as writer:
        for frame in found:
            writer.write(frame)
        writer.finish()


def compare(tmp_path, one, two, **options):
    for name, frames in (("one", one), ("two", two)):
        write(tmp_path / name, "c", frames)
    return compare_runs(str(tmp_path / "one"), str(tmp_path / "two"), **options)


def test_the_same_run_agrees_in_every_pixel_and_id(tmp_path):
    report = compare(tmp_path, tracks(), renamed(tracks(), {1: 9, 2: 1}))
    a = report.overall
    assert (a.overlap, a.identity, a.idf1, a.mean_iou) == (1, 1, 1, 1)
    assert (a.matched, a.equal, a.objects, a.other_objects, a.kept) == (12, 12, 2, 2, 2)
    assert (a.switches, a.merges, report.changes) == (0, 0, {})


def test_a_new_id_half_way_is_one_switch_at_its_frame(tmp_path):
    report = compare(tmp_path, renamed(tracks(), {1: 7}, first=4), tracks())
    a = report.overall
    assert (a.switches, a.merges, a.kept, a.objects, a.other_objects) == (1, 0, 1, 3, 2)
    assert (a.identity, a.idf1) == (pytest.approx(10 / 12), pytest.approx(10 / 12))
    assert [vars(change) for change in report.changes["c"]] == [{"frame": 4, "other_id": 1, "from_id": 1, "to_id": 7}]
    back = compare_runs(str(tmp_path / "two"), str(tmp_path / "one")).overall
    assert (back.switches, back.merges, back.idf1) == (0, 1, a.idf1)


def test_swapped_ids_are_switches_of_both(tmp_path):
    a = compare(tmp_path, renamed(tracks(), {1: 2, 2: 1}, first=3), tracks()).overall
    assert (a.switches, a.merges, a.kept) == (2, 2, 0)
    assert a.identity == 0.5


def test_masks_that_only_one_run_has(tmp_path):
    lost = [replace(f, objects=f.objects[:1]) for f in tracks()]
    a = compare(tmp_path, lost, tracks()).overall
    assert (a.rows, a.other_rows, a.matched, a.kept) == (6, 12, 6, 1)
    assert a.overlap == a.idf1 == pytest.approx(12 / 18)


def test_phrases_are_kept_apart(tmp_path):
    other = [replace(f, objects=tuple(replace(o, prompt="other") for o in f.objects)) for f in tracks()]
    report = compare(tmp_path, other, tracks())
    assert report.overall.matched == 0
    assert set(report.prompts) == {"thing", "other"}


def test_frames_that_one_run_did_not_look_at_do_not_count(tmp_path):
    write(tmp_path / "one", "c", tracks())
    write(tmp_path / "two", "c", tracks()[::2], frames=3, fps=5.0, source_fps=10.0)
    report = compare_runs(str(tmp_path / "one"), str(tmp_path / "two"))
    assert (report.overall.rows, report.overall.idf1) == (6, 1)


def test_several_processes_say_the_same_and_clips_of_one_run_are_named(tmp_path):
    for clip_id in ("c", "d"):
        write(tmp_path / "one", clip_id, tracks())
        write(tmp_path / "two", clip_id, renamed(tracks(), {1: 5}, first=3))
    write(tmp_path / "one", "mine", tracks())
    folders = str(tmp_path / "one"), str(tmp_path / "two")
    report = compare_runs(*folders, workers=2)
    assert report.as_json() == compare_runs(*folders).as_json()
    assert (report.only_here, report.only_there) == (("mine",), ())
    assert report.overall.merges == 2


def test_what_cannot_be_compared_is_a_sentence(tmp_path):
    write(tmp_path / "one", "c", tracks())
    write(tmp_path / "two", "d", tracks())
    with pytest.raises(UserError, match="no clip in common"):
        compare_runs(str(tmp_path / "one"), str(tmp_path / "two"))
    write(tmp_path / "two", "c", tracks(side=72))
    with pytest.raises(UserError, match="clip c: its frames are 64x64 pixels in one run and 72x72 pixels"):
        compare_runs(str(tmp_path / "one"), str(tmp_path / "two"))


def test_the_command(tmp_path, capsys):
    compare(tmp_path, renamed(tracks(), {1: 7}, first=4), tracks())
    arguments = ["eval", str(tmp_path / "one"), "--against", str(tmp_path / "two"), "--workers", "1"]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--json"])
    assert end.value.code == 0
    assert json.loads(capsys.readouterr().out)["overall"]["switches"] == 1
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert "ids kept" in capsys.readouterr().out
    for wrong in (["eval", "x"], [*arguments, "--truth", "y"]):
        with pytest.raises(SystemExit) as end:
            main(wrong)
        assert end.value.code == 2
        assert "give one of --truth" in capsys.readouterr().err
