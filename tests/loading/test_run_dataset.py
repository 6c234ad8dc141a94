"""A run's frames with their masks in PyTorch and Hugging Face datasets: exact frames, any order, any process."""

from __future__ import annotations

import gc
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import sam3ray
from sam3ray import ByClip, RunDataset, collate_frames, hugging_face_dataset, load_revision
from sam3ray.annotations import AnnotationWriter
from sam3ray.failures import ClipError, UserError
from sam3ray.manifest import Clip
from sam3ray.revisions import Delete, Edits
from sam3ray.shapes import ClipSpec, annotate, clip_phrases, draw_clip, write_clip
from sam3ray.store import RunStore

SPECS = {
    "one": ClipSpec(970_001, 96, 64, frames=20, objects=(2, 2), look="plain"),
    "two": ClipSpec(970_002, 64, 96, frames=12, objects=(2, 2), look="plain"),
}


def commit(store, folder, clip_id, frames):
    path = folder / f"{clip_id}.parquet"
    with AnnotationWriter(path, clip_id, {"clip": {"source_fps": 12.0}}) as writer:
        for frame in frames:
            writer.write(frame)
        writer.finish()
    store.commit(clip_id, path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loading")
    store = RunStore(str(folder / "run"))
    clips = []
    for clip_id, spec in SPECS.items():
        write_clip(spec, folder / f"{clip_id}.mp4", folder / "truth" / f"{clip_id}.parquet")
        clips.append(Clip(clip_id, str(folder / f"{clip_id}.mp4"), tuple(clip_phrases(spec))))
    clips.append(Clip("unfinished", "/videos/none.mp4", ("dog",)))
    store.create_or_open({"schema_version": 1}, {}, clips)
    for clip_id, spec in SPECS.items():
        commit(store, folder, clip_id, annotate(spec, clip_phrases(spec)))
    return folder / "run"


def is_frame(image: torch.Tensor, clip_id: str, index: int) -> bool:
    """Whether this is that frame of the drawn clip, and no other: nearer to it than to its neighbours."""
    drawn = [frame.image.astype(int) for frame in draw_clip(SPECS[clip_id])]
    pixels = image.permute(1, 2, 0).numpy().astype(int)
    return int(np.argmin([np.abs(each - pixels).mean() for each in drawn])) == index


class TestItems:
    def test_an_item_is_a_frame_with_its_objects(self, run):
        frames = RunDataset(run)
        assert len(frames) == 32
        item = frames[3]
        assert (item["clip_id"], item["frame_index"], item["time_s"]) == ("one", 3, pytest.approx(0.25))
        assert item["image"].shape == (3, 64, 96)
        assert item["image"].dtype == torch.uint8
        n = len(item["prompts"])
        assert item["masks"].shape == (n, 64, 96)
        true = next(f for f in annotate(SPECS["one"], clip_phrases(SPECS["one"])) if f.frame_index == 3)
        assert item["object_ids"].tolist() == [o.object_id for o in true.objects]
        assert item["masks"].sum((1, 2)).tolist() == [o.area for o in true.objects]
        for mask, box in zip(item["masks"], item["boxes"], strict=True):
            y, x = mask.nonzero(as_tuple=True)
            assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        frames.close()

    def test_every_frame_is_the_right_one_whatever_the_order(self, run):
        frames = RunDataset(run)
        for at in (31, 0, 1, 2, 19, 20, 5, 5, 4, -1):
            item = frames[at]
            assert is_frame(item["image"], item["clip_id"], item["frame_index"])
        frames.close()

    def test_choice_and_transform(self, run):
        phrase = clip_phrases(SPECS["one"])[0]
        frames = RunDataset(run, clips="one", prompts=phrase, every=4, transform=lambda item: item["prompts"])
        assert len(frames) == 5
        assert {prompt for at in range(5) for prompt in frames[at]} == {phrase}
        with pytest.raises(IndexError):
            frames[5]

    def test_what_is_wrong_is_a_sentence(self, run, tmp_path):
        with pytest.raises(UserError, match="no finished clip 'unfinished'"):
            RunDataset(run, clips=["unfinished"])
        with pytest.raises(UserError, match="every is 0"):
            RunDataset(run, every=0)
        with pytest.raises(UserError, match="has no label 'sloth'; allowed: "):
            RunDataset(run, prompts="sloth")
        with pytest.raises(UserError, match=r"there is no manifest\.parquet|no run"):
            RunDataset(tmp_path / "nothing")

    def test_a_video_that_has_changed_is_an_error(self, run, tmp_path):
        store = RunStore(str(tmp_path / "run"))
        write_clip(SPECS["two"], tmp_path / "v.mp4")
        store.create_or_open({"schema_version": 1}, {}, [Clip("one", str(tmp_path / "v.mp4"), ("x",))])
        commit(store, tmp_path, "one", annotate(SPECS["one"], clip_phrases(SPECS["one"])))
        with pytest.raises(ClipError, match="the source has changed"):
            RunDataset(tmp_path / "run")[0]


@pytest.fixture
def _no_garbage_in_children() -> Iterator[None]:
    """What other tests have left behind is not freed in forked processes, where its threads do not exist."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_no_garbage_in_children")
class TestWorkers:
    def test_workers_give_the_frames_of_one_process(self, run):
        frames = RunDataset(run, every=4)
        alone = [frames[at] for at in range(len(frames))]  # the parent has a video open when it forks
        loader = DataLoader(frames, 3, num_workers=2, collate_fn=collate_frames, multiprocessing_context="fork")
        shared = [dict(zip(batch, row, strict=True)) for batch in loader for row in zip(*batch.values(), strict=True)]
        assert [item["frame_index"] for item in shared] == [item["frame_index"] for item in alone]
        for one, other in zip(alone, shared, strict=True):
            assert torch.equal(one["image"], other["image"])
            assert torch.equal(one["masks"], other["masks"])

    def test_it_is_pickled_without_what_it_holds_open(self, run):
        frames = RunDataset(run)
        first = frames[0]
        again = pickle.loads(pickle.dumps(frames))  # noqa: S301 - what spawned workers do
        assert torch.equal(again[0]["image"], first["image"])

    def test_clips_are_shuffled_and_their_frames_stay_in_order(self, run):
        frames = RunDataset(run)
        sampler = ByClip(frames, seed=1)
        orders = []
        for epoch in range(6):
            sampler.set_epoch(epoch)
            order = list(sampler)
            assert sorted(order) == list(range(32))
            assert order in ([*range(32)], [*range(20, 32), *range(20)])
            orders.append(order[0])
        assert set(orders) == {0, 20}


def test_from_an_object_store(run, s3_place):
    fsspec = pytest.importorskip("fsspec")
    fs = fsspec.filesystem("s3", **s3_place.options, skip_instance_cache=True)
    bucket = s3_place.uri.removesuffix("/labels/run")
    fs.put(str(run.parent / "one.mp4"), f"{bucket}/one.mp4")
    store = RunStore(s3_place.uri, s3_place.options)
    store.create_or_open({"schema_version": 1}, {}, [Clip("one", f"{bucket}/one.mp4", ("x",))])
    commit(store, run.parent, "one", annotate(SPECS["one"], clip_phrases(SPECS["one"])))
    frames = RunDataset(s3_place.uri, s3_place.options)
    assert is_frame(frames[13]["image"], "one", 13)
    frames.close()


class TestRevisions:
    @pytest.fixture
    def corrected(self, run, tmp_path):
        store = RunStore(str(tmp_path / "run"))
        store.create_or_open({"schema_version": 1}, {}, RunStore(str(run)).manifest())
        for clip_id, spec in SPECS.items():
            commit(store, tmp_path, clip_id, annotate(spec, clip_phrases(spec)))
        Edits(store).append([Delete("one", 1, (0, 9))])
        return tmp_path / "run"

    def test_corrections_are_applied_where_asked(self, corrected):
        assert 1 in RunDataset(corrected)[0]["object_ids"]
        frames = RunDataset(corrected, revision="latest")
        assert 1 not in frames[0]["object_ids"]
        assert 1 in frames[12]["object_ids"]
        assert load_revision(corrected).count_rows() == sam3ray.read_annotations(corrected).count_rows() - 10
        assert load_revision(corrected, 0).count_rows() == sam3ray.read_annotations(corrected).count_rows()


class TestHuggingFace:
    def test_rows_have_pictures_and_masks(self, run):
        pytest.importorskip("datasets")
        rows = list(hugging_face_dataset(run, every=5))
        assert [(row["clip_id"], row["frame_index"]) for row in rows] == [
            *(("one", n) for n in (0, 5, 10, 15)),
            *(("two", n) for n in (0, 5, 10)),
        ]
        for row in rows:
            image = torch.from_numpy(np.array(row["image"])).permute(2, 0, 1)
            assert is_frame(image, row["clip_id"], row["frame_index"])
            for item in row["objects"]:
                mask = np.array(item["mask"]) > 0
                assert mask.sum() == item["area"]
                assert (mask == sam3ray.decode_mask(item)).all()

    def test_clips_are_shards_for_workers_and_nodes(self, run):
        distributed = pytest.importorskip("datasets.distributed")
        frames = hugging_face_dataset(run, every=5)
        assert frames.num_shards == 2
        halves = [distributed.split_dataset_by_node(frames, rank=n, world_size=2) for n in (0, 1)]
        assert [{row["clip_id"] for row in half} for half in halves] == [{"one"}, {"two"}]
        loaded = [row["clip_id"] for row in DataLoader(frames, num_workers=2, batch_size=None)]
        assert sorted(loaded) == ["one"] * 4 + ["two"] * 3


@pytest.mark.parametrize("block", [0, 1])
def test_the_page_runs(run, tmp_path, block):
    pytest.importorskip("datasets")
    page = Path(__file__).parents[2] / "docs" / "datasets.md"
    code = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S)[block]
    phrase = clip_phrases(SPECS["one"])[0]
    code = code.replace('"red circle"', repr(phrase)).replace("num_workers=2", "num_workers=0")
    exec(compile(code, str(page), "exec"), {"RUN": str(run), "__name__": "page"})  # noqa: S102
