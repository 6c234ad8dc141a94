"""Exports as their readers see them."""

from __future__ import annotations

import base64
import configparser
import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from sam3ray.exports import FORMATS, export, read_names
from sam3ray.failures import UserError
from tests.exports.labels import FRAMES, HEIGHT, WIDTH, annotations, make_run, mask_of

CLIP = "a-clip"
ALL = [(name, variant) for name, variants in FORMATS.items() for variant in variants]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    make_run(folder)
    return folder / "run"


def rows():
    for frame in annotations():
        for item in frame.objects:
            yield frame.frame_index, item, mask_of(item.object_id, frame.frame_index)


class TestEveryFormat:
    @pytest.mark.parametrize(("name", "variant"), ALL)
    def test_again_changes_nothing(self, run, tmp_path, name, variant):
        first = export(str(run), str(tmp_path), name, variant=variant or None)
        assert (first.failed, first.clips, first.already) == ({}, 2, 0)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert {path.name for path in before} >= {"export.json", "a-clip.json", "empty.json"}
        again = export(str(run), str(tmp_path), name, variant=variant or None)
        assert (again.clips, again.already) == (0, 2)
        assert (again.rows, again.lost) == (first.rows, first.lost)
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def test_several_processes_write_the_same_files(self, run, tmp_path):
        one, two = tmp_path / "one", tmp_path / "two"
        export(str(run), str(one), "davis")
        export(str(run), str(two), "davis", workers=2)
        files = {path.relative_to(one): path.read_bytes() for path in one.rglob("*") if path.is_file()}
        assert files == {path.relative_to(two): path.read_bytes() for path in two.rglob("*") if path.is_file()}

    def test_goes_on_where_a_call_was_cut_off(self, run, tmp_path):
        export(str(run), str(tmp_path / "whole"), "labelme")
        export(str(run), str(tmp_path / "part"), "labelme")
        (tmp_path / "part" / "sam3ray" / "a-clip.json").unlink()
        (tmp_path / "part" / CLIP / "000003.json").unlink()
        again = export(str(run), str(tmp_path / "part"), "labelme")
        assert (again.clips, again.already) == (1, 1)
        for path in (tmp_path / "whole").rglob("*.json"):
            assert path.read_bytes() == (tmp_path / "part" / path.relative_to(tmp_path / "whole")).read_bytes()


class TestRefusals:
    def test_another_export_is_there(self, run, tmp_path):
        export(str(run), str(tmp_path / "out"), "coco")
        with pytest.raises(UserError, match=r"holds another export .*format 'coco' there, 'mot' here"):
            export(str(run), str(tmp_path / "out"), "mot")
        with pytest.raises(UserError, match="holds another export"):
            export(str(run), str(tmp_path / "out"), "coco", min_score=0.5)

    def test_a_folder_with_other_files(self, run, tmp_path):
        (tmp_path / "mine.txt").write_text("precious")
        with pytest.raises(UserError, match="not empty and holds no export"):
            export(str(run), str(tmp_path), "coco")
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"format": "coko"}, "--format coko: allowed: coco, "),
            ({"format": "mots", "variant": "x"}, "--variant x of mots: allowed: challenge, kitti, png"),
            ({"format": "coco", "variant": "x"}, "this format has no variants"),
            ({"format": "coco", "every": 0}, "--every 0: allowed: whole numbers from 1"),
            ({"format": "coco", "every": 1.5}, "--every 1.5: allowed: whole numbers from 1"),
            ({"format": "coco", "min_score": 2}, "--min-score 2: allowed: 0 to 1"),
            ({"format": "coco", "min_score": "x"}, "--min-score x: allowed: 0 to 1"),
            ({"format": "coco", "clips": ["other"]}, "--clips other: the run has no such clip"),
            (
                {"format": "coco", "prompts": ["rings"]},
                "--prompts rings: the run has no such label; allowed: absent, ring",
            ),
            (
                {"format": "mot", "names": {"ring": "two\nlines"}},
                "label 'ring': its new name .* with a control character",
            ),
            ({"format": "cvat", "images": True}, r"--images: cvat \(boxes\) reads no images"),
        ],
    )
    def test_arguments(self, run, tmp_path, options, sentence):
        with pytest.raises(UserError, match=sentence):
            export(str(run), str(tmp_path / "out"), **options)
        assert not (tmp_path / "out").exists()

    def test_a_folder_inside_the_run(self, run):
        with pytest.raises(UserError, match="is inside the run"):
            export(str(run), run / "exports" / "coco", "coco")
        assert not (run / "exports").exists()

    def test_a_place_that_other_processes_do_not_see(self, run):
        with pytest.raises(UserError, match="exists only within one process"):
            export(str(run), "memory://labels", "coco", workers=2)

    def test_only_what_differs_is_named(self, run, tmp_path):
        export(str(run), tmp_path / "out", "coco", clips=["empty"], every=2)
        with pytest.raises(UserError, match=r"another export \(every 2 there, 3 here\)"):
            export(str(run), tmp_path / "out", "coco", clips=["empty"], every=3)

    def test_no_run(self, tmp_path):
        with pytest.raises(UserError, match="there is no run"):
            export(str(tmp_path), str(tmp_path / "out"), "coco")


