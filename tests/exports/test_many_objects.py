"""More objects than a format has ids for: the first ones are exported, and the others come to no harm."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam3ray import read_annotations
from sam3ray.annotations import AnnotationWriter, FrameAnnotations, ObjectAnnotation
from sam3ray.exports import export, import_labels
from sam3ray.manifest import Clip
from sam3ray.masks import encode_masks
from sam3ray.store import RunStore

HEIGHT, WIDTH = 40, 60


def make_run(folder: Path, count: int) -> Path:
    """One frame of `count` objects, a pixel each; the last lies over the first and has the higher score."""
    store = RunStore(str(folder / "run"))
    store.create_or_open({"schema_version": 1}, {}, [Clip("c", "/c.mp4", ("dot",))])
    objects = []
    for number in range(1, count + 1):
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask.flat[0 if number == count else number - 1] = True
        found = encode_masks(mask[None])[0]
        box = tuple(float(v) for v in found.bbox)
        objects.append(ObjectAnnotation(number, "dot", 0.9 if number == count else 0.5, 1.0, box, 1, found.rle))  # type: ignore[arg-type]
    path = folder / "c.parquet"
    facts = {"uri": "/c.mp4", "source_fps": 25.0, "time_base": "1/25", "height": HEIGHT, "width": WIDTH}
    with AnnotationWriter(path, "c", {"fingerprint": {"schema_version": 1}, "clip": facts}) as writer:
        writer.write(FrameAnnotations(0, 0, 0.0, HEIGHT, WIDTH, tuple(objects)))
        writer.finish(seconds=1.0)
    assert store.commit("c", path)
    return folder / "run"


def image(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize(
    ("format_", "variant", "most", "file", "first"),
    [
        ("davis", None, 254, "Annotations/480p/c/00000.png", 1),
        ("mots", "png", 999, "c/instances/000000.png", 1001),
        ("mots", "challenge", 999, "c/gt/gt.txt", 2001),
        ("mots", "kitti", 999, "instances_txt/0000.txt", 2001),
    ],
)
def test_objects_beyond_the_ids_of_a_format_are_left_out_and_left_alone(
    format_: str, variant: str | None, most: int, file: str, first: int, tmp_path: Path
) -> None:
    run, out = make_run(tmp_path, most + 2), tmp_path / "out"
    done = export(str(run), out, format_, variant=variant)
    assert done.lost["left_out"] == 2  # objects, on however many frames
    assert "overlap_pixels" not in done.lost  # what is left out covers nothing
    if file.endswith(".png"):
        values = image(out / file)
        assert sorted(set(values.flat) - {0}) == list(range(first, first + most))
    else:
        ids = [int(line.split()[1]) for line in (out / file).read_text().splitlines()]
        assert ids == list(range(first, first + most))
    numbers = [each["exported_id"] for each in json.loads((out / "sam3ray" / "c.json").read_text())["objects"]]
    assert numbers == [*range(first, first + most), None, None]

    before = read_annotations(str(run)).to_table().to_pylist()
    assert import_labels(str(run), str(out), format_).clips == {}
    if file.endswith(".png"):
        changed = Image.open(out / file)
        changed.putpixel((most - 1, 0) if most < WIDTH else ((most - 1) % WIDTH, (most - 1) // WIDTH), 0)
        changed.save(out / file)
    else:
        (out / file).write_text("".join((out / file).read_text().splitlines(keepends=True)[:-1]))
    assert import_labels(str(run), str(out), format_).clips == {"c": {"delete": 1}}
    after = read_annotations(str(run), revision="latest").to_table().to_pylist()
    assert after == [row for row in before if row["object_id"] != most]
