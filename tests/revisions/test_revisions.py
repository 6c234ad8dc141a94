"""Corrections beside a run: what readers see, who wins a race, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from sam3ray import read_annotations
from sam3ray.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.failures import UserError
from sam3ray.masks import decode_rle, encode_masks
from sam3ray.revisions import (
    Accept,
    Add,
    Delete,
    EditConflict,
    EditRefused,
    Edits,
    Merge,
    Rename,
    ReplaceMask,
    Revert,
    SetId,
    Split,
    Swap,
    check_edits,
    count_edits,
)
from sam3ray.store import RunStore, compact_run, layout, verify_run
from tests.exports.labels import FRAMES, HEIGHT, WIDTH, make_run, mask_of

CLIP = "a-clip"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    make_run(tmp_path, ("a-clip", "empty", "other"))
    return tmp_path / "run"


def edits(run: Path) -> Edits:
    return Edits(RunStore(str(run)))


def rows(run, clip=CLIP, revision="latest"):
    """(frame, object id) -> row"""
    table = read_annotations(str(run), revision=revision).to_table()
    return {(r["frame_index"], r["object_id"]): r for r in table.to_pylist() if r["clip_id"] == clip}


def mask(row):
    return decode_rle(row["segmentation"]["counts"], HEIGHT, WIDTH)


def drawn(object_id, frames):
    found = []
    for frame in frames:
        pixels = np.zeros((HEIGHT, WIDTH), bool)
        pixels[2:10, 3 : 8 + frame] = True
        each = encode_masks(pixels[None])[0]
        item = ObjectAnnotation(object_id, "ring", 1.0, 1.0, tuple(map(float, each.bbox)), each.area, each.rle)
        found.append(FrameAnnotations(frame, frame * 512, frame / 25, HEIGHT, WIDTH, (item,)))
    return found


def test_clips_come_in_the_order_of_their_ids(run):
    edits(run).append([Rename(CLIP, 1, "hoop")])
    table = read_annotations(str(run), revision="latest").to_table()
    assert list(dict.fromkeys(table["clip_id"].to_pylist())) == ["a-clip", "other"]
    one = read_annotations(str(run), revision="latest").to_table(filter=pc.field("prompt") == "hoop")
    assert one.num_rows == FRAMES


def test_the_rows_of_a_clip_that_is_corrected_again_are_read_once_and_those_of_another_file_anew(run, monkeypatch):
    read, asked = RunStore.read_clip, []
    monkeypatch.setattr(
        RunStore, "read_clip", lambda store, clip, *more: (asked.append(clip), read(store, clip, *more))[1]
    )
    log = edits(run)
    for n in range(3):
        log.append([Rename(CLIP, 1, f"hoop {n}")])
    assert log.clip(CLIP, log.operations(3)[CLIP])[0].objects[0].prompt == "hoop 2"
    assert asked == [CLIP]
    log.append([Rename("other", 1, "hoop")])
    assert asked == [CLIP, "other"]
    make_run(run.parent / "again", ("a-clip",))
    again = RunStore(str(run.parent / "again" / "run"))
    first = log.clip(CLIP, [])
    Path(run / layout.annotation_path(CLIP)).write_bytes(again.storage.read(layout.annotation_path(CLIP)))
    asked.clear()
    assert log.clip(CLIP, []) == first == log.clip(CLIP, [])
    assert asked == [CLIP]


class TestOperations:
    def test_rename_on_a_range(self, run):
        edits(run).append([Rename(CLIP, 1, "hoop", (2, 3))])
        assert [rows(run)[frame, 1]["prompt"] for frame in range(FRAMES)] == ["ring"] * 2 + ["hoop"] * 2 + ["ring"] * 2

    def test_set_id_everywhere(self, run):
        before = rows(run)
        edits(run).append([SetId(CLIP, 1203, 7)])
        after = rows(run)
        assert {key for key in after if key[1] == 7} == {(2, 7)}
        assert mask(after[2, 7]).tolist() == mask(before[2, 1203]).tolist()

    def test_set_id_onto_a_taken_one(self, run):
        with pytest.raises(EditRefused, match=r"object 2 already exists on 4 of the frames, first on 1; merge"):
            edits(run).append([SetId(CLIP, 1, 2)])
        assert not (run / "edits").exists()
        before = rows(run)
        edits(run).append([SetId(CLIP, 1, 2, overwrite=True)])
        after = rows(run)
        assert {i for _, i in after} == {2, 1203}
        assert mask(after[1, 2]).tolist() == mask(before[1, 1]).tolist()

    def test_swap_from_a_frame_on(self, run):
        before = rows(run)
        edits(run).append([Swap(CLIP, 1, 2, (2, 5))])
        after = rows(run)
        assert mask(after[1, 1]).tolist() == mask(before[1, 1]).tolist()
        assert mask(after[2, 1]).tolist() == mask(before[2, 2]).tolist()
        assert (3, 1) not in after  # 2 was not there on frame 3
        assert mask(after[3, 2]).tolist() == mask(before[3, 1]).tolist()

    def test_merge_is_the_union_with_the_higher_scores(self, run):
        edits(run).append([Merge(CLIP, 1203, 1)])
        after = rows(run)
        assert {i for _, i in after} == {2, 1203}
        assert mask(after[2, 1203]).tolist() == (mask_of(1, 2) | mask_of(1203, 2)).tolist()
        assert after[2, 1203]["score"] == pytest.approx(0.9)
        assert after[2, 1203]["area"] == (mask_of(1, 2) | mask_of(1203, 2)).sum()
        assert {row["prompt"] for (_, i), row in after.items() if i == 1203} == {"ring"}

    def test_split_leaves_the_first_part_its_id(self, run):
        edits(run).append([Split(CLIP, 1, 3, 50)])
        assert {f for f, i in rows(run) if i == 1} == {0, 1, 2}
        assert {f for f, i in rows(run) if i == 50} == {3, 4, 5}

    def test_delete_on_a_frame_leaves_the_track(self, run):
        edits(run).append([Delete(CLIP, 1, (2, 2))])
        assert {f for f, i in rows(run) if i == 1} == {0, 1, 3, 4, 5}

    def test_new_and_replaced_masks(self, run):
        log = edits(run)
        data, digest = log.put_data("empty", drawn(9, [1, 2]))
        other, other_digest = log.put_data(CLIP, drawn(1, [3]))
        log.append([Add("empty", 9, data, digest), ReplaceMask(CLIP, 1, (3, 3), other, other_digest)])
        assert set(rows(run, "empty")) == {(1, 9), (2, 9)}
        assert rows(run)[3, 1]["area"] == drawn(1, [3])[0].objects[0].area
        assert rows(run)[2, 1]["area"] == mask_of(1, 2).sum()

    def test_in_order_and_one_upon_the_other(self, run):
        edits(run).append([Split(CLIP, 1, 3, 50), Rename(CLIP, 50, "hoop"), Merge(CLIP, 50, 2, (4, 5))])
        after = rows(run)
        assert after[4, 50]["prompt"] == "hoop"
        assert {f for f, i in after if i == 2} == {1, 2}

    def test_accept_changes_no_row(self, run):
        before = rows(run)
        edits(run).append([Accept(CLIP)])
        assert rows(run) == before


class TestReading:
    def test_revisions_are_numbered_and_stay(self, run):
        log = edits(run)
        assert log.append([Delete(CLIP, 2)]) == 1
        assert log.append([Delete("other", 1)]) == 2
        assert 2 in {i for _, i in rows(run, revision=None)}
        assert 2 not in {i for _, i in rows(run, revision=1)}
        assert 1 in {i for _, i in rows(run, "other", revision=1)}
        assert 1 not in {i for _, i in rows(run, "other", revision=2)}
        assert rows(run, revision=0) == rows(run, revision=None)
        with pytest.raises(UserError, match=r"revision 3: allowed: latest, or 0 to 2"):
            read_annotations(str(run), revision=3)

    def test_the_models_files_are_never_touched(self, run):
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        edits(run).append([Delete(CLIP, 1)])
        rows(run)
        assert before == {path: path.read_bytes() for path in before}

    def test_lazy_with_filters_and_columns(self, run):
        import pyarrow.dataset as ds

        edits(run).append([Rename(CLIP, 1, "hoop")])
        found = read_annotations(str(run), revision="latest")
        table = found.to_table(columns=["clip_id", "prompt"], filter=ds.field("prompt") == "hoop")
        assert table.num_rows == FRAMES
        assert found.count_rows() == read_annotations(str(run)).count_rows()

    def test_a_compacted_run(self, run):
        before = rows(run, "other")
        compact_run(str(run), remove_originals=True)
        edits(run).append([Delete(CLIP, 1)])
        assert 1 not in {i for _, i in rows(run)}
        assert rows(run, "other") == before
        compact_run(str(run), remove_originals=True)
        assert 1 not in {i for _, i in rows(run)}

    def test_undo_and_undo_of_the_undo(self, run):
        log = edits(run)
        whole = rows(run)
        first = log.append([Delete(CLIP, 1)])
        gone = rows(run)
        second = log.undo(first)
        assert rows(run) == whole
        log.undo(second)
        assert rows(run) == gone
        assert len(list((run / "edits").glob("*.json"))) == 3

    def test_what_others_build_upon_is_not_taken_back(self, run):
        log = edits(run)
        first = log.append([Split(CLIP, 1, 3, 50)])
        log.append([Rename(CLIP, 50, "hoop")])
        with pytest.raises(EditRefused, match="there is no object 50"):
            log.undo(first)
        assert log.latest() == 2


class TestTwoAuthors:
    def test_other_objects_clips_and_frames_do_not_conflict(self, run):
        ann, ben = edits(run), edits(run)
        assert ann.append([Delete(CLIP, 1, (0, 2))], author="ann", parent=0) == 1
        assert ben.append([Delete(CLIP, 2)], author="ben", parent=0) == 2
        assert ann.append([Delete("other", 1)], author="ann", parent=0) == 3
        assert ben.append([Delete(CLIP, 1, (4, 5))], author="ben", parent=0) == 4
        assert {f for f, i in rows(run) if i == 1} == {3}

    def test_the_same_object_on_the_same_frame_does(self, run):
        ann, ben = edits(run), edits(run)
        ann.append([Rename(CLIP, 1, "hoop")], author="ann", parent=0)
        with pytest.raises(EditConflict, match=r"ann changed clip a-clip \(rename\) in revision 1 meanwhile"):
            ben.append([Delete(CLIP, 1, (2, 2))], author="ben", parent=0)
        assert ben.latest() == 1
        assert ben.append([Delete(CLIP, 1, (2, 2))], author="ben") == 2

    def test_many_at_once_lose_nothing(self, run):
        from concurrent.futures import ThreadPoolExecutor

        def one(frame):
            return edits(run).append([Delete(CLIP, 1, (frame, frame))], parent=0)

        with ThreadPoolExecutor(6) as pool:
            numbers = sorted(pool.map(one, range(FRAMES)))
        assert numbers == list(range(1, FRAMES + 1))
        assert 1 not in {i for _, i in rows(run)}


class TestRefused:
    @pytest.mark.parametrize(
        ("operation", "sentence"),
        [
            (Delete(CLIP, 77), "there is no object 77"),
            (Delete(CLIP, 1, (100, 200)), "there is no object 1 on frames 100 to 200"),
            (Delete("nowhere", 1), "clip nowhere is not done"),
            (Delete("../x", 1), "not a clip id"),
            (Rename(CLIP, 1, "x" * 300), "label has 300 characters, 'xxx"),
            (Rename(CLIP, 1, "two\nlines"), "with a control character"),
            (SetId(CLIP, 1, 0), "to is 0; allowed: object ids from 1"),
            (Delete(CLIP, 1, (3, 2)), r"frames is \(3, 2\); allowed"),
            (Delete(CLIP, 1, 3), "frames is 3; allowed"),  # type: ignore[arg-type]
            (Merge(CLIP, 1, 1), "both ids are 1"),
            (Add(CLIP, 9, "../../x", "0" * 64), "allowed: 32 hexadecimal digits"),
            (Revert(()), "entries must be numbers from 1"),
            ("delete", "an operation must be one of"),
        ],
    )
    def test_what_does_not_fit(self, run, operation, sentence):
        with pytest.raises(EditRefused, match=sentence):
            edits(run).append([operation])
        assert not (run / "edits").exists()

    @pytest.mark.parametrize("about", [{"author": "ann \ud83d"}, {"tool": "\udcff"}])
    def test_half_a_character_in_a_name(self, run, about):
        with pytest.raises(EditRefused, match="half of a surrogate pair"):
            edits(run).append([Delete(CLIP, 1)], **about)
        assert not (run / "edits").exists()
        edits(run).append([Delete(CLIP, 1)], author="ann \U0001f600")

    def test_masks_of_another_size(self, run):
        log = edits(run)
        small = [replace(frame, height=HEIGHT // 2, width=WIDTH, objects=()) for frame in drawn(1, [0])]
        each = encode_masks(np.ones((1, HEIGHT // 2, WIDTH), bool))[0]
        item = ObjectAnnotation(1, "ring", 1.0, 1.0, tuple(map(float, each.bbox)), each.area, each.rle)
        data, digest = log.put_data(CLIP, [replace(small[0], objects=(item,))])
        with pytest.raises(EditRefused, match="the masks are 128x48, the clip's are 128x96"):
            log.append([ReplaceMask(CLIP, 1, (0, 0), data, digest)])

    def test_changed_masks_are_not_believed(self, run):
        log = edits(run)
        data, digest = log.put_data(CLIP, drawn(1, [3]))
        log.append([ReplaceMask(CLIP, 1, (3, 3), data, digest)])
        (path,) = (run / "edits" / "data").rglob("*.parquet")
        other, _ = log.put_data(CLIP, drawn(1, [4]))
        path.write_bytes((run / "edits" / "data" / other / f"{CLIP}.parquet").read_bytes())
        with pytest.raises(UserError, match="was changed: its digest"):
            edits(run).clip(CLIP, edits(run).operations(1)[CLIP])

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"operations": [{"op": "explode"}]}, "op is 'explode'; allowed: rename"),
            ({"operations": [{"op": "delete", "clip": "a-clip"}]}, "delete lacks"),
            (
                {"operations": [{"op": "delete", "clip": "a-clip", "object": 0}]},
                "object is 0; allowed: object ids from 1",
            ),
            ({"operations": [{"op": "delete", "clip": "a-clip", "object": 1, "x": 1}]}, "unknown key 'x'"),
            ({"operations": [{"op": "revert", "entries": [5]}]}, "undoes a revision that came after it"),
            (
                {"operations": [{"op": "add", "clip": "a-clip", "object": 9, "data": "../../x", "sha256": ""}]},
                "data is '../../x'",
            ),
            ({"parent": 3}, "its parent is 3; allowed: 0 to 0"),
        ],
    )
    def test_a_damaged_log(self, run, change, sentence):
        edits(run).append([Delete(CLIP, 1)])
        path = run / "edits" / "00000001.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(UserError, match=r"00000001.json is damaged: .*" + sentence.replace(".", r"\.")):
            read_annotations(str(run), revision="latest")
        assert rows(run, revision=None)

    def test_json_that_is_none(self, run):
        edits(run).append([Delete(CLIP, 1)])
        (run / "edits" / "00000001.json").write_text("[" * 100_000)
        with pytest.raises(UserError, match="damaged: it is nested too deeply"):
            read_annotations(str(run), revision="latest")


class TestAudit:
    def test_verify_and_status_know_corrections(self, run):
        log = edits(run)
        data, digest = log.put_data(CLIP, drawn(1, [3]))
        log.append([ReplaceMask(CLIP, 1, (3, 3), data, digest), Accept("empty")])
        log.append([Delete("other", 2)])
        log.undo(2)
        store = RunStore(str(run))
        assert verify_run(str(run)) + check_edits(store) == []
        assert count_edits(store) == {"revision": 3, "corrected": 1, "accepted": 1}

    def test_what_does_not_hold_together_is_named(self, run):
        log = edits(run)
        log.append([Delete(CLIP, 1)])
        log.append([Delete(CLIP, 2)])
        log.append([Delete("other", 2)])
        path = run / "edits" / "00000003.json"
        path.write_text(path.read_text().replace(log.attempt_of("other"), "0" * 32))
        (problem,) = check_edits(RunStore(str(run)))
        assert problem == "edits/00000003.json corrects a different file of clip other from the current one"
        (run / "edits" / "00000001.json").unlink()
        problems = check_edits(RunStore(str(run)))
        assert any("00000001.json is missing: the log of corrections has a gap" in each for each in problems)


class TestRevisedRows:
    def test_rows_that_no_run_could_have(self, run):
        log = edits(run)
        frame = drawn(1, [2])[0]
        wrong = replace(frame.objects[0], area=7)
        log.append([ReplaceMask(CLIP, 1, (2, 2), *log.put_data(CLIP, [replace(frame, objects=(wrong,))]))])
        (problem,) = check_edits(RunStore(str(run)))
        assert problem.startswith(f"clip {CLIP} at revision 1: ")
        assert "area" in problem
        assert check_edits(RunStore(str(run)), 0) == []

    def test_labels_may_differ_along_an_object(self, run):
        edits(run).append([Rename(CLIP, 1, "hoop", (2, 3))])
        assert check_edits(RunStore(str(run))) == []

    def test_counts_are_of_a_revision(self, run):
        edits(run).append([Rename(CLIP, 1, "hoop")])
        edits(run).append([Accept("other")])
        store = RunStore(str(run))
        assert count_edits(store) == {"revision": 2, "corrected": 1, "accepted": 1}
        assert count_edits(store, 1) == {"revision": 1, "corrected": 1, "accepted": 0}
        with pytest.raises(UserError, match="allowed: latest, or 0 to 2"):
            count_edits(store, 3)


def test_the_command_takes_a_revision_where_it_reads_rows(run):
    import json as json_module

    from typer.testing import CliRunner

    from sam3ray.cli import app

    edits(run).append([Rename(CLIP, 1, "hoop")])
    edits(run).append([Delete(CLIP, 2)])

    def call(*arguments: str):
        done = CliRunner().invoke(app, [*arguments, "--json"])
        return done.exit_code, json_module.loads(done.stdout) if done.stdout else done.stderr

    assert call("status", str(run), "--revision", "1")[1]["revision"] == 1
    assert call("verify", str(run), "--revision", "1")[0] == 0
    assert call("verify", str(run), "--revision", "9")[0] == 2
    code, said = call("status", str(run), "--revision", "soon")
    assert (code, "allowed: latest, or 0 to 2" in said) == (2, True)
