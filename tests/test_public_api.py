"""What `import sam3ray` offers: every public name, called as in a notebook."""

from __future__ import annotations

import html.parser
import importlib
import inspect
import json
import logging
import pkgutil
import types
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import sam3ray
from sam3ray.annotations import AnnotationWriter, FrameAnnotations, ObjectAnnotation
from sam3ray.config import JobConfig, fingerprint, load_config
from sam3ray.failures import Failure, Reason, UserError
from sam3ray.manifest import read_manifest
from sam3ray.masks import encode_masks
from sam3ray.store import RunStore
from sam3ray.video import Frame

HOSTILE = "<script>alert(1)</script>\"'&\u202e"
SIZE = (48, 64)


def a_frame(index: int, *labels: str) -> FrameAnnotations:
    objects = []
    for number, label in enumerate(labels, 1):
        mask = np.zeros(SIZE, bool)
        mask[4 * number : 4 * number + 10, 6 * number + index : 6 * number + index + 8] = True
        (encoded,) = encode_masks(mask[None])
        objects.append(ObjectAnnotation(number, label, 0.9, 0.8, encoded.bbox, encoded.area, encoded.rle))
    return FrameAnnotations(index, index, index / 30, *SIZE, tuple(objects))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The dict of a job whose run has one finished clip of four frames, and one that failed."""
    folder = tmp_path_factory.mktemp("job")
    rows = []
    for name in ("a", "b"):
        (folder / "clips" / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(folder / "clips" / name / f"shot_{i}.png")
        rows.append({"uri": str(folder / "clips" / name), "clip_id": name})
    (folder / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = {
        "manifest": folder / "clips.jsonl",
        "output": folder / "run",
        "prompts": [HOSTILE.replace("\u202e", ""), "person"],
        "model": {"checkpoint": "embedded"},
        "cluster": {"gpus_per_actor": 0},
    }
    config = load_config(given)
    clips = read_manifest(config.manifest, config)
    store = RunStore(config.output)
    store.create_or_open(fingerprint(config, clips), config.model_dump(mode="json"), clips)
    writer = AnnotationWriter(folder / "a.parquet", "a", {"fingerprint": fingerprint(config, clips)})
    for i in range(4):
        writer.write(a_frame(i, config.prompts[0], "person"))
    writer.finish(seconds=1.0)
    store.commit("a", folder / "a.parquet")
    store.record_failure(Failure("b", Reason.CRASHED, "the worker died", final=True))
    return given


def test_no_module_takes_the_name_of_a_public_function() -> None:
    """Once it is imported, a module of the package stands where the function of the same name was."""
    for module in pkgutil.walk_packages(sam3ray.__path__, "sam3ray."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert isinstance(sam3ray.engine, types.ModuleType)
    verbs = {"load", "draw", "export", "live", "plan", "refine", "triage", "report", "render", "verify", "status",
             "compact", "retry", "run", "convert"}  # fmt: skip
    names = sorted({*sam3ray.__all__, *verbs})
    assert [name for name in names if isinstance(getattr(sam3ray, name, None), types.ModuleType)] == []


def test_every_public_name_is_documented_and_listed() -> None:
    assert set(sam3ray.__all__) <= set(dir(sam3ray))
    for name in sam3ray.__all__:
        value = getattr(sam3ray, name)
        assert not isinstance(value, types.ModuleType), name
        if inspect.isfunction(value) or inspect.isclass(value):
            assert (inspect.getdoc(value) or "").strip(), f"{name} has no docstring"


def a_path(job: dict[str, Any]) -> Any:
    return str(job["output"])


def a_yaml_file(job: dict[str, Any]) -> Any:
    path = Path(job["output"]).parent / "job.yaml"
    path.write_text(json.dumps({key: str(v) if isinstance(v, Path) else v for key, v in job.items()}))
    return path


def a_dict(job: dict[str, Any]) -> Any:
    return job


def a_config(job: dict[str, Any]) -> Any:
    return load_config(job)


def a_dict_of_the_output(job: dict[str, Any]) -> Any:
    return {"output": job["output"]}


def an_open_run(job: dict[str, Any]) -> Any:
    return sam3ray.Run(job)


@pytest.mark.parametrize(
    "form", [a_path, a_yaml_file, a_dict, a_config, a_dict_of_the_output, an_open_run], ids=lambda form: form.__name__
)
def test_a_run_is_named_by_whatever_one_has_in_hand(form: Any, job: dict[str, Any], tmp_path: Path) -> None:
    run = form(job)
    status = sam3ray.status(run)
    assert (status.clips, status.done, status.failed) == (2, 1, {"crashed": 1})
    assert sam3ray.read_annotations(run).count_rows() == 8
    assert all("no metadata" not in problem for problem in sam3ray.verify(run))
    assert sam3ray.export(run, tmp_path / "coco", "coco", prompts="person").rows == 4
    assert sam3ray.evaluate_run(run, job["output"]).as_json()["overall"]["recall"] == 1


def test_a_job_is_given_as_a_file_a_dict_or_a_config(job: dict[str, Any]) -> None:
    plans = [sam3ray.plan_job(form(job)) for form in (a_yaml_file, a_dict, a_config)]
    assert plans[0] == plans[1] == plans[2]
    assert plans[0].done == 1
    changed = sam3ray.plan_job(job, ["tracking.new_det_thresh=0.9"])
    assert "tracking.new_det_thresh" in "".join(changed.refusals)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"manifest": "m.csv"}, "config: output is missing"),
        ({"manifest": "m.csv", "output": "o", "promts": ["x"]}, "the nearest known key is prompts"),
        ({"manifest": "m.csv", "output": "o", 3: 4}, "3 is not a known key"),
        ({"manifest": "m.csv", "output": "o", "model": {"dtype": "int8"}}, "model.dtype is 'int8'"),
        (7, "config is 7; allowed: the path of a YAML file, a dict"),
        (None, "config is None"),
    ],
)
def test_a_wrong_config_is_named(config: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        sam3ray.plan_job(config)


@pytest.mark.parametrize("run", [7, None, ["a"], b"run"])
def test_a_wrong_run_is_named(run: Any) -> None:
    with pytest.raises(UserError, match=r"run is .*allowed: an output folder"):
        sam3ray.status(run)


@pytest.mark.parametrize("sample", [0, -1])
def test_a_sample_of_nothing_is_named(sample: int, job: dict[str, Any]) -> None:
    for verb in (sam3ray.plan_job, sam3ray.verify):
        with pytest.raises(UserError, match=f"sample is {sample}; allowed: 1 and above"):
            verb(job, sample=sample)


def test_relative_paths_of_a_dict_are_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config({"manifest": "clips.csv", "output": Path("labels"), "video": {"cache_dir": "cache"}})
    assert config.manifest == str(tmp_path / "clips.csv")
    assert config.output == str(tmp_path / "labels")
    assert config.video.cache_dir == str(tmp_path / "cache")
    assert load_config(config) == config
    assert load_config(JobConfig(manifest="m.csv", output="o")).output == str(tmp_path / "o")


# one text given as a list of phrases


def test_one_text_is_one_phrase_everywhere(job: dict[str, Any], tmp_path: Path) -> None:
    assert load_config({**job, "prompts": "red car"}).prompts == ("red car",)
    assert sam3ray.export(job, tmp_path / "a", "coco", prompts="person", clips="a").rows == 4
    with pytest.raises(UserError, match="--clips ab: the run has no such clip"):
        sam3ray.export(job, tmp_path / "b", "coco", clips="ab")
    with pytest.raises(UserError, match="clip 'nosuch' is not in the manifest"):
        sam3ray.render(job, "nosuch")
    with pytest.raises(UserError, match="reasons holds 'tired'; allowed: not_found"):
        sam3ray.retry(job, "tired")
    assert sam3ray.retry(job, "timed_out") == 0


def test_one_phrase_of_a_model_is_not_its_letters() -> None:
    model = sam3ray.load("embedded", device="cpu")
    frames = [Frame(i, i, i / 30, np.zeros((32, 32, 3), np.uint8)) for i in range(2)]
    with pytest.raises(UserError, match="prompts holds an empty phrase"):
        model.segment(frames, 32, 32, ["a", ""])
    with model.session(32, 32) as session:
        session.add("red car")
        assert session.phrases == ("red car",)
        with pytest.raises(TypeError, match="a prompt is a phrase"):
            session.add(["red", "car"])  # type: ignore[arg-type]
    assert len(list(model.segment(frames, 32, 32, "red circle"))) == 2


@pytest.mark.parametrize(
    ("prompts", "warns"),
    [("person, car", True), ("person; car, red", False), ("person", False), (["person, car"], False), ("car,", False)],
)
def test_a_text_with_commas_warns(prompts: Any, warns: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_config({"manifest": "m.csv", "output": "o", "prompts": prompts})
    assert ("'person, car' is one phrase; for 2 phrases write 'person; car'" in caplog.text) is warns


def test_a_column_with_commas_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "m.csv").write_text('uri,prompts\na.mp4,"person, car"\nb.mp4,"person, car"\n')
    config = load_config({"manifest": tmp_path / "m.csv", "output": tmp_path / "o"})
    with caplog.at_level(logging.WARNING):
        clips = read_manifest(config.manifest, config)
    assert [clip.prompts for clip in clips] == [("person, car",)] * 2
    assert caplog.text.count("is one phrase") == 1
    assert "row 1" in caplog.text


# drawing


def test_draw_returns_an_image_and_leaves_the_given_one() -> None:
    image = np.full((*SIZE, 3), 90, np.uint8)
    frame = a_frame(0, "person")
    drawn = sam3ray.draw(image, frame)
    assert (drawn.shape, drawn.dtype) == (image.shape, np.uint8)
    assert (image == 90).all()
    mask = sam3ray.decode_mask({"segmentation": {"size": list(SIZE), "counts": frame.objects[0].rle}})
    assert (drawn[mask] != 90).any(axis=1).all()
    assert (drawn[40:, 40:] == 90).all()


def test_draw_takes_objects_rows_and_tables(job: dict[str, Any]) -> None:
    image = np.full((*SIZE, 3), 90, np.uint8)
    frame = sam3ray.Run(job).frames("a")[0]
    table = sam3ray.read_annotations(job).to_table().filter(pa.compute.field("frame_index") == 0)
    expected = sam3ray.draw(image, frame)
    for form in (frame.objects, table.to_pylist(), table, Frame(0, 0, 0.0, image)):
        given = (form, frame) if isinstance(form, Frame) else (image, form)
        assert np.array_equal(sam3ray.draw(*given), expected)
    assert np.array_equal(sam3ray.draw(Image.fromarray(image), frame), expected)  # type: ignore[arg-type]
    assert np.array_equal(sam3ray.draw(image, []), image)
    assert sam3ray.draw(np.full((96, 128, 3), 90, np.uint8), frame).shape == (96, 128, 3)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((*SIZE, 3)), "image is .* of float64; allowed: a uint8 RGB array"),
        (np.zeros(SIZE, np.uint8), "allowed: a uint8 RGB array"),
        (np.zeros((SIZE[1], SIZE[0], 3), np.uint8), "the image is 48x64, the masks are 64x48"),
        (np.zeros((SIZE[0] + 1, SIZE[1], 3), np.uint8), "the image is 64x49, the masks are 64x48"),
        (np.zeros((0, 64, 3), np.uint8), "which has no pixels"),
        ("street.jpg", "image is str"),
    ],
)
def test_draw_refuses_what_is_no_image_of_the_frame(image: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        sam3ray.draw(image, a_frame(0, "person"))


def test_draw_refuses_rows_of_two_frames(job: dict[str, Any]) -> None:
    rows = sam3ray.read_annotations(job).to_table().to_pylist()
    with pytest.raises(ValueError, match="annotations are of 4 frames"):
        sam3ray.draw(np.zeros((*SIZE, 3), np.uint8), rows)


# notebooks


class _Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)


def tags_of(value: Any) -> list[str]:
    parser = _Tags()
    parser.feed(value._repr_html_())
    return parser.tags


def test_a_run_shows_itself_with_stills(job: dict[str, Any]) -> None:
    run = sam3ray.Run(job)
    (still,) = run.stills()
    assert still.has_source
    assert (still.image == 90).all(axis=2).mean() > 0.5
    assert tags_of(run).count("img") == 1
    assert "script" not in tags_of(run)
    assert tags_of(sam3ray.Run(job["output"].parent / "nothing")).count("img") == 0


def test_stills_of_a_lost_video_show_its_masks(job: dict[str, Any], tmp_path: Path) -> None:
    clips = Path(job["manifest"]).parent / "clips"
    clips.rename(tmp_path / "away")
    try:
        (still,) = sam3ray.Run(job).stills()
        assert not still.has_source
        assert still.image.shape == (*SIZE, 3)
    finally:
        (tmp_path / "away").rename(clips)


def test_values_show_themselves_and_escape_what_is_hostile(job: dict[str, Any]) -> None:
    frame = a_frame(3, HOSTILE, *["person"] * 25)
    shown = frame._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "\\u202e" in shown
    assert "and 6 more" in shown
    image = Frame(0, 0, 0.0, np.zeros((8, 8, 3), np.uint8))
    for value in (frame, image, sam3ray.status(job), sam3ray.plan_job(job), sam3ray.JobSummary(
        1, 0, 0, {HOSTILE: 1}, 0, 0, 0, 1.0, 1, HOSTILE)):  # fmt: skip
        assert "script" not in tags_of(value), value
