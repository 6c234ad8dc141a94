"""Corrections made in other tools' files come back as a revision."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sam3ray import read_annotations
from sam3ray.exports import export, import_labels
from sam3ray.exports._reading import filled
from sam3ray.failures import UserError
from sam3ray.masks import decode_rle
from sam3ray.revisions import Delete, EditConflict, Edits
from sam3ray.store import RunStore
from tests.exports.labels import FRAMES, HEIGHT, WIDTH, make_run, mask_of

CLIP = "a-clip"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    make_run(tmp_path)
    return tmp_path / "run"


def rows(run, revision="latest"):
    table = read_annotations(str(run), revision=revision).to_table().to_pylist()
    return {(r["frame_index"], r["object_id"]): r for r in table if r["clip_id"] == CLIP}


def mask(row):
    return decode_rle(row["segmentation"]["counts"], HEIGHT, WIDTH)


class Files:
    """The LabelMe files of the clip, to be changed as an annotator would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / CLIP

    def change(self, frame: int, edit) -> None:
        path = self.folder / f"{frame:06d}.json"
        value = json.loads(path.read_text())
        value["shapes"] = edit(value["shapes"])
        path.write_text(json.dumps(value))


def png(pixels):
    data = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8) * 255).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


@pytest.mark.parametrize("name", ["coco", "labelme", "xanylabeling"])
def test_what_nobody_changed_changes_nothing(run, tmp_path, name):
    export(str(run), str(tmp_path / "out"), name)
    done = import_labels(str(run), str(tmp_path / "out"), name)
    assert done.revision is None
    assert not (run / "edits").exists()


def test_every_kind_of_correction_in_labelme(run, tmp_path):
    export(str(run), str(tmp_path / "out"), "labelme")
    files = Files(tmp_path / "out")
    files.change(1, lambda shapes: [s for s in shapes if s["group_id"] != 2])  # deleted
    files.change(2, lambda shapes: [s | {"label": "hoop"} if s["group_id"] == 1 else s for s in shapes])
    for frame in (4, 5):
        files.change(frame, lambda shapes: [s | {"group_id": 7} if s["group_id"] == 2 else s for s in shapes])
    block = np.ones((6, 9), bool)
    drawn = {"label": "ring", "shape_type": "mask", "points": [[3, 2], [11, 7]], "mask": png(block)}
    files.change(
        3, lambda shapes: [drawn | {"group_id": 1} if s["group_id"] == 1 else s for s in shapes]
    )  # another mask
    square = {"label": "two words", "shape_type": "polygon", "points": [[80, 2], [90, 2], [90, 12], [80, 12]]}
    files.change(0, lambda shapes: [*shapes, square | {"group_id": None}])  # a new object, without an id

    before = rows(run, None)
    done = import_labels(str(run), str(tmp_path / "out"), "labelme", author="ann")
    assert done.revision == 1
    assert done.clips == {CLIP: {"delete": 1, "set_id": 1, "rename": 1, "replace_mask": 1, "add": 1}}
    after = rows(run)
    assert (1, 2) not in after
    assert after[2, 1]["prompt"] == "hoop"
    assert after[1, 1] == before[1, 1]
    assert {frame for frame, i in after if i == 7} == {4, 5}
    assert {frame for frame, i in after if i == 2} == {2}
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[2:8, 3:12] = True
    np.testing.assert_array_equal(mask(after[3, 1]), expected)
    assert (after[3, 1]["score"], after[3, 1]["track_score"]) == (1.0, 1.0)
    new = after[0, 1204]
    assert (new["prompt"], new["area"]) == ("two words", 100)
    assert Edits(RunStore(str(run))).entry(1).author == "ann"
    # Once more the same: on top of what came back already it is the same change, and is refused or nothing.
    with pytest.raises(EditConflict):
        import_labels(str(run), str(tmp_path / "out"), "labelme")


def test_coco_with_run_lengths_and_polygons(run, tmp_path):
    export(str(run), str(tmp_path / "out"), "coco")
    path = tmp_path / "out" / "annotations" / f"{CLIP}.json"
    data = json.loads(path.read_text())
    first = next(a for a in data["annotations"] if a["track_id"] == 1 and a["image_id"] == 1)
    first["segmentation"] = [[10, 10, 20, 10, 20, 30, 10, 30]]
    data["annotations"] = [a for a in data["annotations"] if a["track_id"] != 1203]
    path.write_text(json.dumps(data))
    done = import_labels(str(run), str(tmp_path / "out"), "coco")
    assert done.clips == {CLIP: {"delete": 1, "replace_mask": 1}}
    after = rows(run)
    assert after[0, 1]["bbox"] == {"xmin": 10, "ymin": 10, "xmax": 20, "ymax": 30}
    assert 1203 not in {i for _, i in after}
    assert mask(after[1, 1]).tolist() == mask_of(1, 1).tolist()


