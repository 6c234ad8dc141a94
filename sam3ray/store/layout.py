"""The layout of a run's output folder. Every path of a clip is built here, from a checked clip id."""

from __future__ import annotations

import re

from sam3ray.values.clip_ids import is_clip_id

RUN = "run.json"
MANIFEST = "manifest.parquet"
CLIPS = "clips.parquet"
REPORT = "report.html"
EXPORT = "export.json"  # marks a folder that an export has created, whether it is a run or not
SIDECARS = "sam3ray"
TRIAGE = "triage.parquet"
DRIVER = "active_driver.json"
ANNOTATIONS = "annotations"
FAILURES = "failures"
VIDEOS = "videos"
RECORDINGS = "recordings"  # frames of live video, one file per clip
EDITS = "edits"
WINDOWS = "windows"
COMPACTED = "compacted"
COMPACTED_INDEX = f"{COMPACTED}/index.arrow"
TEMPORARY = ".tmp"


def check_clip_id(clip_id: str) -> str:
    """Return the id, or raise ValueError if it is not safe as a file name. Ids become paths only after this check."""
    if not isinstance(clip_id, str) or not is_clip_id(clip_id):
        raise ValueError(
            f"not a clip id: {clip_id!r}; allowed: 1 to 200 of A-Z a-z 0-9 . _ -, not starting with . or _"
        )
    return clip_id


_RECORD = re.compile(r"([1-9][0-9]{0,8})\.json", re.ASCII)


def record_number(name: str) -> int | None:
    """The number of a failure record's file; None for other files."""
    found = _RECORD.fullmatch(name)
    return int(found[1]) if found else None


def clip_of(name: str, suffix: str) -> str | None:
    """The clip to which a file of this name belongs; None for other files."""
    clip_id = name.removesuffix(suffix)
    return clip_id if clip_id != name and is_clip_id(clip_id) else None


def annotation_path(clip_id: str) -> str:
    return f"{ANNOTATIONS}/{check_clip_id(clip_id)}.parquet"


def videos_folder(revision: int = 0) -> str:
    """The folder of annotated videos, of the model's own annotations or of a revision."""
    return f"{EDITS}/{VIDEOS}/{revision}" if revision else VIDEOS


def video_path(clip_id: str, revision: int = 0) -> str:
    return f"{videos_folder(revision)}/{check_clip_id(clip_id)}.mp4"


def failure_folder(clip_id: str) -> str:
    return f"{FAILURES}/{check_clip_id(clip_id)}"


def failure_path(clip_id: str, attempt: int) -> str:
    return f"{failure_folder(clip_id)}/{attempt}.json"


_WINDOW = re.compile(r"(0|[1-9][0-9]{0,3})-(0|[1-9][0-9]{0,8})", re.ASCII)


def window_folder(clip_id: str) -> str:
    return f"{WINDOWS}/{check_clip_id(clip_id)}"


def window_of(name: str, suffix: str) -> tuple[int, int] | None:
    """The pass and number of the window to which a file of this name belongs; None for other files."""
    stem = name.removesuffix(suffix)
    found = _WINDOW.fullmatch(stem) if stem != name else None
    return (int(found[1]), int(found[2])) if found else None


CUTS = "cuts.json"
LINKS = "links.json"
FRAMES = "frames.json"
_CUT_FILE = re.compile(r"w(0|[1-9][0-9]{0,6})(?:\.json|-(0|[1-9][0-9]{0,8})\.(?:parquet|safetensors))", re.ASCII)


def cut_file_of(name: str) -> tuple[int, int | None] | None:
    """The parallel window and the attempt to which a file of this name belongs.

    The attempt is None for the file that marks a window as done. Returns None for other files.
    """
    found = _CUT_FILE.fullmatch(name)
    return (int(found[1]), int(found[2]) if found[2] is not None else None) if found else None


def is_window_file(name: str) -> bool:
    """Whether a file of this name belongs in the folder of a clip's windows."""
    checkpoint = any(window_of(name, suffix) is not None for suffix in (".parquet", ".safetensors"))
    return checkpoint or name in (CUTS, LINKS, FRAMES) or cut_file_of(name) is not None


def part_path(name: str) -> str:
    return f"{COMPACTED}/{name}"
