"""Pushing to a CVAT server through its own SDK. The server is a stand-in: none was at hand."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from cvat_sdk.masks import decode_mask, encode_mask

from sam3ray.exports import push_to_cvat
from sam3ray.failures import UserError
from sam3ray.revisions import Accept, Edits
from sam3ray.store import RunStore
from sam3ray.video import VideoWriter
from tests.exports.cvat_server import Cvat, cvat_server
from tests.exports.labels import FRAMES, HEIGHT, WIDTH, annotations, make_run, mask_of

CLIP = "a-clip"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    video = folder / "video.mp4"
    with VideoWriter(video, WIDTH, HEIGHT, Fraction(1, 25), Fraction(25)) as writer:
        for index in range(FRAMES):
            writer.write(np.full((HEIGHT, WIDTH, 3), 40 * index, np.uint8), index)
    return make_run(folder, uris={CLIP: str(video), "empty": str(video)}).output


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", "a-token")
    with cvat_server() as state:
        yield state


def by_name(server: Cvat, name: str):
    (task,) = [task for task in server.tasks.values() if task["name"].split(" [")[0] == name]
    return task


def test_a_task_for_each_clip_with_masks_ids_and_scores(run, server):
    done = push_to_cvat(run, server.url)
    assert (done.clips, done.already, done.failed) == (2, 0, {})
    task = by_name(server, CLIP)
    assert task["images"] == [f"frame_{n:06d}.jpg" for n in range(FRAMES)]
    assert [label["name"] for label in task["labels"]] == ["ring", "two words", "absent"]
    shapes = {(shape["frame"], shape["group"]): shape for shape in task["shapes"]}
    assert len(shapes) == len(task["shapes"]) == done.rows
    for frame in annotations():
        for item in frame.objects:
            shape = shapes[frame.frame_index, item.object_id]
            mask = mask_of(item.object_id, frame.frame_index)
            assert (decode_mask(shape["points"], image_width=WIDTH, image_height=HEIGHT) == mask).all()
            assert shape["points"] == encode_mask(mask)
            assert shape["score"] == pytest.approx(item.score)
            assert shape["attributes"][0]["value"] == str(item.object_id)
            assert task["labels"][shape["label_id"] - 1]["name"] == item.prompt
    assert by_name(server, "empty")["shapes"] == []
    assert server.tokens >= {"Bearer a-token"}


def test_again_makes_nothing_anew(run, server):
    push_to_cvat(run, server.url, clips=[CLIP])
    done = push_to_cvat(run, server.url)
    assert (done.clips, done.already) == (1, 1)
    assert len(server.tasks) == 2


def test_goes_on_where_it_was_cut_off(run, server):
    server.cut_off_before_shapes = True
    done = push_to_cvat(run, server.url, clips=[CLIP])
    assert "rejects the task: 409" in done.failed[CLIP]
    server.cut_off_before_shapes = False
    done = push_to_cvat(run, server.url, clips=[CLIP])
    assert (done.clips, done.failed) == (1, {})
    assert len(server.tasks) == 1
    assert len(by_name(server, CLIP)["images"]) == FRAMES


def test_a_project_and_a_choice(run, server):
    push_to_cvat(run, f"{server.url}/projects/7", clips=[CLIP], prompts=["ring"], every=2)
    task = by_name(server, CLIP)
    assert task["project_id"] == 7
    assert task["images"] == [f"frame_{n:06d}.jpg" for n in (0, 2, 4)]
    assert {shape["frame"] for shape in task["shapes"]} == {0, 1, 2}
    done = push_to_cvat(run, f"{server.url}/projects/7", clips=["empty"], names={"ring": "hoop"})
    assert done.failed == {}


def test_another_choice_or_revision_gets_tasks_of_its_own(run, server, tmp_path):
    assert push_to_cvat(run, server.url, clips=["empty"]).clips == 1
    assert push_to_cvat(run, server.url, clips=["empty"], every=2).clips == 1
    assert push_to_cvat(run, server.url, clips=["empty"], every=2).already == 1
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    Edits(RunStore(str(copied))).append([Accept("empty")], author="ann", tool="test")
    assert push_to_cvat(copied, server.url, clips=["empty"], every=2).already == 1  # the same run, elsewhere
    assert push_to_cvat(copied, server.url, clips=["empty"], every=2, revision="latest").clips == 1
    assert len({task["name"] for task in server.tasks.values()}) == len(server.tasks) == 3


class TestRefusals:
    def test_who(self, run, server, monkeypatch):
        monkeypatch.delenv("CVAT_ACCESS_TOKEN")
        with pytest.raises(UserError, match="set CVAT_ACCESS_TOKEN"):
            push_to_cvat(run, server.url)

    @pytest.mark.parametrize("to", ["somewhere", "https://ann:secret@cvat.example", "https://cvat.example/tasks/3"])
    def test_where(self, run, server, to):
        with pytest.raises(UserError, match="allowed: a CVAT server") as caught:
            push_to_cvat(run, to)
        assert "secret" not in str(caught.value)

    def test_a_server_that_refuses_everything(self, run, server):
        server.refuses = True
        with pytest.raises(UserError, match="you shall not pass"):
            push_to_cvat(run, server.url)


def test_the_command(run, server):
    from typer.testing import CliRunner

    from sam3ray.cli import app

    arguments = ["export", run, "--format", "cvat", "--variant", "push", "--to", server.url, "--clips", CLIP]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert "track scores dropped" in done.stdout
    assert Path(run).is_dir()
