"""What to look at first: each signal on a track made for it, the table, and the command."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

import sam3ray
from sam3ray.annotations import AnnotationWriter, FrameAnnotations, ObjectAnnotation
from sam3ray.cli import main
from sam3ray.failures import UserError
from sam3ray.masks import encode_masks
from sam3ray.screening import SIGNALS, triage
from sam3ray.screening._weights import WEIGHTS, clip_suspicion, suspicion

SIDE, FRAMES = 100, 30


def block(object_id, x, y, size=14, prompt="thing", score=0.95, track_score=0.95):
    mask = np.zeros((1, SIDE, SIDE), bool)
    mask[0, y : y + size, x : x + size] = True
    found = encode_masks(mask)[0]
    box = tuple(map(float, found.bbox))
    return ObjectAnnotation(object_id, prompt, score, track_score, box, found.area, found.rle)


def good(t, object_id=1, y=20):
    """A track that nothing is wrong with: sure, slow, there throughout."""
    return block(object_id, 20 + t, y)


def write(folder, clip_id, frames, **facts):
    path = folder / "annotations" / f"{clip_id}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    with AnnotationWriter(path, clip_id, {"clip": facts}) as writer:
        for t, objects in enumerate(frames):
            found = tuple(sorted((o for o in objects if o is not None), key=lambda o: o.object_id))
            writer.write(FrameAnnotations(t, t, t / 10, SIDE, SIDE, found))
        writer.finish()


def signals_of(tmp_path, second, first=good):
    """Of object 2, beside a good object 1."""
    write(tmp_path, "c", [[first(t), second(t)] for t in range(FRAMES)])
    rows = triage(str(tmp_path)).ranking.to_pylist()
    one, two = (next(r for r in rows if r["object_id"] == k) for k in (1, 2))
    assert two["suspicion"] > one["suspicion"]
    assert two["rank"] == 1
    return one, two


CASES = {
    "low_score": lambda t: replace(good(t, 2, 60), score=0.5),
    "unsure": lambda t: replace(good(t, 2, 60), track_score=0.4),
    "dip": lambda t: replace(good(t, 2, 60), track_score=0.2 if 10 <= t < 14 else 0.95),
    "area_jump": lambda t: block(2, 40, 60, 8 if t < 12 else 24),
    "shift": lambda t: block(2, 30 if t < 12 else 60, 60),
    "gaps": lambda t: good(t, 2, 60) if t % 5 else None,
    "brief": lambda t: good(t, 2, 60) if t < 2 else None,
    "starts_inside": lambda t: good(t, 2, 60) if t >= 9 else None,
    "ends_inside": lambda t: good(t, 2, 60) if t < 20 else None,
    "touching": lambda t: block(2, 24 + t, 22),
    "doubled": lambda t: replace(good(t, 2, 20), prompt="other"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_signal_is_seen_where_it_is(tmp_path, name):
    if name in ("touching", "doubled"):  # both objects are suspicious of it
        write(tmp_path, "c", [[good(t), CASES[name](t), block(3, 20 + t, 80)] for t in range(FRAMES)])
        rows = {r["object_id"]: r for r in triage(str(tmp_path)).ranking.to_pylist() if r["level"] == "object"}
        assert rows[2][name] > 0.3 > rows[3][name]
        return
    one, two = signals_of(tmp_path, CASES[name])
    assert two[name] > 0.3 > one[name]


@pytest.mark.parametrize(("name", "frame"), [("dip", 10), ("area_jump", 12), ("shift", 12)])
def test_the_frame_to_look_at_is_where_it_happens(tmp_path, name, frame):
    _, two = signals_of(tmp_path, CASES[name])
    assert two["frame_index"] == frame
    assert two["time_s"] == pytest.approx(frame / 10)
    assert SIGNALS[name] in two["why"]


def test_one_track_that_ends_where_another_begins_marks_both(tmp_path):
    tracks = [[good(t) if t < 15 else good(t, 2), block(3, 20 + t, 70)] for t in range(FRAMES)]
    write(tmp_path, "c", tracks)
    rows = {r["object_id"]: r for r in triage(str(tmp_path)).ranking.to_pylist() if r["level"] == "object"}
    assert rows[1]["handover"] > 0.5
    assert rows[2]["handover"] > 0.5
    assert rows[3]["handover"] == 0


def test_what_leaves_the_picture_ends_at_its_edge(tmp_path):
    write(tmp_path, "c", [[block(1, min(86, 50 + 3 * t), 20)] if t < 15 else [] for t in range(FRAMES)])
    (row,) = (r for r in triage(str(tmp_path)).ranking.to_pylist() if r["level"] == "object")
    assert (row["ends_inside"], row["starts_inside"]) == (0, 0)


def test_a_sampled_clip_has_no_gaps(tmp_path):
    path = tmp_path / "annotations"
    path.mkdir()
    with AnnotationWriter(path / "c.parquet", "c", {"clip": {"source_fps": 10.0, "fps": 2.0}}) as writer:
        for t in range(0, 60, 5):
            writer.write(FrameAnnotations(t, t, t / 10, SIDE, SIDE, (block(1, 20, 20),)))
        writer.finish()
    (row,) = (r for r in triage(str(tmp_path)).ranking.to_pylist() if r["level"] == "object")
    assert (row["gaps"], row["ends_inside"]) == (0, 0)


def make_run(folder):
    write(folder, "fine", [[good(t)] for t in range(FRAMES)])
    write(folder, "odd", [[good(t), CASES["gaps"](t)] for t in range(FRAMES)])
    write(folder, "nothing", [[] for _ in range(FRAMES)])


class TestTheTable:
    def test_clips_and_objects_are_ranked_apart_and_the_file_says_the_same(self, tmp_path):
        make_run(tmp_path)
        found = triage(str(tmp_path))
        table = pq.read_table(tmp_path / "triage.parquet")
        assert table.equals(found.ranking)
        rows = table.to_pylist()
        assert [(r["level"], r["rank"], r["clip_id"]) for r in rows[:3]] == [
            ("clip", 1, "odd"),
            ("clip", 2, "fine"),
            ("clip", 3, "nothing"),
        ]
        assert [(r["level"], r["rank"], r["object_id"]) for r in rows[3:4]] == [("object", 1, 2)]
        assert rows[2]["suspicion"] == 0

    def test_again_and_with_more_processes_it_is_the_same(self, tmp_path):
        make_run(tmp_path)
        first = triage(str(tmp_path)).ranking
        assert triage(str(tmp_path), workers=2).ranking.equals(first)

    def test_a_relative_place_is_below_the_current_folder(self, tmp_path, monkeypatch):
        make_run(tmp_path)
        monkeypatch.chdir(tmp_path)
        triage(".", to="ranking.parquet")
        assert (tmp_path / "ranking.parquet").exists()

    def test_elsewhere_only_a_new_file(self, tmp_path):
        make_run(tmp_path)
        to = str(tmp_path / "elsewhere" / "ranking.parquet")
        (tmp_path / "elsewhere").mkdir()
        triage(str(tmp_path), to=to)
        assert not (tmp_path / "triage.parquet").exists()
        with pytest.raises(UserError, match="already exists"):
            triage(str(tmp_path), to=to)
        with pytest.raises(UserError, match=r"allowed: the address of a \.parquet file"):
            triage(str(tmp_path), to=str(tmp_path / "ranking.csv"))

    def test_damaged_clips_are_named_and_do_not_stop_the_others(self, tmp_path):
        make_run(tmp_path)
        (tmp_path / "annotations" / "broken.parquet").write_bytes(b"PAR1 no more PAR1")
        found = triage(str(tmp_path))
        assert list(found.damaged) == ["broken"]
        assert len(found.top("clip")) == 3

    def test_no_run(self, tmp_path):
        with pytest.raises(UserError, match="holds no annotations"):
            triage(str(tmp_path))


def test_where_two_runs_disagree_is_looked_at_first(tmp_path):
    frames = [[good(t), good(t, 2, 60)] for t in range(FRAMES)]
    write(tmp_path / "one", "c", frames)
    other = [
        [o if t < 20 or o.object_id == 1 else replace(o, object_id=9) for o in row] for t, row in enumerate(frames)
    ]
    write(tmp_path / "two", "c", other)
    rows = triage(str(tmp_path / "one"), against=str(tmp_path / "two")).ranking.to_pylist()
    first = rows[1]
    assert (first["object_id"], first["frame_index"]) == (2, 20)
    assert first["disagreement"] == pytest.approx(1 / 3, abs=1e-6)
    write(tmp_path / "three", "d", frames)
    with pytest.raises(UserError, match="no clip in common"):
        triage(str(tmp_path / "one"), against=str(tmp_path / "three"))


def test_no_signal_speaks_for_a_track():
    nothing = dict.fromkeys(SIGNALS, 0.0)
    assert set(WEIGHTS) == set(SIGNALS)
    for name in SIGNALS:
        assert suspicion(nothing | {name: 1.0}) >= suspicion(nothing)
    assert clip_suspicion([]) == 0
    assert clip_suspicion([0.5, 0.5]) == 0.75


def test_the_command(tmp_path, capsys):
    make_run(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["triage", str(tmp_path), "--json", "--top", "2", "--workers", "1"])
    assert end.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["clip_id"] for row in printed["clips"]] == ["odd", "fine"]
    with pytest.raises(SystemExit):
        main(["triage", str(tmp_path), "--workers", "1"])
    assert "Objects to look at first" in capsys.readouterr().out
    assert sam3ray.triage is triage