class TestCoco:
    def test_pycocotools_reads_every_mask(self, run, tmp_path):
        export(str(run), str(tmp_path), "coco")
        data = COCO(str(tmp_path / "annotations" / f"{CLIP}.json"))
        assert len(data.getImgIds()) == FRAMES
        found = {(each["image_id"], each["track_id"]): each for each in data.loadAnns(data.getAnnIds())}
        assert len(found) == len(list(rows()))
        for frame, item, mask in rows():
            each = found[frame + 1, item.object_id]
            np.testing.assert_array_equal(data.annToMask(each).astype(bool), mask)
            assert each["area"] == mask.sum()
            assert each["bbox"] == coco_masks.toBbox(coco_masks.encode(np.asfortranarray(mask, np.uint8))).tolist()
            assert each["attributes"]["score"] == pytest.approx(item.score)
        assert [c["name"] for c in data.loadCats(data.getCatIds())] == ["ring", "two words", "absent"]

    def test_ids_do_not_depend_on_what_else_is_exported(self, run, tmp_path):
        export(str(run), str(tmp_path / "all"), "coco")
        export(str(run), str(tmp_path / "one"), "coco", clips=["empty"])
        name = "annotations/empty.json"
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
        images = json.loads((tmp_path / "all" / name).read_text())["images"]
        assert images[0]["id"] == 10_000_001

    def test_choice(self, run, tmp_path):
        names = {"two words": "bars", "rign": "circle"}
        prompts = ["ring", "two words"]
        done = export(str(run), str(tmp_path), "coco", min_score=0.7, every=2, names=names, prompts=prompts)
        assert done.unknown_names == ("rign",)
        data = json.loads((tmp_path / "annotations" / f"{CLIP}.json").read_text())
        assert [image["frame_index"] for image in data["images"]] == [0, 2, 4]
        assert {each["track_id"] for each in data["annotations"]} == {1, 1203}
        assert [each["name"] for each in data["categories"]] == ["ring", "bars"]


