"""Every format whose corrections come back: unchanged it changes nothing, changed it changes just that."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam3ray import read_annotations
from sam3ray.exports import READERS, export, import_labels
from sam3ray.exports._reading_labelstudio import brush_mask
from sam3ray.exports.fiftyone import packed
from sam3ray.exports.labelstudio import brush_rle
from sam3ray.failures import UserError
from sam3ray.masks import decode_rle, encode_masks
from sam3ray.revisions import Edits
from sam3ray.store import RunStore
from tests.exports.labels import FRAMES, HEIGHT, WIDTH, make_run, mask_of

CLIP = "a-clip"
ALL = [(name, variant) for name, variants in READERS.items() for variant in variants]
BLOCK = np.zeros((HEIGHT, WIDTH), bool)
BLOCK[2:12, 100:120] = True


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    make_run(folder)
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("copy") / "run"))


def rows(run: Path, revision: Any = "latest") -> dict[tuple[int, int], dict[str, Any]]:
    table = read_annotations(str(run), revision=revision).to_table().to_pylist()
    return {(r["frame_index"], r["object_id"]): r for r in table if r["clip_id"] == CLIP}


def mask(row: dict[str, Any]) -> np.ndarray:
    return decode_rle(row["segmentation"]["counts"], HEIGHT, WIDTH)


def changed_json(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_what_nobody_changed_changes_nothing(run, tmp_path, name, variant):
    export(str(run), str(tmp_path / "out"), name, variant=variant or None)
    assert import_labels(str(run), str(tmp_path / "out"), name).revision is None
    assert not (run / "edits").exists()


def changed(run: Path, before: dict[tuple[int, int], Any]) -> set[tuple[int, int]]:
    """Rows that differ from those before, came or went."""
    after = rows(run)
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


class TestMasks:
    """One mask drawn anew, one object deleted on one frame."""

    def check(self, run, out, name):
        before = rows(run, None)
        done = import_labels(str(run), str(out), name)
        assert done.clips == {CLIP: {"delete": 1, "replace_mask": 1}}
        assert changed(run, before) == {(4, 1), (5, 2)}
        assert mask(rows(run)[4, 1]).tolist() == BLOCK.tolist()
        assert rows(run)[4, 1]["score"] == 1

    @pytest.mark.parametrize("name", ["ytvis", "saco"])
    def test_vis(self, run, tmp_path, name):
        export(str(run), str(tmp_path), name)

        def change(value):
            one, two, _ = value["annotations"]
            one["segmentations"][4] = {"size": [HEIGHT, WIDTH], "counts": encode_masks(BLOCK[None])[0].rle}
            two["segmentations"][5] = None

        changed_json(tmp_path / "annotations" / f"{CLIP}.json", change)
        self.check(run, tmp_path, name)

    def test_sav(self, run, tmp_path):
        export(str(run), str(tmp_path), "sav")

        def change(value):
            value["masklet"][4][0]["counts"] = encode_masks(BLOCK[None])[0].rle
            value["masklet"][5][1]["counts"] = encode_masks(np.zeros((1, HEIGHT, WIDTH), bool))[0].rle

        changed_json(tmp_path / f"{CLIP}_auto.json", change)
        self.check(run, tmp_path, "sav")

    def test_davis(self, run, tmp_path):
        export(str(run), str(tmp_path), "davis")
        for place, edit in ((4, lambda v: np.where(v == 1, 0, v) + BLOCK), (5, lambda v: np.where(v == 2, 0, v))):
            path = tmp_path / "Annotations" / "480p" / CLIP / f"{place:05d}.png"
            Image.fromarray(edit(np.asarray(Image.open(path))).astype(np.uint8)).save(path)
        self.check(run, tmp_path, "davis")

    def test_a_new_object_of_davis_has_no_label_of_another(self, run, tmp_path):
        export(str(run), str(tmp_path), "davis")
        path = tmp_path / "Annotations" / "480p" / CLIP / "00000.png"
        Image.fromarray(np.where(BLOCK, 77, np.asarray(Image.open(path))).astype(np.uint8)).save(path)
        import_labels(str(run), str(tmp_path), "davis")
        assert rows(run)[0, 1204]["prompt"] == "object"

    def test_mots_png(self, run, tmp_path):
        export(str(run), str(tmp_path), "mots", variant="png")
        for frame, edit in (
            (4, lambda v: np.where(v == 1001, 0, v) + 1001 * BLOCK),
            (5, lambda v: np.where(v == 2001, 0, v)),
        ):
            path = tmp_path / CLIP / "instances" / f"{frame:06d}.png"
            Image.fromarray(edit(np.asarray(Image.open(path))).astype(np.uint16)).save(path)
        self.check(run, tmp_path, "mots")

    @pytest.mark.parametrize(
        ("variant", "path", "first"), [("challenge", f"{CLIP}/gt/gt.txt", 1), ("kitti", "instances_txt/0000.txt", 0)]
    )
    def test_mots_text(self, run, tmp_path, variant, path, first):
        export(str(run), str(tmp_path), "mots", variant=variant)
        lines = (tmp_path / path).read_text().splitlines()
        kept = []
        for line in lines:
            frame, number, *rest = line.split()
            if (int(frame) - first, number) == (5, "2002"):
                continue
            if (int(frame) - first, number) == (4, "2001"):
                rest[-1] = encode_masks(BLOCK[None])[0].rle
            kept.append(" ".join([frame, number, *rest]))
        (tmp_path / path).write_text("\n".join(kept))
        self.check(run, tmp_path, "mots")

    def test_fiftyone_in_its_own_files_and_as_it_exports_itself(self, run, tmp_path):
        for name, again in (("one", False), ("two", True)):
            out = tmp_path / name
            export(str(run), str(out), "fiftyone")
            frames = json.loads((out / "frames" / f"{CLIP}.json").read_text())["frames"]
            drawn = frames["5"]["detections"]["detections"][0]
            drawn["mask"]["$binary"]["base64"] = packed(np.ones((10, 20), bool))
            drawn["bounding_box"] = [100 / WIDTH, 2 / HEIGHT, 20 / WIDTH, 10 / HEIGHT]
            del frames["6"]["detections"]["detections"][1]
            if again:
                samples = [{"_id": {"$oid": "a"}, "clip_id": CLIP}, {"_id": {"$oid": "b"}, "clip_id": "empty"}]
                (out / "corrected").mkdir()
                (out / "corrected" / "samples.json").write_text(json.dumps({"samples": samples}))
                found = [frame | {"_sample_id": {"$oid": "a"}} for frame in frames.values()]
                (out / "corrected" / "frames.json").write_text(json.dumps({"frames": found}))
            else:
                (out / "frames" / f"{CLIP}.json").write_text(json.dumps({"frames": frames}))
            self.check(run, out, "fiftyone")
            shutil.rmtree(run / "edits")

    def test_cvat(self, run, tmp_path):
        export(str(run), str(tmp_path), "cvat", variant="masks")
        tree = ET.parse(tmp_path / f"{CLIP}.xml")
        images = {int(image.get("name")[-10:-4]): image for image in tree.getroot().iter("image")}
        drawn = images[4].find("mask")
        drawn.attrib |= {"left": "100", "top": "2", "width": "20", "height": "10", "rle": "0, 200"}
        images[5].remove(images[5].findall("mask")[1])
        tree.write(tmp_path / f"{CLIP}.xml")
        self.check(run, tmp_path, "cvat")

    def test_labelstudio_brush_as_its_server_exports_it(self, run, tmp_path):
        export(str(run), str(tmp_path), "labelstudio", variant="brush")
        tasks = json.loads((tmp_path / "tasks" / f"{CLIP}.json").read_text())
        exported = []
        for task in tasks:
            result = task["predictions"][0]["result"]
            if task["data"]["frame_index"] == 4:
                result[0]["value"]["rle"] = brush_rle(BLOCK)
            if task["data"]["frame_index"] == 5:
                result.pop()
            done = [{"result": result, "was_cancelled": False}, {"result": [], "was_cancelled": True}]
            exported.append({"id": len(exported), "data": task["data"], "annotations": done})
        (tmp_path / "corrected").mkdir()
        (tmp_path / "corrected" / "project-1-at-noon.json").write_text(json.dumps(exported))
        self.check(run, tmp_path, "labelstudio")


class TestBoxes:
    """One box moved on frame 4 and one object deleted from frame 5 on; the others stay within half a pixel."""

    MOVED = (30.0, 10.0, 62.0, 52.0)

    def check(self, run, out, name, also=frozenset()):
        before = rows(run, None)
        import_labels(str(run), str(out), name)
        assert changed(run, before) == {(4, 1), (5, 2)} | also
        moved = rows(run)[4, 1]
        assert tuple(moved["bbox"].values()) == self.MOVED
        assert 0 < moved["area"] < 32 * 42  # the ring, stretched
        edits = Edits(RunStore(str(run)))
        given = edits.marks(edits.operations(1)[CLIP]).set_rows[1]
        (prompt,) = given[4]
        assert prompt.box == self.MOVED
        assert set(given) == {4}
        # Once more: what came back is what is there.
        again = out.parent / "again"
        variant = json.loads((out / "export.json").read_text())["variant"]
        export(str(run), str(again), name, variant=variant or None, revision="latest")
        assert import_labels(str(run), str(again), name).revision is None

    def test_mot(self, run, tmp_path):
        out = tmp_path / "out"
        export(str(run), str(out), "mot")
        kept = []
        for line in (out / CLIP / "gt" / "gt.txt").read_text().splitlines():
            parts = line.split(",")
            if parts[:2] == ["6", "2"]:
                continue
            kept.append("5,1,31,11,32,42,1,1,1" if parts[:2] == ["5", "1"] else line)
        (out / CLIP / "gt" / "gt.txt").write_text("\n".join(kept))
        self.check(run, out, "mot")

    def test_cvat_as_it_exports_itself(self, run, tmp_path):
        """With every frame's box, those between keyframes marked so."""
        out = tmp_path / "out"
        export(str(run), str(out), "cvat", variant="boxes")
        tree = ET.parse(out / f"{CLIP}.xml")
        one, two, _ = tree.getroot().iter("track")
        for box in list(one):
            one.remove(box)
        for frame in range(FRAMES):
            xmin, ymin, xmax, ymax = (20 + frame, 21, 60 + frame, 60) if frame != 4 else self.MOVED
            corners = {"xtl": xmin, "ytl": ymin, "xbr": xmax, "ybr": ymax}
            row = rows(run, None)[frame, 1]["bbox"]
            if frame != 4:
                corners = dict(zip(corners, row.values(), strict=True))
            attributes = {k: str(v) for k, v in corners.items()}
            box = ET.SubElement(
                one,
                "box",
                {"frame": str(frame), "outside": "0", "keyframe": str(int(frame in (0, 3, 4, 5))), **attributes},
            )
            ET.SubElement(box, "attribute", {"name": "object_id"}).text = "1"
        for box in list(two):
            if box.get("frame") == "5":
                box.set("outside", "1")
        tree.write(out / f"{CLIP}.xml")
        self.check(run, out, "cvat")

    def test_label_studio(self, run, tmp_path):
        out = tmp_path / "out"
        export(str(run), str(out), "labelstudio", variant="video")
        (task,) = json.loads((out / "tasks" / f"{CLIP}.json").read_text())
        result = task["predictions"][0]["result"]
        one, two, _ = (region["value"] for region in result)
        boxes = {frame: rows(run, None)[frame, 1]["bbox"] for frame in range(FRAMES)}
        boxes[4] = dict(zip(("xmin", "ymin", "xmax", "ymax"), self.MOVED, strict=True))
        one["sequence"] = [
            {
                "frame": frame + 1,
                "x": 100 * b["xmin"] / WIDTH,
                "y": 100 * b["ymin"] / HEIGHT,
                "width": 100 * (b["xmax"] - b["xmin"]) / WIDTH,
                "height": 100 * (b["ymax"] - b["ymin"]) / HEIGHT,
                "enabled": True,
            }
            for frame, b in boxes.items()
        ]
        two["sequence"] = [each for each in two["sequence"] if each["frame"] != 6]
        two["sequence"][-1]["enabled"] = False
        exported = [{"data": task["data"], "annotations": [{"result": result}]}]
        (out / "corrected").mkdir()
        (out / "corrected" / "p.json").write_text(json.dumps(exported))
        self.check(run, out, "labelstudio")

    def test_a_new_box_is_a_new_object(self, run, tmp_path):
        out = tmp_path / "out"
        export(str(run), str(out), "cvat", variant="boxes")
        tree = ET.parse(out / f"{CLIP}.xml")
        track = ET.SubElement(tree.getroot(), "track", {"id": "9", "label": "ring"})
        for frame, outside in ((1, "0"), (3, "0"), (4, "1")):
            ET.SubElement(
                track,
                "box",
                {"frame": str(frame), "outside": outside, "xtl": "90", "ytl": str(frame), "xbr": "99", "ybr": "20"},
            )
        tree.write(out / f"{CLIP}.xml")
        done = import_labels(str(run), str(out), "cvat")
        assert done.clips == {CLIP: {"add": 1, "replace_mask": 1}}
        new = {key: row for key, row in rows(run).items() if key[1] == 1204}
        assert sorted(new) == [(1, 1204), (2, 1204), (3, 1204)]
        assert new[2, 1204]["bbox"]["ymin"] == 2
        edits = Edits(RunStore(str(run)))
        assert sorted(edits.marks(edits.operations(1)[CLIP]).set_rows[1204]) == [1, 3]


