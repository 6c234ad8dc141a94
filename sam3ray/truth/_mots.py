"""MOTS: text of KITTI (frames from 0) and of MOTSChallenge (from 1), and PNGs of instances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from sam3ray.truth._images import sized
from sam3ray.truth._values import (
    IGNORED,
    MAX_FRAME,
    Found,
    Reading,
    TrueClip,
    masks_of,
    of_rle,
    phrase,
    size_of,
    true_object,
    whole,
)
from sam3ray.values.annotations import ObjectAnnotation

_CLASSES = {1: "car", 2: "pedestrian"}
_IGNORE = 10
_PER_CLASS = 1000
_REGION_ID = 1_000_000  # ids of ignored regions, one per class
_KITTI_FPS = 10.0


def read_mots(reading: Reading) -> Iterator[Found]:
    """Reads whichever of the three layouts exists."""
    if reading.file is not None:
        yield _stem(reading.file), partial(_kitti_text, reading, _stem(reading.file), reading.file, None)
        return
    folders = reading.folders("")
    challenge = [name for name in folders if reading.storage.exists(f"{name}/gt/gt.txt")]
    if challenge:
        for name in challenge:
            yield name, partial(_challenge, reading, name)
        return
    instances = [name for name in folders if reading.files(f"{name}/instances", ".png")]
    if instances:
        for name in instances:
            yield name, partial(_png_clip, reading, name, f"{name}/instances")
        return
    if "instances" in folders and reading.folders("instances"):
        for name in reading.folders("instances"):
            yield name, partial(_png_clip, reading, name, f"instances/{name}")
        return
    root = "instances_txt" if "instances_txt" in folders else ""
    lengths, names = _seqmap(reading), _our_names(reading)
    found = [name for name in reading.files(root, ".txt") if _stem(name).isdecimal() or root]
    if not found:
        raise ValueError("it has no <sequence>/gt/gt.txt, instances_txt/<sequence>.txt or instances/<sequence>/")
    for file in found:
        stem = _stem(file)
        read = partial(_kitti_text, reading, names.get(stem, stem), f"{root}/{file}".lstrip("/"), lengths.get(stem))
        yield names.get(stem, stem), read


def _stem(file: str) -> str:
    return file.rpartition("/")[2].removesuffix(".txt")


def _seqmap(reading: Reading) -> dict[str, int]:
    """Sequence -> number of frames, from TrackEval's and KITTI's maps: `0002 empty 000000 000233`."""
    lengths = {}
    for file in reading.files("", ".seqmap"):
        for line in (reading.text(file) or "").splitlines():
            parts = line.split()
            if len(parts) == 4 and parts[3].isdecimal() and len(parts[3]) < 9:
                lengths[parts[0]] = int(parts[3])
    return lengths


def _our_names(reading: Reading) -> dict[str, str]:
    """The clip of a numbered sequence, in one of our exports."""
    lines = (reading.text("sequences.txt") or "").splitlines() if reading.storage.exists("export.json") else []
    return {parts[0]: parts[1] for line in lines if len(parts := line.split()) == 2}


def _kitti_text(reading: Reading, name: str, path: str, length: int | None) -> TrueClip:
    return _text_clip(reading, name, path, first=0, length=length, size=None, fps=_KITTI_FPS)


def _challenge(reading: Reading, name: str) -> TrueClip:
    where = f"{name}/seqinfo.ini"
    about = {key: int(text) if text.isdecimal() else text for key, text in reading.ini(where).items()}
    length = whole(about["seqlength"], 0, MAX_FRAME, f"{where}: seqLength") if "seqlength" in about else None
    size = size_of(about, where, ("imheight", "imwidth")) if "imheight" in about else None
    rate = about.get("framerate")
    fps = float(rate) if isinstance(rate, int) and rate else None
    return _text_clip(reading, name, f"{name}/gt/gt.txt", first=1, length=length, size=size, fps=fps)


def _text_clip(
    reading: Reading,
    name: str,
    path: str,
    *,
    first: int,
    length: int | None,
    size: tuple[int, int] | None,
    fps: float | None,
) -> TrueClip:
    text = reading.text(path)
    if text is None:
        raise ValueError(f"{path} is missing")
    by_frame: dict[int, list[ObjectAnnotation]] = {}
    for n, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {n}"
        parts = line.split()
        if len(parts) != 6 or not all(part.isdecimal() and len(part) < 10 for part in parts[:5]):
            raise ValueError(f"{where}: not `frame id class height width rle`")
        frame, number, kind, height, width = map(int, parts[:5])
        if not first <= frame < MAX_FRAME:
            raise ValueError(f"{where}: frame {frame}; allowed: {first} to {MAX_FRAME - 1}")
        size = size or (height, width)
        if size != (height, width):
            raise ValueError(f"{where}: {width}x{height} pixels; the sequence has {size[1]}x{size[0]}")
        mask = of_rle(parts[5], size, where)
        if mask is None:
            continue
        if kind == _IGNORE:
            found = [true_object(_REGION_ID + k, label, mask, IGNORED) for k, label in _CLASSES.items()]
        elif kind in _CLASSES:
            found = [true_object(whole(number, 1, _REGION_ID - 1, f"{where}: the id"), _CLASSES[kind], mask)]
        else:
            raise ValueError(f"{where}: class {kind}; allowed: 1 (car), 2 (pedestrian), {_IGNORE} (ignored)")
        there = by_frame.setdefault(frame - first, [])
        if {each.object_id for each in found} & {each.object_id for each in there}:
            raise ValueError(f"{where}: object {number} is on frame {frame} twice")
        there += found
    count = max(by_frame, default=-1) + 1 if length is None else length
    if by_frame and max(by_frame) >= count:
        raise ValueError(f"{path}: frame {max(by_frame) + first} of a sequence of {count}")
    frames = [sorted(by_frame.get(place, ()), key=lambda each: each.object_id) for place in range(count)]
    indices = reading.exported_frames(name, count) or tuple(range(count))
    occurring = {each.prompt for found in by_frame.values() for each in found if each.visibility != IGNORED}
    prompts = tuple(label for label in _CLASSES.values() if label in occurring) or (_CLASSES[2],)
    return TrueClip(name, *(size or (1, 1)), indices, prompts, frames, fps)


def _png_clip(reading: Reading, name: str, folder: str) -> TrueClip:
    files = reading.files(folder, ".png")
    if not files:
        raise ValueError(f"{folder} holds no PNG")
    labels = _labels(reading, folder)
    height, width = reading.pixels(f"{folder}/{files[0]}").shape
    numbered = Reading(reading.storage, None, reading.label, True)
    frames = _png_frames(reading, folder, files, (height, width), labels)
    prompts = tuple(dict.fromkeys(labels.values()))
    return TrueClip(name, height, width, numbered.indices(name, files), prompts, frames, _KITTI_FPS)


def _labels(reading: Reading, folder: str) -> Mapping[int, str]:
    text = reading.text(f"{folder}/labels.txt")
    if text is None:
        return _CLASSES
    lines = text.splitlines()
    first = 0 if lines[:1] == ["background"] else 1
    return {n: phrase(line, f"{folder}/labels.txt, class {n}") for n, line in enumerate(lines, first) if n}


def _png_frames(
    reading: Reading, folder: str, files: Sequence[str], size: tuple[int, int], labels: Mapping[int, str]
) -> Iterator[list[ObjectAnnotation]]:
    for file in files:
        where = f"{folder}/{file}"
        found = []
        for number, mask in masks_of(sized(reading.pixels(where), size, where), where):
            kind = number // _PER_CLASS
            if number == _IGNORE * _PER_CLASS and kind not in labels:
                found += [true_object(_REGION_ID + k, label, mask, IGNORED) for k, label in labels.items()]
            elif kind in labels:
                found.append(true_object(number, labels[kind], mask))
            else:
                raise ValueError(
                    f"{where}: the pixel {number} is of class {kind}; allowed: {', '.join(map(str, labels))}"
                )
        yield sorted(found, key=lambda each: each.object_id)