class TestYouTubeVis:
    def test_a_track_has_an_entry_for_every_frame(self, run, tmp_path):
        export(str(run), str(tmp_path), "ytvis")
        data = json.loads((tmp_path / "annotations" / f"{CLIP}.json").read_text())
        (video,) = data["videos"]
        assert video["length"] == FRAMES == len(video["file_names"])
        tracks = {each["track_id"]: each for each in data["annotations"]}
        assert sorted(tracks) == [1, 2, 1203]
        for object_id, track in tracks.items():
            for frame, segmentation in enumerate(track["segmentations"]):
                mask = mask_of(object_id, frame)
                assert (segmentation is None) == (mask is None)
                if mask is not None:
                    assert isinstance(segmentation["counts"], list)
                    runs = coco_masks.frPyObjects(segmentation, HEIGHT, WIDTH)
                    np.testing.assert_array_equal(coco_masks.decode(runs).astype(bool), mask)

    def test_saco_has_pairs_for_absent_phrases(self, run, tmp_path):
        export(str(run), str(tmp_path), "saco")
        data = json.loads((tmp_path / "annotations" / f"{CLIP}.json").read_text())
        assert {pair["noun_phrase"]: pair["num_masklets"] for pair in data["video_np_pairs"]} == {
            "ring": 2,
            "two words": 1,
            "absent": 0,
        }
        results = json.loads((tmp_path / "results" / f"{CLIP}.json").read_text())
        assert sorted(each["score"] for each in results) == pytest.approx([0.6, 0.75, 0.9])
        first = next(s for s in results[0]["segmentations"] if s)
        assert isinstance(first["counts"], str)


class TestOneObjectPerPixel:
    """The ring scores higher than the block that lies over it, so it keeps its pixels."""

    def expected(self, object_id, frame):
        mask = mask_of(object_id, frame)
        if mask is not None and object_id == 1203:
            mask &= ~mask_of(1, frame)
        return mask

    def test_mots_challenge(self, run, tmp_path):
        done = export(str(run), str(tmp_path), "mots")
        overlap = (mask_of(1, 2) & mask_of(1203, 2)).sum()
        assert done.lost["overlap_pixels"] == overlap > 0
        seen = {}
        for line in (tmp_path / CLIP / "gt" / "gt.txt").read_text().splitlines():
            frame, number, kind, height, width, rle = line.split(" ")
            assert (kind, height, width) == ("2", str(HEIGHT), str(WIDTH))
            seen[int(frame) - 1, int(number)] = coco_masks.decode(
                {"size": [HEIGHT, WIDTH], "counts": rle.encode()}
            ).astype(bool)
        numbers = {1: 2001, 2: 2002, 1203: 2003}
        assert set(seen) == {(frame, numbers[item.object_id]) for frame, item, _ in rows()}
        for frame, item, _ in rows():
            np.testing.assert_array_equal(seen[frame, numbers[item.object_id]], self.expected(item.object_id, frame))
        for frame in range(FRAMES):
            assert sum(mask.astype(int) for (at, _), mask in seen.items() if at == frame).max() <= 1
        info = configparser.ConfigParser()
        info.read(tmp_path / CLIP / "seqinfo.ini")
        assert info["Sequence"]["seqLength"] == str(FRAMES)

    def test_mots_png(self, run, tmp_path):
        export(str(run), str(tmp_path), "mots", variant="png")
        names = (tmp_path / CLIP / "instances" / "labels.txt").read_text().split("\n")
        assert names[:2] == ["ring", "two words"]
        values = {1: 1001, 2: 2001, 1203: 1002}
        for frame, item, _ in rows():
            image = cv2.imread(str(tmp_path / CLIP / "instances" / f"{frame:06d}.png"), cv2.IMREAD_UNCHANGED)
            assert image.dtype == np.uint16
            np.testing.assert_array_equal(image == values[item.object_id], self.expected(item.object_id, frame))

    def test_davis(self, run, tmp_path):
        done = export(str(run), str(tmp_path), "davis")
        assert done.lost["renumbered"] == 1
        for frame, item, _ in rows():
            image = Image.open(tmp_path / "Annotations/480p" / CLIP / f"{frame:05d}.png")
            assert image.mode == "P"
            assert image.getpalette()[3:6] == [128, 0, 0]
            value = {1: 1, 2: 2, 1203: 3}[item.object_id]
            np.testing.assert_array_equal(np.asarray(image) == value, self.expected(item.object_id, frame))
        assert (tmp_path / "ImageSets/2017/val.txt").read_text() == "a-clip\nempty\n"


