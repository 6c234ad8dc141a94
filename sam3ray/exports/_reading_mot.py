"""Reads corrected boxes in MOT's format."""

from __future__ import annotations

from sam3ray.exports._labels import ClipLabels
from sam3ray.exports._reading import Found
from sam3ray.exports._reading_boxes import Keyframe, Track, found_boxes
from sam3ray.store.storage import Storage

_LARGEST = 1e6  # pixels


def read_mot(storage: Storage, labels: ClipLabels) -> Found:
    """Reads `<clip_id>/gt/gt.txt`: frame, id, corner, size, whether shown, class. Frames and corners count from 1.

    Raises:
        ValueError: the file is missing, or a line is damaged, duplicated, or for a frame or class that was not
            exported.
    """
    path = f"{labels.clip_id}/gt/gt.txt"
    data = storage.read(path)
    if data is None:
        raise ValueError(f"{path} is missing")
    names = {number: name for name, number in labels.categories.items()}
    boxes: dict[tuple[int, str], dict[int, Keyframe]] = {}
    for n, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip():
            continue
        parts = line.split(",")
        try:
            values = [float(part) for part in parts[:8]]
        except ValueError:
            values = []
        if len(values) != 8:
            raise ValueError(
                f"{path}, line {n} is {line!r:.80}; allowed: frame, id, x, y, width, height, 1, class, ..."
            )
        try:
            place, number, x, y, width, height, shown, category = values
            frame, name = labels.frames[_place(place, labels)], names[int(category)]
            own = boxes.setdefault((int(number), name), {})
            if not all(abs(value) < _LARGEST for value in (x, y, width, height)):
                raise ValueError(f"the box {x:g}, {y:g}, {width:g}, {height:g} is not a box in an image")
            if int(number) < 1 or not (width > 0 and height > 0):
                raise ValueError(f"object {number:g} of {width:g}x{height:g} pixels; allowed: ids and sizes above 0")
            if frame in own:
                raise ValueError(f"object {number:g} appears twice on frame {place:g}")
            if shown:
                own[frame] = Keyframe(frame, (x - 1, y - 1, x - 1 + width, y - 1 + height))
        except KeyError:
            raise ValueError(f"{path}, line {n}: class {category:g} is not in the export") from None
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{path}, line {n}: {' '.join(str(error).split())}") from None
    following = dict(zip(labels.frames, labels.frames[1:], strict=False))
    tracks = []
    for (number, name), own in boxes.items():
        keyframes = []
        for frame in sorted(own):
            keyframes.append(own[frame])
            after = following.get(frame)
            if after is not None and after not in own:  # no line means no box
                keyframes.append(Keyframe(after, own[frame].box, shown=False))
        tracks.append(Track(number, name, tuple(keyframes)))
    return found_boxes(labels, tracks)


def _place(value: float, labels: ClipLabels) -> int:
    if value != int(value) or not 1 <= value <= len(labels.frames):
        raise ValueError(f"frame {value:g} was not exported; allowed: 1 to {len(labels.frames)}")
    return int(value) - 1
