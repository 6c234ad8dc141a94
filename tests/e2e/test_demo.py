"""`sam3ray demo`, the front door, as a newcomer calls it: everything real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sam3ray import demo
from sam3ray.shapes import write
from sam3ray.store import verify_run

pytestmark = pytest.mark.usefixtures("local_ray")


def one_actor(config: dict[str, Any]) -> dict[str, Any]:
    assert config["cluster"]["actors"] == {"min": 1, "max": 2}
    config["cluster"]["actors"]["max"] = 1
    return config


def test_the_demo_labels_renders_and_ends_with_how_good_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of its six clips, half as long: one asked for what is not there, one with a click. One actor does both."""
    config = demo._config
    some = [(*clip[:3], clip[3] // 2, *clip[4:]) for clip in write._DEMO if clip[-1] in ("absent", "click")]
    monkeypatch.setattr(write, "_DEMO", some)
    monkeypatch.setattr(demo, "_config", lambda *given: one_actor(config(*given)))
    result = demo.run_demo(str(tmp_path / "demo"))
    assert result.exit_code == 0
    assert verify_run(str(result.run)) == []
    clips = result.as_json()["clips"]
    assert clips == len(some) == 2
    assert len(list((result.run / "videos").glob("*.mp4"))) == result.as_json()["rendered"] == clips
    overall = result.as_json()["evaluation"]["overall"]
    assert overall["recall"] > 0.9
    assert overall["precision"] > 0.9
    assert overall["mean_iou"] > 0.85
    assert overall["absent_rate"] == 0
    console = Console(width=160)
    with console.capture() as shown:
        console.print(result.table())
    last = shown.get().rstrip().splitlines()[-1].split()
    assert last[0] == "all"
    assert last[3] == f"{overall['recall']:.3f}"
