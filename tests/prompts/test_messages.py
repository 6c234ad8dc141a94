"""Bad prompts through the command line: the words that docs/prompts.md promises, exit code 2, nothing written."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sam3ray.cli import app
from tests.video.media import write_video

PAGE = Path(__file__).parents[2] / "docs" / "prompts.md"
POINT: dict[str, Any] = {"object_id": 1, "frame": 0, "units": "pixels", "points": [[410, 220]]}
CHANGED, COMBINED = (
    [tuple(cell.strip().strip("`") for cell in line.strip("|").split(" | ")) for line in table.splitlines()]
    for table in re.findall(r"^\| (?:change|given) \| message \|\n\|.*\|\n((?:\|.*\|\n)+)", PAGE.read_text(), re.M)
)

Refused = Callable[..., list[str]]


def changed(text: str) -> dict[str, Any]:
    """The item with one thing changed. NaN is taken, as Python writes it."""
    item = POINT | json.loads(f"{{{text}}}")
    return {key: value for key, value in item.items() if value is not None}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("v") / "match.mp4", 50, size=(640, 360))


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """What `plan` and `run` say of a manifest and joined prompts, without the folder's name; both refuse."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "10000")

    def result(rows: list[dict[str, Any]], joined: Sequence[Any] = (), manifest: str = "clips.jsonl") -> list[str]:
        if manifest.endswith(".csv"):
            with Path(manifest).open("w", newline="") as stream:
                writer = csv.DictWriter(stream, rows[0])
                writer.writeheader()
                writer.writerows(rows)
        else:
            Path(manifest).write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = f"manifest: {manifest}\noutput: out\nmodel: {{checkpoint: embedded}}\ncluster: {{gpus_per_actor: 0}}\n"
        if joined:
            Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in joined))
            config += "visual_prompts: prompts.jsonl\n"
        Path("job.yaml").write_text(config)
        said = []
        for verb in ("plan", "run"):
            run = CliRunner().invoke(app, [verb, "job.yaml"])
            assert (run.exit_code, run.stdout) == (2, "")
            lines = run.stderr.replace(f"{tmp_path}/", "").splitlines()
            assert all(line.startswith("sam3ray: ") for line in lines)
            said.append([line.removeprefix("sam3ray: ") for line in lines])
        assert not Path("out").exists()
        assert said[0] == said[1]
        return said[0]

    return result


def row(video: Path, *items: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"clip_id": "match-1", "uri": str(video), "visual_prompts": items, **others}


@pytest.mark.parametrize(("change", "said"), [each for each in CHANGED if "row 1" in each[1]])
def test_an_item_that_cannot_be_read(refused: Refused, video: Path, change: str, said: str) -> None:
    assert refused([row(video, changed(change))]) == [said]


def test_items_that_do_not_fit_their_video(refused: Refused, video: Path) -> None:
    """All at once: a clip for each."""
    cases = {f"match-{n}": each for n, each in enumerate((c for c in CHANGED if c[1].startswith("clip ")), start=1)}
    rows = [row(video, changed(change)) | {"clip_id": clip_id} for clip_id, (change, _) in cases.items()]
    others = {
        "match-100": row(video, {**POINT, "frame": 5}, {**POINT, "labels": [0]}),
        "match-101": row(video, {**POINT, "frame": 3}, fps=5),
    }
    rows += [{**each, "clip_id": clip_id} for clip_id, each in others.items()]
    expected = [said.replace("match-1:", f"{clip_id}:") for clip_id, (_, said) in cases.items()]
    expected += [
        next(s for _, s in COMBINED if word in s).replace("match-1:", f"{clip_id}:")
        for clip_id, word in zip(others, ("starts on", "sampling"), strict=True)
    ]
    assert refused(rows) == expected


def test_items_that_do_not_go_together(refused: Refused, video: Path) -> None:
    said = {word: next(s for _, s in COMBINED if word in s) for word in ("goal", "not JSON", "match-7")}
    labels = row(video, {**POINT, "label": "ball"}, {**POINT, "label": "goal"})
    assert refused([labels]) == [said["goal"]]
    text = {**row(video), "visual_prompts": '[{"object_id": 1'}
    assert refused([text], manifest="clips.csv") == [said["not JSON"]]
    assert refused([row(video, POINT)], [{"clip_id": "match-7", **POINT}]) == [said["match-7"]]


def test_the_tables_are_read() -> None:
    assert (len(CHANGED), len(COMBINED)) == (20, 5)