class TestBoxes:
    def test_mot_counts_from_one(self, run, tmp_path):
        export(str(run), str(tmp_path), "mot")
        lines = [line.split(",") for line in (tmp_path / CLIP / "gt" / "gt.txt").read_text().splitlines()]
        found = {(int(v[0]) - 1, int(v[1])): [int(n) for n in v[2:6]] for v in lines}
        for frame, item, _ in rows():
            xmin, ymin, xmax, ymax = item.bbox
            assert found[frame, item.object_id] == [xmin + 1, ymin + 1, xmax - xmin, ymax - ymin]

    def test_cvat_interpolates_back_to_every_box(self, run, tmp_path):
        export(str(run), str(tmp_path), "cvat")
        tree = ET.parse(tmp_path / f"{CLIP}.xml")
        seen = {}
        for track in tree.getroot().iter("track"):
            boxes = [
                (int(b.get("frame")), b.get("outside") == "1", [float(b.get(k)) for k in ("xtl", "ytl", "xbr", "ybr")])
                for b in track.iter("box")
            ]
            object_id = int(track.find("box/attribute").text)
            seen |= {(frame, object_id): box for frame, box in interpolated(boxes, FRAMES).items()}
        assert set(seen) == {(frame, item.object_id) for frame, item, _ in rows()}
        for frame, item, _ in rows():
            assert np.abs(np.array(seen[frame, item.object_id]) - np.array(item.bbox)).max() <= 0.5

    def test_labelstudio_gaps_are_gaps(self, run, tmp_path):
        export(str(run), str(tmp_path), "labelstudio")
        (task,) = json.loads((tmp_path / "tasks" / f"{CLIP}.json").read_text())
        (prediction,) = task["predictions"]
        regions = {int(each["id"].rpartition("-")[2]): each for each in prediction["result"]}
        sequence = regions[2]["value"]["sequence"]
        # Frames count from 1. It is there on frames 1 and 2, and from 4 on; the last of each stretch ends it.
        assert [(entry["frame"], entry["enabled"]) for entry in sequence] == [
            (2, True),
            (3, False),
            (5, True),
            (6, False),
        ]
        item = next(item for frame, item, _ in rows() if frame == 1 and item.object_id == 2)
        assert sequence[0]["x"] == pytest.approx(100 * item.bbox[0] / WIDTH)
        assert sequence[0]["height"] == pytest.approx(100 * (item.bbox[3] - item.bbox[1]) / HEIGHT)
        config = ET.parse(tmp_path / "config.xml")
        assert {label.get("value") for label in config.getroot().iter("Label")} == {"ring", "two words", "absent"}
        names = {element.get("name") for element in config.getroot()}
        assert {each["from_name"] for each in prediction["result"]} <= names


