"""Where a check works: the tool's interpreter, an empty folder, and the run that all checks export."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tools.interop._run import make_run

READERS = Path(__file__).parent / "readers"


class ToolFailed(Exception):
    """A tool did not read what it was given."""


@dataclass(frozen=True)
class Row:
    """One object on one frame, as a tool has read it.

    Attributes:
        object_id: as the tool gives it back; None where it has none.
        score: likewise.
        mask: (height, width) bool; None for boxes.
        box: xyxy, max exclusive.
    """

    frame: int
    object_id: int | None
    label: str
    score: float | None
    mask: np.ndarray | None
    box: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Place:
    """What a check is given.

    Attributes:
        python: the interpreter that has the tool.
        folder: empty, of this check alone.
    """

    python: Path
    folder: Path

    @cached_property
    def run(self) -> Path:
        """A finished run of one clip, `a clip` in drawn pixels: see `_run`."""
        return make_run(self.folder / "run")

    def read(self, reader: str, *arguments: object, env: Mapping[str, str] | None = None) -> tuple[str, list[Row]]:
        """Runs `readers/<reader>.py` with the tool's interpreter; returns the tool's version and what it has read.

        A reader is a script that knows the tool and nothing of ours. It is given the file to write last: JSON with
        `version` and `rows`, each with `frame`, `object_id`, `label`, `score`, `box` and `mask`, the name of an array
        in the .npz file beside it.
        """
        out = self.folder / f"{reader}.json"
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | dict(env or {})
        command = [self.python, READERS / f"{reader}.py", *map(str, arguments), out]
        done = subprocess.run(list(map(str, command)), env=clean, cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            raise ToolFailed(f"{reader}: {done.stderr.strip()[-1500:]}")
        value: dict[str, Any] = json.loads(out.read_text())
        masks = np.load(out.with_suffix(".npz")) if out.with_suffix(".npz").exists() else {}
        rows = [
            Row(
                each["frame"],
                each.get("object_id"),
                each.get("label", ""),
                each.get("score"),
                masks[each["mask"]] if each.get("mask") else None,
                tuple(each["box"]) if each.get("box") else None,
            )
            for each in value["rows"]
        ]
        return value["version"], rows
