"""Clips that are not like most: turned, sampled, long, with awkward names."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam3ray.exports import export, import_labels
from sam3ray.masks import encode_masks
from sam3ray.store import RunStore
from sam3ray.store.annotation_file import AnnotationWriter
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.values.clip import Clip
from tests.video.media import set_display_matrix, write_video


def row(frame: int, height: int, width: int, label: str = "thing") -> FrameAnnotations:
    mask = np.zeros((height, width), bool)
    mask[4:9, 3 + frame % 10 : 12 + frame % 10] = True
    found = encode_masks(mask[None])[0]
    item = ObjectAnnotation(7, label, 0.9, 0.8, tuple(map(float, found.bbox)), found.area, found.rle)
    return FrameAnnotations(frame, frame * 512, frame / 25, height, width, (item,))


def make(folder: Path, clip: Clip, frames: Iterable[FrameAnnotations], **facts: object) -> str:
    store = RunStore(str(folder / "run"))
    store.create_or_open({"a": 1}, {}, [clip])
    about = {"uri": clip.uri, "source_fps": 25.0, "time_base": "1/12800", **facts}
    with AnnotationWriter(folder / "clip.parquet", clip.clip_id, {"fingerprint": {"a": 1}, "clip": about}) as writer:
        for frame in frames:
            writer.write(frame)
        writer.finish(seconds=1.0)
    assert store.commit(clip.clip_id, folder / "clip.parquet")
    return store.output


def test_a_turned_video(tmp_path):
    """Rows are of the displayed frame, and so are the images."""
    video = tmp_path / "my film.mp4"
    write_video(video, 4, size=(64, 48))
    set_display_matrix(video, "clockwise")
    run = make(tmp_path, Clip("a", str(video), ("thing",)), [row(n, 64, 48) for n in range(4)])
    done = export(run, tmp_path / "out", "labelme", images=True)
    assert done.failed == {}
    for frame in range(4):
        assert cv2.imread(str(tmp_path / "out" / "a" / f"{frame:06d}.jpg")).shape[:2] == (64, 48)
        about = json.loads((tmp_path / "out" / "a" / f"{frame:06d}.json").read_text())
        assert (about["imageHeight"], about["imageWidth"]) == (64, 48)
    assert import_labels(run, tmp_path / "out", "labelme").revision is None


class TestSampled:
    """A clip of which every fifth frame from the tenth on was looked at."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> str:
        clip = Clip("a", "/v.mp4", ("thing",), start_s=0.4, fps=5.0)
        frames = [row(n, 48, 64) for n in range(10, 60, 5)]
        return make(tmp_path, clip, frames, start_s=0.4, fps=5.0, end_s=None)

    def test_frames_are_those_of_the_source(self, run, tmp_path):
        export(run, tmp_path / "coco", "coco")
        images = json.loads((tmp_path / "coco" / "annotations" / "a.json").read_text())["images"]
        assert [image["frame_index"] for image in images] == list(range(10, 60, 5))
        assert [image["time_s"] for image in images] == pytest.approx([n / 25 for n in range(10, 60, 5)])
        export(run, tmp_path / "mot", "mot")
        lines = (tmp_path / "mot" / "a" / "gt" / "gt.txt").read_text().splitlines()
        assert [line.split(",")[0] for line in lines] == [str(n) for n in range(1, 11)]

    @pytest.mark.parametrize(
        ("name", "variant"), [("mot", None), ("cvat", "boxes"), ("labelstudio", "video"), ("davis", None)]
    )
    def test_corrections_find_their_frames(self, run, tmp_path, name, variant):
        export(run, tmp_path / "out", name, variant=variant)
        assert import_labels(run, tmp_path / "out", name).revision is None

    def test_a_box_that_was_moved_lands_on_its_frame(self, run, tmp_path):
        export(run, tmp_path / "out", "mot")
        path = tmp_path / "out" / "a" / "gt" / "gt.txt"
        lines = path.read_text().splitlines()
        lines[3] = "4,7,31,21,10,12,1,1,1"
        path.write_text("\n".join(lines))
        done = import_labels(run, tmp_path / "out", "mot")
        assert done.clips == {"a": {"replace_mask": 1}}
        from sam3ray import read_annotations

        rows = {r["frame_index"]: r["bbox"] for r in read_annotations(run, revision="latest").to_table().to_pylist()}
        assert rows[25] == {"xmin": 30, "ymin": 20, "xmax": 40, "ymax": 32}


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("coco", None),
        ("cvat", "boxes"),
        ("cvat", "masks"),
        ("labelstudio", "video"),
        ("labelme", None),
        ("fiftyone", None),
    ],
)
def test_awkward_names(tmp_path, name, variant):
    """Labels and addresses with spaces, quotes, markup and other alphabets come back as they went."""
    label, uri = '<b>\u5f20\'s "red & blue" car</b>', "/videos/a b & 'c' \u00fc.mp4"
    clip = Clip("a.b-c_1", uri, (label,))
    run = make(tmp_path, clip, [row(n, 48, 64, label) for n in range(3)])
    assert export(run, tmp_path / "out", name, variant=variant).failed == {}
    assert import_labels(run, tmp_path / "out", name).revision is None
    text = "".join(p.read_text() for p in (tmp_path / "out").rglob("*") if p.suffix in (".json", ".xml"))
    assert "\u5f20" in text


class TestLong:
    """Ten thousand frames."""

    FRAMES = 10_000

    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory: pytest.TempPathFactory) -> str:
        some = [row(n, 48, 64) for n in range(10)]
        frames = (FrameAnnotations(n, n * 512, n / 25, 48, 64, some[n % 10].objects) for n in range(self.FRAMES))
        return make(tmp_path_factory.mktemp("long"), Clip("a", "/v.mp4", ("thing",)), frames)

    def test_coco(self, run, tmp_path):
        done = export(run, tmp_path, "coco")
        assert (done.frames, done.rows, done.failed) == (self.FRAMES, self.FRAMES, {})
        data = json.loads((tmp_path / "annotations" / "a.json").read_text())
        assert len({image["id"] for image in data["images"]}) == self.FRAMES
        assert data["images"][-1]["file_name"] == "a/009999.jpg"

    def test_boxes_are_thinned(self, run, tmp_path):
        export(run, tmp_path, "cvat")
        boxes = list(ET.parse(tmp_path / "a.xml").getroot().iter("box"))
        assert len(boxes) == 2 * self.FRAMES // 10  # both ends of each ramp
        assert import_labels(run, tmp_path, "cvat").revision is None
