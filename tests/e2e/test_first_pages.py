"""The guides for a first video and for one workstation, line by line in an empty folder.

What changes: a drawn clip, the checkpoint in the package for SAM 3, the CPU for a GPU.
"""

from __future__ import annotations

import shlex
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sam3ray.cli import app
from sam3ray.shapes import ClipSpec, clip_phrases, write_clip
from tests.e2e.pages import run_cell, sections

SPEC = ClipSpec(500_002, 160, 120, frames=14, objects=(1, 1), look="plain")


def test_the_first_video(local_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(SPEC, tmp_path / "street.mp4")
    instead = {'"facebook/sam3", ["person", "red car"]': f'"embedded", {list(clip_phrases(SPEC))!r}'}
    held: dict[str, Any] = {"__name__": "__main__"}
    with chdir(tmp_path):
        for heading, code in sections("first-video.md", "python", instead):
            run_cell(code, f"first-video.md: {heading}", held)
            said = capsys.readouterr().out
            if heading == "Label a video":
                assert len(said.splitlines()) == 14
    assert held["summary"].exit_code == 0
    assert held["_"]._repr_html_().count("<img") == 1
    assert len(said.splitlines()) == 5  # the rows
    assert said.splitlines()[0].endswith(" pixels")
    assert (tmp_path / "labels" / "first" / "videos").is_dir()


def test_one_workstation(local_ray: None, tmp_path: Path) -> None:
    write_clip(SPEC, tmp_path / "videos" / "street.mp4")
    said: dict[str, str] = {}
    with chdir(tmp_path):
        ((_, job),) = sections("workstation.md", "yaml", {})
        config = yaml.safe_load(job)
        config["prompts"] = list(clip_phrases(SPEC))
        config["model"] = {"checkpoint": "embedded"}
        config["cluster"]["gpus_per_actor"] = 0
        Path("job.yaml").write_text(yaml.safe_dump(config))
        blocks = dict(sections("workstation.md", "", {}))
        for line in blocks["Check, run, look"].splitlines():
            _, verb, *arguments = shlex.split(line, comments=True)
            done = CliRunner().invoke(app, [verb, *arguments])
            assert done.exit_code == 0, f"{line}: {done.output}"
            said[verb] = done.stdout
        corrections = [
            "export labels/run-1 --format labelme --to fix --images",
            "import labels/run-1 --from fix --format labelme",
        ]
        page = (Path(__file__).parents[2] / "docs" / "workstation.md").read_text(encoding="utf-8")
        for command in corrections:
            assert f"`sam3ray {command}`" in page
            done = CliRunner().invoke(app, shlex.split(command))
            assert done.exit_code == 0, f"{command}: {done.output}"
    assert "no problems found" in said["verify"]
    assert "videos   1" in said["status"]
    assert (tmp_path / "labels" / "run-1" / "report.html").exists()
    assert len(list((tmp_path / "labels" / "run-1" / "videos").iterdir())) == 1
