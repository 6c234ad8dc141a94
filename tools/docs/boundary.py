"""Draws the picture of a window's boundary in docs/long-clips.md, from a real run.

    python -m tools.docs.boundary docs/long-clips-boundary.svg

The embedded model labels a drawn clip. At one frame its state is saved, as at the end of a window, and another session
continues from it and must give the same rows. The picture shows what is in the state.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam3ray.config import ModelConfig, TrackingConfig
from sam3ray.display.colors import color_of
from sam3ray.engine.header import StateError
from sam3ray.engine.recorder import Kept
from sam3ray.engine.state import Snapshot
from sam3ray.masks import decode_rle
from sam3ray.segment import Segmenter
from sam3ray.shapes import ClipSpec, clip_phrases, write_clip
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.video import ClipFrames

FRAMES, CUT, SEED = 72, 40, 6
WIDTH, LEFT, THUMB = 980, 150, 92
DONE, HELD, NEXT = "#2e7d32", "#e08a00", "#8a8f98"


@dataclass
class Cut:
    """A recorder that saves once, after the frame CUT, or returns what another one saved."""

    folder: Path
    resumes: bool = False
    rows: int = 0
    state: dict[str, Any] = field(default_factory=dict)
    saved: list[FrameAnnotations] = field(default_factory=list)
    rests: int = 0

    def kept(self) -> Iterator[Kept]:
        if self.resumes:
            yield Kept(self.folder / "state", lambda _: iter(self.saved))

    def refused(self, error: StateError) -> None:
        raise error

    def took_up(self) -> None:
        pass

    def add(self, pass_number: int, frame: FrameAnnotations) -> None:
        self.rows += 1

    def at_rest(self, pass_number: int, snapshot: Callable[[], Snapshot]) -> None:
        self.rests += 1
        if self.rests == CUT and not self.resumes:
            taken = snapshot()
            taken.write(self.folder / "state", "")
            self.state = json.loads(taken.text) | {"rows": self.rows, "bytes": taken.num_bytes}


def run(folder: Path) -> tuple[list[FrameAnnotations], list[np.ndarray], dict[str, Any]]:
    """The clip's annotations and pictures, and the saved state."""
    spec = ClipSpec(seed=SEED, frames=FRAMES, width=640, height=360, objects=(3, 3))
    write_clip(spec, folder / "clip.mp4")
    phrases = tuple(clip_phrases(spec))
    frames = ClipFrames(folder / "clip.mp4")
    segmenter = Segmenter(ModelConfig(checkpoint="embedded", device="cpu"), TrackingConfig())
    size = frames.height, frames.width
    first = Cut(folder)
    found = list(segmenter.segment(frames, *size, phrases, recorder=first))
    second = Cut(folder, resumes=True, saved=found[: first.state["rows"]])
    assert list(segmenter.segment(frames, *size, phrases, recorder=second)) == found, "the rows must be the same"
    return found, [frame.image for frame in frames.read()], first.state


def thumbnail(image: np.ndarray, frame: FrameAnnotations) -> str:
    """A small picture with its objects in their colours, as a data URI."""
    shown = image.astype(np.float32)
    for each in frame.objects:
        mask = decode_rle(each.rle, frame.height, frame.width).astype(bool)
        shown[mask] = 0.35 * shown[mask] + 0.65 * np.array(color_of(each.object_id), np.float32)
    data = io.BytesIO()
    Image.fromarray(shown.astype(np.uint8)).resize((THUMB * 2, THUMB * 9 // 8)).save(data, "JPEG", quality=78)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def drawn(found: list[FrameAnnotations], images: list[np.ndarray], state: dict[str, Any]) -> str:
    rows, worked = state["rows"], state["clock"]["worked"]
    scale = (WIDTH - LEFT - 20) / len(found)

    def at(frame: float) -> float:
        return LEFT + frame * scale

    parts: list[str] = []

    def text(x: float, y: float, words: str, **more: str) -> None:
        style = {"font-size": "13", "fill": "#222"} | {key.replace("_", "-"): value for key, value in more.items()}
        attributes = " ".join(f'{key}="{value}"' for key, value in style.items())
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(words)}</text>')

    def box(x: float, y: float, width: float, height: float, fill: str, more: str = "") -> None:
        parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{fill}" {more}/>')

    shown = [rows - 6, rows - 1, rows, (rows + worked) // 2, worked - 1, worked, min(worked + 8, len(found) - 1)]
    step = (WIDTH - 20) / len(shown)
    for place, number in enumerate(shown):
        x = 10 + place * step
        kind = DONE if number < rows else HELD if number < worked else NEXT
        parts.append(
            f'<image x="{x:.1f}" y="30" width="{step - 10:.1f}" height="72" preserveAspectRatio="xMidYMid slice" '
            f'href="{thumbnail(images[number], found[number])}"/>'
        )
        box(x, 30, step - 10, 72, "none", f'stroke="{kind}" stroke-width="3"')
        text(x, 22, f"frame {number}", fill=kind, font_weight="bold")

    top = 140
    text(10, top + 15, "frames")
    for begin, end, fill, words in (
        (0, rows, DONE, f"rows of the window: frames 0 to {rows - 1}"),
        (rows, worked, HELD, f"held in the state: {rows} to {worked - 1}"),
        (worked, len(found), NEXT, "not worked on yet"),
    ):
        box(at(begin), top, (end - begin) * scale, 22, fill)
        text(at(begin) + 5, top + 15, words, fill="#fff", font_size="12")
    y = top + 52
    text(10, y - 12, "what objects remember", font_weight="bold")
    for each in state["propagation"]["objects"]:
        colour = "#{:02x}{:02x}{:02x}".format(*color_of(each["object_id"]))
        text(10, y + 13, f"{each['object_id']}: {state['propagation']['phrases'][each['prompt']]}")
        seen = [
            n for n, frame in enumerate(found[:worked]) if each["object_id"] in {o.object_id for o in frame.objects}
        ]
        for number in seen:
            box(at(number), y + 4, scale, 8, colour, 'opacity="0.3"')
        for kind in ("conditioning", "tracked"):
            for t, _, memory, _ in each["memory"][kind]:
                middle, size = at(t + 0.5), scale * 0.45
                if memory < 0:
                    continue
                if kind == "conditioning":
                    box(middle - size, y + 8 - size, 2 * size, round(2 * size, 1), colour, 'stroke="#222"')
                else:
                    parts.append(
                        f'<circle cx="{middle:.1f}" cy="{y + 8}" r="{size:.1f}" fill="{colour}" stroke="#222"/>'
                    )
        y += 30
    x = at(worked)
    parts.append(f'<line x1="{x:.1f}" y1="{top - 12}" x2="{x:.1f}" y2="{y}" stroke="#222" stroke-dasharray="4 3"/>')
    text(x - 4, top - 16, f"the next attempt continues with frame {worked}", text_anchor="middle")
    meaning = "squares: the object was found or confirmed there; circles: the latest frames; pale: it has a row there"
    text(10, y + 18, meaning)
    text(10, y + 38, f"the state of this window: {state['bytes'] / 1e6:.1f} MB (embedded model)")
    height = y + 52
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>', *parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        options.target.write_text(drawn(*run(Path(name))))


if __name__ == "__main__":
    main()