class TestWhatWasLeftOut:
    def test_a_new_object_gets_an_id_of_its_own(self, run, tmp_path):
        """Object 1203 was not exported; the new one must not become part of it."""
        export(str(run), str(tmp_path), "labelme", prompts=["two words"])
        path = tmp_path / CLIP / "000002.json"

        def change(value):
            value["shapes"].append({"label": "two words", "shape_type": "rectangle", "points": [[3, 3], [9, 9]]})

        changed_json(path, change)
        import_labels(str(run), str(tmp_path), "labelme")
        assert {number for _, number in rows(run)} == {1, 2, 1203, 1204}

    def test_the_id_of_another_object_is_refused(self, run, tmp_path):
        export(str(run), str(tmp_path), "labelme", prompts=["two words"])
        path = tmp_path / CLIP / "000002.json"

        def change(value):
            value["shapes"][0]["group_id"] = 1203

        changed_json(path, change)
        with pytest.raises(UserError, match="object 1203 is another object of the clip, which this export omitted"):
            import_labels(str(run), str(tmp_path), "labelme")
        assert not (run / "edits").exists()

    def test_tasks_that_nobody_looked_at_stay_as_they_are(self, run, tmp_path):
        export(str(run), str(tmp_path), "labelstudio", variant="brush")
        tasks = json.loads((tmp_path / "tasks" / f"{CLIP}.json").read_text())
        (tmp_path / "corrected").mkdir()
        done = [
            {"data": tasks[3]["data"], "annotations": [{"result": []}]},
            {"data": tasks[4]["data"], "annotations": []},
        ]
        (tmp_path / "corrected" / "p.json").write_text(json.dumps(done))
        before = rows(run, None)
        import_labels(str(run), str(tmp_path), "labelstudio")
        assert changed(run, before) == {(3, 1)}

    def test_times_of_frames_that_had_no_rows(self, run, tmp_path):
        export(str(run), str(tmp_path), "labelme", clips=["empty"])
        shape = {"label": "ring", "shape_type": "rectangle", "points": [[3, 3], [9, 9]]}
        changed_json(tmp_path / "empty" / "000003.json", lambda value: value["shapes"].append(shape))
        import_labels(str(run), str(tmp_path), "labelme")
        table = read_annotations(str(run), revision="latest").to_table().to_pylist()
        (row,) = [each for each in table if each["clip_id"] == "empty"]
        assert row["time_s"] == pytest.approx(3 / 25)


