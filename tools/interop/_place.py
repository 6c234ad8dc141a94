"""What a check works with: the tool's interpreter, an empty folder, and the run that all checks export."""

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
    """A tool could not read a file."""


@dataclass(frozen=True)
class Row:
    """One object on one frame, as read by a tool.

    Attributes:
        object_id, score: as read by the tool; None if it has none.
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
    """The argument of a check.

    Attributes:
        python: the interpreter with the tool installed.
        folder: an empty folder for this check.
    """

    python: Path
    folder: Path

    @cached_property
    def run(self) -> Path:
        """A finished run with a drawn clip, see `_run`."""
        return make_run(self.folder / "run")

    def read(self, reader: str, *arguments: object, env: Mapping[str, str] | None = None) -> tuple[str, list[Row]]:
        """Runs `readers/<reader>.py` with the tool's interpreter; returns the tool's version and the rows it read.

        A reader is a script that uses the tool, and nothing of ours. Its last argument is the file to write: JSON with
        `version` and `rows`. Each row has `frame`, `object_id`, `label`, `score`, `box`, and `mask`, the name of an
        array in the .npz file beside it.
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