class TestMasks:
    def test_labelme(self, run, tmp_path):
        export(str(run), str(tmp_path), "labelme")
        for frame, item, mask in rows():
            data = json.loads((tmp_path / CLIP / f"{frame:06d}.json").read_text())
            assert data["imagePath"] == f"{frame:06d}.jpg"
            (shape,) = [each for each in data["shapes"] if each["group_id"] == item.object_id]
            (x0, y0), (x1, y1) = shape["points"]
            part = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))) > 0
            found = np.zeros((HEIGHT, WIDTH), bool)
            found[y0 : y1 + 1, x0 : x1 + 1] = part
            np.testing.assert_array_equal(found, mask)
            assert shape["label"] == item.prompt

    def test_xanylabeling_polygons_are_exact_in_coco_s_rasteriser(self, run, tmp_path):
        export(str(run), str(tmp_path), "xanylabeling")
        for frame, item, mask in rows():
            data = json.loads((tmp_path / CLIP / f"{frame:06d}.json").read_text())
            polygons = [
                [float(v) for point in each["points"] for v in point]
                for each in data["shapes"]
                if each["group_id"] == item.object_id
            ]
            found = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(polygons, HEIGHT, WIDTH)))
            np.testing.assert_array_equal(found.astype(bool), mask)

    def test_cvat_masks(self, run, tmp_path):
        export(str(run), str(tmp_path), "cvat", variant="masks")
        images = {int(i.get("id")): i for i in ET.parse(tmp_path / f"{CLIP}.xml").getroot().iter("image")}
        assert images[3].get("name") == "a-clip/frame_000003.jpg"
        for frame, item, mask in rows():
            (shape,) = [m for m in images[frame].iter("mask") if m.get("group_id") == str(item.object_id)]
            left, top, width, height = (int(shape.get(k)) for k in ("left", "top", "width", "height"))
            runs = [int(v) for v in shape.get("rle").split(",")]
            values = np.concatenate([np.full(n, place % 2 == 1) for place, n in enumerate(runs)])
            found = np.zeros((HEIGHT, WIDTH), bool)
            found[top : top + height, left : left + width] = values.reshape(height, width)
            np.testing.assert_array_equal(found, mask)

    def test_labelstudio_brush(self, run, tmp_path):
        export(str(run), str(tmp_path), "labelstudio", variant="brush")
        tasks = json.loads((tmp_path / "tasks" / f"{CLIP}.json").read_text())
        for frame, item, mask in rows():
            (region,) = [
                each
                for each in tasks[frame]["predictions"][0]["result"]
                if each["meta"]["text"] == [f"object {item.object_id}"]
            ]
            pixels = read_brush(region["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)
            np.testing.assert_array_equal(pixels[:, :, 3] > 0, mask)

    def test_yolo(self, run, tmp_path):
        export(str(run), str(tmp_path), "yolo")
        overlaps = []
        for frame, objects in ((f.frame_index, f.objects) for f in annotations()):
            for label in {item.prompt for item in objects}:
                found = np.zeros((HEIGHT, WIDTH), np.uint8)
                for line in (tmp_path / "labels" / CLIP / f"{frame:06d}.txt").read_text().splitlines():
                    number, *values = line.split(" ")
                    if ("ring", "two words", "absent")[int(number)] == label:
                        points = np.array(values, float).reshape(-1, 2) * [WIDTH, HEIGHT]
                        cv2.fillPoly(found, [points.astype(np.int32)], 1)  # as Ultralytics does
                true = np.any([mask_of(i.object_id, frame) for i in objects if i.prompt == label], axis=0)
                overlaps.append((found.astype(bool) & true).sum() / (found.astype(bool) | true).sum())
        assert min(overlaps) > 0.95
        about = (tmp_path / "data.yaml").read_text()
        assert 'names:\n  0: "ring"\n  1: "two words"' in about
        assert "path:" not in about  # Ultralytics then looks beside the file, wherever it is started

    def test_sav(self, run, tmp_path):
        export(str(run), str(tmp_path), "sav")
        data = json.loads((tmp_path / f"{CLIP}_auto.json").read_text())
        assert data["masklet_num"] == 3
        assert data["masklet_first_appeared_frame"] == [0, 1, 2]
        assert data["masklet_visibility_changes"] == [0, 2, 1]
        for frame in range(FRAMES):
            for place, object_id in enumerate((1, 2, 1203)):
                rle = data["masklet"][frame][place]
                mask = mask_of(object_id, frame)
                found = coco_masks.decode(rle).astype(bool)
                np.testing.assert_array_equal(found, np.zeros_like(found) if mask is None else mask)


def interpolated(boxes, count):
    """As CVAT does: linear between keyframes, nothing from an outside box on; the last one stays to the end."""
    seen = {}
    for n, (frame, outside, box) in enumerate(boxes):
        stop, after = (boxes[n + 1][0], boxes[n + 1]) if n + 1 < len(boxes) else (count, None)
        if outside:
            continue
        for t in range(frame, stop):
            share = (t - frame) / (stop - frame) if after is not None and not after[1] else 0
            seen[t] = [a + share * (b - a) for a, b in zip(box, (after or (0, 0, box))[2], strict=True)]
    return seen


def read_brush(rle):
    """Label Studio's decoder, from its description."""
    bits = "".join(f"{value:08b}" for value in rle)
    at = 0

    def take(count):
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    size, word = take(32), take(5) + 1
    widths = [take(4) + 1 for _ in range(4)]
    out: list[int] = []
    while len(out) < size:
        repeated = take(1)
        length = take(widths[take(2)]) + 1
        out += [take(word)] * length if repeated else [take(word) for _ in range(length)]
    return np.array(out, np.uint8)


def test_images_lie_where_the_labels_say(tmp_path):
    from fractions import Fraction

    from sam3ray.video import VideoWriter

    video = tmp_path / "video.mp4"
    with VideoWriter(video, WIDTH, HEIGHT, Fraction(1, 25), Fraction(25)) as writer:
        for index in range(FRAMES):
            writer.write(np.full((HEIGHT, WIDTH, 3), 40 * index, np.uint8), index)
    make_run(tmp_path, ("a-clip",), {"a-clip": str(video)})
    done = export(str(tmp_path / "run"), str(tmp_path / "out"), "coco", images=True, every=2)
    assert done.failed == {}
    data = json.loads((tmp_path / "out" / "annotations" / "a-clip.json").read_text())
    for image in data["images"]:
        pixels = cv2.imread(str(tmp_path / "out" / "images" / image["file_name"]))
        assert pixels.shape == (HEIGHT, WIDTH, 3)
        assert abs(float(pixels.mean()) - 40 * image["frame_index"]) < 6
    assert len(list((tmp_path / "out" / "images").rglob("*.jpg"))) == len(data["images"]) == 3


def test_a_revision_is_exported(tmp_path):
    from sam3ray.revisions import Delete, Edits, Rename
    from sam3ray.store import RunStore

    make_run(tmp_path)
    run = str(tmp_path / "run")
    Edits(RunStore(run)).append([Rename(CLIP, 1, "hoop"), Delete(CLIP, 2)])
    for revision, ids, labels in (
        (None, {1, 2, 1203}, ["ring", "two words", "absent"]),
        ("latest", {1, 1203}, ["ring", "two words", "absent", "hoop"]),
    ):
        to = tmp_path / str(revision)
        export(run, str(to), "coco", revision=revision, workers=2)
        data = json.loads((to / "annotations" / f"{CLIP}.json").read_text())
        assert {each["track_id"] for each in data["annotations"]} == ids
        assert [each["name"] for each in data["categories"]] == labels
    hoop = [each for each in data["annotations"] if each["category_id"] == 4]
    assert {each["track_id"] for each in hoop} == {1}
    with pytest.raises(UserError, match=r"holds another export .*revision 0 there, 1 here"):
        export(run, str(tmp_path / "None"), "coco", revision=1)


@pytest.mark.parametrize(
    ("name", "variant", "expected"),
    [
        ("davis", None, [1, 2, 3]),
        ("mots", "challenge", [2001, 2002, 2003]),
        ("mots", "png", [1001, 2001, 1002]),
        ("coco", None, [None] * 3),
    ],
)
def test_the_map_of_new_numbers_is_in_the_sidecar(run, tmp_path, name, variant, expected):
    export(str(run), tmp_path, name, variant=variant, clips=[CLIP])
    objects = json.loads((tmp_path / "sam3ray" / f"{CLIP}.json").read_text())["objects"]
    assert [each["object_id"] for each in objects] == [1, 2, 1203]
    assert [each.get("exported_id") for each in objects] == expected


def test_a_label_file_may_escape_characters_and_holds_no_halves(tmp_path: Path) -> None:
    for name in ("names.yaml", "names.json"):
        path = tmp_path / name
        path.write_text('{"cup": "\\ud83d\\ude00"}')
        assert read_names(str(path)) == {"cup": "\U0001f600"}
        path.write_text('{"cup": "\\ud83d"}')
        with pytest.raises(UserError, match=f"{name} has half of a surrogate pair"):
            read_names(str(path))