def test_coco_images_that_do_not_come_back_were_not_looked_at(run, tmp_path):
    export(str(run), str(tmp_path / "out"), "coco")
    path = tmp_path / "out" / "annotations" / f"{CLIP}.json"
    data = json.loads(path.read_text())
    data["images"] = [image for image in data["images"] if image["frame_index"] == 2]
    kept = {image["id"] for image in data["images"]}
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] in kept and a["track_id"] != 1203]
    path.write_text(json.dumps(data))
    before = rows(run, None)
    import_labels(str(run), str(tmp_path / "out"), "coco")
    assert before.keys() - rows(run).keys() == {(2, 1203)}


def test_two_ids_that_changed_places_keep_masks_and_scores(run, tmp_path):
    export(str(run), str(tmp_path / "out"), "labelme")
    other = {1: 2, 2: 1, 1203: 1203}
    for frame in (4, 5):
        Files(tmp_path / "out").change(frame, lambda shapes: [s | {"group_id": other[s["group_id"]]} for s in shapes])
    before = rows(run, None)
    done = import_labels(str(run), str(tmp_path / "out"), "labelme")
    assert done.clips == {CLIP: {"swap": 1}}
    after = rows(run)
    assert {**after[4, 1], "object_id": 2} == before[4, 2]
    assert {**after[5, 2], "object_id": 1} == before[5, 1]
    assert after[2, 1] == before[2, 1]


def test_two_ids_that_changed_places_on_every_exported_frame_did_so_everywhere(run, tmp_path):
    Edits(RunStore(str(run))).append([Delete(CLIP, 1, (0, 0)), Delete(CLIP, 1, (3, 3))])  # both on 1, 2, 4 and 5
    export(str(run), str(tmp_path / "out"), "labelme", every=2, revision="latest")
    other = {1: 2, 2: 1, 1203: 1203}
    for frame in (2, 4):
        Files(tmp_path / "out").change(frame, lambda shapes: [s | {"group_id": other[s["group_id"]]} for s in shapes])
    before = rows(run)
    assert import_labels(str(run), str(tmp_path / "out"), "labelme").clips == {CLIP: {"swap": 1}}
    after = rows(run)
    assert before.keys() == after.keys()
    for frame in (1, 2, 4, 5):
        assert {**after[frame, 1], "object_id": 2} == before[frame, 2]


def test_what_happened_on_every_exported_frame_happened_to_the_whole_object(run, tmp_path):
    export(str(run), str(tmp_path / "out"), "labelme", every=2)
    for frame in (0, 2, 4):
        Files(tmp_path / "out").change(
            frame, lambda shapes: [s | {"label": "hoop", "group_id": 9} for s in shapes if s["group_id"] == 1]
        )
    before = rows(run, None)
    done = import_labels(str(run), str(tmp_path / "out"), "labelme")
    assert done.clips == {CLIP: {"delete": 2, "set_id": 1, "rename": 1}}
    after = rows(run)
    assert {i for _, i in after} == {9}
    assert {frame for frame, _ in after} == set(range(FRAMES))
    assert {row["prompt"] for row in after.values()} == {"hoop"}
    assert [row["segmentation"] for row in after.values()] == [before[n, 1]["segmentation"] for n in range(FRAMES)]


def test_what_was_left_out_of_the_export_is_left_alone(run, tmp_path):
    export(str(run), str(tmp_path / "out"), "labelme", min_score=0.7, every=2, names={"ring": "hoop"})
    files = Files(tmp_path / "out")
    files.change(2, lambda shapes: [s for s in shapes if s["group_id"] != 1])
    before = rows(run, None)
    import_labels(str(run), str(tmp_path / "out"), "labelme")
    after = rows(run)
    assert set(before) - set(after) == {(2, 1)}
    assert all(after[key] == before[key] for key in after)


def test_labels_that_the_export_renamed_come_back_under_their_own_names(run, tmp_path):
    export(str(run), str(tmp_path / "out"), "labelme", names={"ring": "hoop", "two words": "bars"})
    drawn = {"shape_type": "polygon", "points": [[50, 50], [60, 50], [60, 60]]}

    def edit(shapes):
        return [
            *({**s, **drawn} if s["group_id"] == 1 else {**s, "label": "hoop"} for s in shapes),
            {**drawn, "label": "hoop", "group_id": None},
            {**drawn, "label": "cone", "group_id": None},
        ]

    Files(tmp_path / "out").change(1, edit)
    import_labels(str(run), str(tmp_path / "out"), "labelme")
    after = rows(run)
    assert [after[1, i]["prompt"] for i in (1, 2)] == ["ring", "ring"]
    assert sorted(r["prompt"] for (frame, i), r in after.items() if frame == 1 and i > 1203) == ["cone", "ring"]


def test_others_changes_since_the_export(run, tmp_path):
    export(str(run), str(tmp_path / "out"), "labelme")
    Edits(RunStore(str(run))).append([Delete(CLIP, 1, (0, 1))], author="ben")
    files = Files(tmp_path / "out")
    files.change(4, lambda shapes: [s for s in shapes if s["group_id"] != 1])
    assert import_labels(str(run), str(tmp_path / "out"), "labelme").revision == 2
    assert {frame for frame, i in rows(run) if i == 1} == {2, 3, 5}
    files.change(1, lambda shapes: [s for s in shapes if s["group_id"] != 1])
    with pytest.raises(EditConflict, match="ben"):
        import_labels(str(run), str(tmp_path / "out"), "labelme")


