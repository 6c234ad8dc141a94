"""Reads inputs as a job does, and checks the outcome: a value, a sentence, or one of the documented reasons."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from sam3ray.config import JobConfig, VideoConfig, config_from_text, fingerprint
from sam3ray.failures import ClipError, Reason, UserError
from sam3ray.files import decode
from sam3ray.manifest import Clip, is_clip_id
from sam3ray.manifest._check import check_rows
from sam3ray.manifest._parquet import assemble, read_parquet, read_parts, rows_of
from sam3ray.manifest._prompts import read_prompt_file
from sam3ray.manifest._rows import Rows
from sam3ray.manifest._text import read_csv, read_jsonl
from sam3ray.prompts import parse_visual_prompts
from sam3ray.prompts._resolve import read_mask_file
from sam3ray.rendering import render_clip
from sam3ray.video import VideoReader, probe_uri
from sam3ray.video._folder import read_image

LIMITS = VideoConfig(max_pixels=2048 * 2048, max_frames=300, max_duration_s=600, max_frame_decode_s=10)
CONFIG = JobConfig(manifest="m", output="/elsewhere", prompts=("person",))
EXPECTED = frozenset(
    {Reason.UNREADABLE_VIDEO, Reason.NO_VIDEO_STREAM, Reason.EMPTY_RANGE, Reason.OVER_LIMITS}
)  # fmt: skip


class Wrong(AssertionError):
    """An outcome that is not allowed."""


def run(kind: str, data: bytes, seed: int, folder: Path) -> str:
    """Reads an input, and returns the outcome: `value`, `sentence`, or a reason.

    Raises:
        Exception: anything else, which is a finding.
    """
    try:
        return _READERS[kind](data, random.Random(seed), folder)
    except ClipError as error:
        if error.reason not in EXPECTED:
            raise Wrong(f"{error.reason.value}: {error.message}") from error
        _check_sentence(error.message)
        return "contained crash" if "crashed" in error.message else error.reason.value
    except UserError as error:
        if not error.problems:
            raise Wrong("an error without a sentence") from error
        for problem in error.problems:
            _check_sentence(problem)
        crashed = any("the reader crashed" in problem for problem in error.problems)
        return "contained crash" if crashed else "sentence"


def _check_sentence(text: str) -> None:
    if not text or not text.isprintable():
        raise Wrong(f"no printable sentence: {text[:200]!r}")
    if len(text) > 4_100:
        raise Wrong(f"a sentence of {len(text)} characters: {text[:200]}")


def _video(data: bytes, rng: random.Random, folder: Path) -> str:
    path = folder / "damaged"
    path.write_bytes(data)
    start_s, fps = rng.choice([None, None, 0.1, 2.5]), rng.choice([None, None, 7.0])
    if rng.random() < 0.2:
        import fsspec

        fsspec.filesystem("memory").pipe("/fuzz/damaged", data)
        probe_uri("memory://fuzz/damaged", LIMITS)
    with VideoReader(path, start_s=start_s, fps=fps, limits=LIMITS) as video:
        last, count, time_s = -1, 0, float("-inf")
        for frame in video:
            if frame.index <= last or frame.image.shape != (video.info.height, video.info.width, 3):
                raise Wrong(f"frame {frame.index} of {frame.image.shape} after {last}")
            last, count, time_s = frame.index, count + 1, frame.time_s
    if count == 0:
        raise Wrong(f"no frame and no reason, time {time_s}")
    if rng.random() < 0.1:
        render_clip(path, [], folder / "rendered.mp4", Clip("c", "c", start_s=start_s, fps=fps), limits=LIMITS)
    return "value"


def _image(data: bytes, rng: random.Random, folder: Path) -> str:
    path = folder / {0x89: "1.png", 0x52: "1.webp"}.get(data[0] if data else 0, "1.jpg")
    path.write_bytes(data)
    if rng.random() < 0.3:
        read_mask_file(os.fspath(path), {})
    else:
        image = read_image(path, LIMITS)
        if image.ndim != 3 or image.dtype != "uint8":
            raise Wrong(f"an image of {image.shape}, {image.dtype}")
    return "value"


def _clips(rows: Rows) -> str:
    manifest = check_rows(rows, CONFIG)
    if not all(is_clip_id(clip.clip_id) and clip.uri and clip.names for clip in manifest):
        raise Wrong("a clip without id, uri or prompts")
    if len({clip.clip_id.lower() for clip in manifest}) != len(manifest):
        raise Wrong("an id twice")
    fingerprint(CONFIG, manifest)
    return "value"


def _parquet(data: bytes, rng: random.Random, folder: Path) -> str:
    path = folder / "m.parquet"
    path.write_bytes(data)
    if rng.random() < 0.2:
        return _clips(read_parquet(os.fspath(path), "m.parquet"))
    with path.open("rb") as stream:
        return _clips(rows_of(assemble(read_parts(stream, "m.parquet", "uri", 2**28)), "m.parquet"))


def _yaml(data: bytes, rng: random.Random, folder: Path) -> str:
    text = decode(data, "job.yaml", what="config")
    if rng.random() < 0.2:
        key = rng.choice(["prompts", "video.fps", "storage", "model.device", "tracking", text[:20]])
        config_from_text("manifest: a\noutput: b\n", "job.yaml", (f"{key}={text[: rng.choice([10, 60, 2000])]}",))
    config_from_text(text, "job.yaml")
    return "value"


def _prompts(data: bytes, rng: random.Random, folder: Path) -> str:
    path = folder / "prompts.jsonl"
    path.write_bytes(data)
    if rng.random() < 0.3:
        _, wrong = parse_visual_prompts(data.decode("utf-8", "replace"))
        for sentence in wrong:
            UserError(sentence)
    read_prompt_file(os.fspath(path), {})
    return "value"


_READERS: dict[str, Callable[[bytes, random.Random, Path], str]] = {
    "video": _video,
    "image": _image,
    "csv": lambda data, rng, folder: _clips(read_csv(decode(data, "m.csv", what="manifest"), "m.csv")),
    "jsonl": lambda data, rng, folder: _clips(read_jsonl(decode(data, "m.jsonl", what="manifest"), "m.jsonl")),
    "parquet": _parquet,
    "yaml": _yaml,
    "prompts": _prompts,
}