DAMAGED = [
    (
        "ytvis",
        "",
        f"annotations/{CLIP}.json",
        lambda t: t.replace('"length"', '"l"').replace("null,", "", 1),
        "entries, and 6 frames",
    ),
    ("ytvis", "", f"annotations/{CLIP}.json", lambda t: t[:200], "is not JSON"),
    (
        "sav",
        "",
        f"{CLIP}_auto.json",
        lambda t: t.replace('"masklet_id":[0,1', '"masklet_id":[0,"x"'),
        "allowed: whole numbers",
    ),
    ("davis", "", f"Annotations/480p/{CLIP}/00002.png", lambda t: "no PNG", "is not a PNG"),
    (
        "mots",
        "challenge",
        f"{CLIP}/gt/gt.txt",
        lambda t: t.replace(" 96 128 ", " 95 128 ", 1),
        "line 1: frame 1 of 128x95 pixels",
    ),
    ("mots", "challenge", f"{CLIP}/gt/gt.txt", lambda t: t + t.splitlines()[0], "appears twice"),
    ("mots", "challenge", f"{CLIP}/gt/gt.txt", lambda t: "1 2 3", "line 1 is '1 2 3'; allowed: frame, id, class"),
    ("mot", "", f"{CLIP}/gt/gt.txt", lambda t: "1,2,a", "line 1 is '1,2,a'; allowed: frame, id, x, y"),
    ("mot", "", f"{CLIP}/gt/gt.txt", lambda t: t + "1,nan,1,1,4,4,1,1,1", "line 12"),
    ("mot", "", f"{CLIP}/gt/gt.txt", lambda t: t + "99,1,1,1,4,4,1,1,1", "frame 99 was not exported"),
    ("mot", "", f"{CLIP}/gt/gt.txt", lambda t: t + "1,9,1,1,4,4,1,77,1", "class 77"),
    ("mot", "", f"{CLIP}/gt/gt.txt", lambda t: t + "1,9,1,1,inf,4,1,1,1", "is not a box in an image"),
    (
        "fiftyone",
        "",
        f"frames/{CLIP}.json",
        lambda t: t.replace('"base64":"', '"base64":"A', 1),
        "not an array of pixels",
    ),
    ("fiftyone", "", f"frames/{CLIP}.json", lambda t: t.replace('{"1":', '{"99":', 1), "frame 99 was not exported"),
    ("cvat", "boxes", f"{CLIP}.xml", lambda t: "<!DOCTYPE x>" + t, "document type"),
    ("cvat", "boxes", f"{CLIP}.xml", lambda t: t[:-20], "is not XML"),
    ("cvat", "boxes", f"{CLIP}.xml", lambda t: t.replace('xbr="', 'xbr="-', 1), "allowed: a box"),
    (
        "cvat",
        "boxes",
        f"{CLIP}.xml",
        lambda t: t.replace('name="object_id">1<', 'name="object_id">one<'),
        "allowed: whole numbers",
    ),
    ("cvat", "masks", f"{CLIP}.xml", lambda t: t.replace('rle="', 'rle="7, ', 1), "run lengths do not fill"),
    ("cvat", "masks", f"{CLIP}.xml", lambda t: t.replace("frame_000003", "frame_000099"), "not an exported frame"),
    (
        "labelstudio",
        "video",
        f"tasks/{CLIP}.json",
        lambda t: t.replace('"frame":1,', '"frame":0,', 1),
        "frames count from 1",
    ),
    (
        "labelstudio",
        "brush",
        f"tasks/{CLIP}.json",
        lambda t: t.replace('"original_width":128', '"original_width":64', 1),
        "has 64x96 pixels",
    ),
    ("labelstudio", "brush", f"tasks/{CLIP}.json", lambda t: t.replace('"rle":[0,', '"rle":[1,', 1), "run lengths"),
]