class TestBadInput:
    def refused(self, run, out, sentence, name="labelme"):
        with pytest.raises(UserError, match=sentence):
            import_labels(str(run), str(out), name)
        assert not (run / "edits").exists()

    @pytest.mark.parametrize(
        ("shape", "sentence"),
        [
            ({"shape_type": "circle", "points": [[0, 0], [5, 5]]}, "is a 'circle' of 2 points; allowed: mask"),
            ({"shape_type": "mask", "points": [[0, 0], [5, 5]], "mask": "AAAA"}, "its mask is not a PNG"),
            (
                {"shape_type": "mask", "points": [[0, 0], [5, 5]], "mask": png(np.ones((200, 9)))},
                "lies outside the image",
            ),
            ({"shape_type": "polygon", "points": [[0, 0], ["x", 5], [3, 3]]}, "its points are not pairs of numbers"),
            ({"shape_type": "polygon", "points": [[0, 0], [1e30, 5], [3, 3]]}, "its points are not positions"),
            ({"shape_type": "polygon", "points": [[0, 0], [9, 0], [3, 3]], "group_id": -4}, "its object id is -4"),
            ({"shape_type": "polygon", "points": [[0, 0], [9, 0], [3, 3]], "label": ""}, "its label is ''"),
        ],
    )
    def test_a_shape(self, run, tmp_path, shape, sentence):
        export(str(run), str(tmp_path / "out"), "labelme")
        Files(tmp_path / "out").change(2, lambda shapes: [*shapes, {"label": "ring", "group_id": None} | shape])
        self.refused(run, tmp_path / "out", r"clip a-clip: a-clip/000002.json, shape \d:? .*" + sentence)

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"segmentation": []}, "its segmentation is empty; allowed: run lengths or polygons"),
            ({"segmentation": [[1, 2, 3]]}, r"a polygon is \[1, 2, 3\]; allowed: x, y of three points"),
            ({"segmentation": [7]}, "a polygon is 7"),
            ({"image_id": [1]}, "no exported image has this image_id"),
            ({"category_id": {}}, "its category_id is {}, which is not"),
            ({"category_id": 77}, "its category_id is 77, which is not"),
        ],
    )
    def test_an_annotation_of_coco(self, run, tmp_path, change, sentence):
        export(str(run), str(tmp_path / "out"), "coco")
        path = tmp_path / "out" / "annotations" / f"{CLIP}.json"
        data = json.loads(path.read_text())
        data["annotations"][0] |= change
        path.write_text(json.dumps(data))
        self.refused(run, tmp_path / "out", f"clip a-clip: annotations/a-clip.json, annotation 1: {sentence}", "coco")

    def test_every_problem_at_once(self, run, tmp_path):
        export(str(run), str(tmp_path / "out"), "labelme")
        (tmp_path / "out" / CLIP / "000001.json").write_text("{")
        (tmp_path / "out" / "empty" / "000002.json").unlink()
        with pytest.raises(UserError) as caught:
            import_labels(str(run), str(tmp_path / "out"), "labelme")
        assert len(caught.value.problems) == 2
        assert not (run / "edits").exists()

    def test_an_export_without_its_sidecars(self, run, tmp_path):
        export(str(run), str(tmp_path / "out"), "labelme")
        for path in (tmp_path / "out" / "sam3ray").iterdir():
            path.unlink()
        self.refused(run, tmp_path / "out", "holds no exported clip: sam3ray/ is empty")

    def test_other_runs_and_formats(self, run, tmp_path):
        (tmp_path / "b").mkdir()
        make_run(tmp_path / "b", ("other",))
        export(str(tmp_path / "b" / "run"), str(tmp_path / "out"), "labelme")
        self.refused(run, tmp_path / "out", "is an export of the run")
        self.refused(run, tmp_path / "out", "was exported as 'labelme', not as 'coco'", "coco")
        self.refused(run, tmp_path / "b", "is not a sam3ray export")
        self.refused(run, tmp_path / "out", "--format yolo: it has no object ids; allowed: coco, ytvis", "yolo")


def test_polygons_are_filled_where_pixel_centres_lie_inside():
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = rng.integers(0, 30, (5, 2)).astype(float)
        inside = filled(points, (30, 30))
        for y, x in rng.integers(0, 30, (40, 2)):
            distance = cv2.pointPolygonTest(points.astype(np.float32) * 8, (8 * x + 4.0, 8 * y + 4.0), True)
            if abs(distance) > 1 and convex(points):
                assert inside[y, x] == (distance > 0)
    assert filled(np.array([[0, 0], [FRAMES, 0], [FRAMES, 2], [0, 2]], float), (4, 8)).sum() == 2 * FRAMES


def convex(points):
    return cv2.isContourConvex(points.astype(np.float32).reshape(-1, 1, 2))
