"""YouTube-VIS and SA-Co/VEval: one JSON file of many videos, a list of masks for each track."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from sam3ray.masks import EncodedMask
from sam3ray.truth._values import IGNORED, Found, Reading, TrueClip, items, phrase, read_mask, size_of, true_object
from sam3ray.values.annotations import ObjectAnnotation

_Id = int | str


def read_ytvis(reading: Reading) -> Iterator[Found]:
    """Every category of the file is a prompt of every video, because the dataset is labelled exhaustively."""
    return _read(reading, saco=False)


def read_saco(reading: Reading) -> Iterator[Found]:
    """The phrases are the pairs of video and noun phrase, including those without an object."""
    return _read(reading, saco=True)


def _read(reading: Reading, *, saco: bool) -> Iterator[Found]:
    for path in _files(reading):
        try:
            value = reading.json(path)
            categories = {
                _id(each.get("id"), path): phrase(each.get("name"), f"{path}: a category's name")
                for each in items(value, "categories", path)
            }
            tracks: dict[_Id, list[Mapping[str, Any]]] = {}
            for n, each in enumerate(items(value, "annotations", path), 1):
                tracks.setdefault(_id(each.get("video_id"), f"{path}, annotation {n}"), []).append(each)
            asked: dict[_Id, list[str]] = {}
            for n, each in enumerate(items(value, "video_np_pairs", path) if saco else [], 1):
                where = f"{path}, pair {n}"
                asked.setdefault(_id(each.get("video_id"), where), []).append(_phrase_of(each, categories, where))
            videos = items(value, "videos", path)
            known = {_id(video.get("id"), f"{path}, video {n}") for n, video in enumerate(videos, 1)}
            lost = next((video_id for video_id in tracks if video_id not in known), None)
            if lost is not None:
                raise ValueError(f"{path}: an annotation is for the video {lost!r:.40}, which is not in its list")
        except ValueError as error:
            yield path, partial(_damaged, str(error))
            continue
        for n, video in enumerate(videos, 1):
            video_id = _id(video.get("id"), path)
            prompts = asked.get(video_id, []) if saco else [*categories.values()]
            read = partial(_clip, reading, path, n, video, tracks.get(video_id, []), categories, prompts)
            yield _name(video, path, len(videos)), read


def _files(reading: Reading) -> list[str]:
    if reading.file is not None:
        return [reading.file]
    for folder in ("annotations", ""):
        names = [name for name in reading.files(folder, ".json") if name != "export.json"]
        if names:
            return [f"{folder}/{name}" if folder else name for name in names]
    raise ValueError("it has no annotations/*.json and no *.json")


def _damaged(problem: str) -> TrueClip:
    raise ValueError(problem)


def _name(video: Mapping[str, Any], path: str, videos: int) -> str:
    """The video's name, as in evaluators: the folder of its images."""
    files = video.get("file_names")
    if isinstance(files, list) and files and isinstance(files[0], str) and "/" in files[0]:
        return files[0].rpartition("/")[0]
    if isinstance(video.get("video_name"), str):
        return str(video["video_name"])
    return path.rpartition("/")[2].removesuffix(".json") if videos == 1 else f"video-{video.get('id')}"


def _clip(
    reading: Reading,
    path: str,
    number: int,
    video: Mapping[str, Any],
    tracks: list[Mapping[str, Any]],
    categories: Mapping[_Id, str],
    prompts: list[str],
) -> TrueClip:
    where = f"{path}, video {number}"
    size = size_of(video, where)
    files = video.get("file_names")
    if not isinstance(files, list) or not all(isinstance(each, str) for each in files):
        raise ValueError(f"{where}: 'file_names' is not a list of names")
    name = _name(video, path, 0)
    frames: list[list[ObjectAnnotation]] = [[] for _ in files]
    used: set[int] = set()
    labels = list(prompts)
    for n, track in enumerate(tracks, 1):
        at = f"{where}, track {n}"
        label = _phrase_of(track, categories, at)
        labels.append(label)
        object_id = track.get("track_id")
        if type(object_id) is not int or not 1 <= object_id < 2**31:
            object_id = n
        if object_id in used:
            object_id = max(used) + 1
        used.add(object_id)
        masks = track.get("segmentations")
        if not isinstance(masks, list) or len(masks) != len(files):
            raise ValueError(f"{at}: 'segmentations' needs one entry for each of the {len(files)} frames")
        visibility = IGNORED if track.get("iscrowd") else None
        for place, value in enumerate(masks):
            mask: EncodedMask | None = read_mask(value, size, f"{at}, frame {place}")
            if mask is not None:
                frames[place].append(true_object(object_id, label, mask, visibility))
    fps = video.get("fps")
    return TrueClip(
        name,
        *size,
        reading.indices(name, files),
        tuple(dict.fromkeys(labels)),
        frames,
        float(fps) if isinstance(fps, int | float) and 0 < fps < 10_000 else None,
    )


def _phrase_of(value: Mapping[str, Any], categories: Mapping[_Id, str], where: str) -> str:
    if value.get("noun_phrase") is not None:
        return phrase(value["noun_phrase"], f"{where}: its noun phrase")
    category = value.get("category_id")
    if not isinstance(category, int | str) or category not in categories:
        raise ValueError(f"{where}: its category {category!r:.40} is not in the file's list")
    return categories[category]


def _id(value: Any, where: str) -> _Id:
    if not isinstance(value, int | str):
        raise ValueError(f"{where}: {value!r:.40} is not an id")
    return value