@pytest.mark.parametrize(("name", "variant", "path", "damage", "sentence"), DAMAGED)
def test_damage_is_a_sentence_and_writes_nothing(run, tmp_path, name, variant, path, damage, sentence):
    export(str(run), str(tmp_path), name, variant=variant or None)
    text = (tmp_path / path).read_bytes()
    (tmp_path / path).write_text(damage(text.decode("latin-1")))
    with pytest.raises(UserError) as caught:
        import_labels(str(run), str(tmp_path), name)
    assert sentence in str(caught.value)
    assert not (run / "edits").exists()


@pytest.mark.parametrize("frame", range(FRAMES))
def test_brush_masks_come_back_exactly(frame):
    for object_id in (1, 2, 1203):
        mask = mask_of(object_id, frame)
        if mask is not None:
            assert (brush_mask(brush_rle(mask), HEIGHT, WIDTH) == mask).all()


@pytest.mark.parametrize(
    "change",
    [
        {"variant": ["masks"]},
        {"variant": "none of ours"},
        {"choice": {"every": 0}},
        {"choice": {"every": float("inf")}},
        {"choice": {"min_score": "x"}},
        {"choice": {"names": {"a": 5}}},
        {"choice": {"prompts": 7}},
    ],
)
def test_a_damaged_identity_is_a_sentence(run, tmp_path, change):
    export(str(run), str(tmp_path), "davis")
    changed_json(tmp_path / "export.json", lambda value: value.update(change))
    with pytest.raises(UserError, match=r"export\.json is (damaged|not JSON)"):
        import_labels(str(run), str(tmp_path), "davis")
    assert not (run / "edits").exists()
