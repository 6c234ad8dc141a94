"""Weights in every layout that users have become the same checkpoint folder; each weight is accounted for."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Sam3VideoConfig, Sam3VideoModel

from sam3ray.config import ModelConfig
from sam3ray.engine.checkpoint import load_checkpoint
from sam3ray.engine.convert import convert
from sam3ray.engine.meta_names import UNUSED, target
from sam3ray.failures import UserError
from tests.engine.pipeline import processor
from tests.engine.tiny import tiny_model


def meta_layout() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of Meta's video model, from its classes in PyPI's sam3 0.1.4."""
    names = {}
    for line in (Path(__file__).parent / "meta_layout.txt").read_text().splitlines():
        pattern, shape = line.split()
        parts = re.split(r"\{([0-9,-]+)\}", pattern)
        choices = [[part] if i % 2 == 0 else _numbers(part) for i, part in enumerate(parts)]
        for each in itertools.product(*choices):
            names["".join(each)] = tuple(map(int, shape.split("x")))
    return names


def _numbers(text: str) -> list[str]:
    if "-" in text:
        first, last = map(int, text.split("-"))
        return [str(i) for i in range(first, last + 1)]
    return text.split(",")


def test_every_weight_of_metas_model_has_its_place_and_every_place_its_weight():
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in Sam3VideoModel(Sam3VideoConfig()).state_dict().items()}
    filled: dict[str, list[str]] = {}
    layout = meta_layout()
    assert len(layout) == 1465
    for name, shape in layout.items():
        if UNUSED.fullmatch(name):
            assert target(name) is None
            continue
        where = target(name)
        assert where is not None, name
        expected = shape
        if where.change == "split":
            expected = (shape[0] // 3, *shape[1:])
        elif where.change == "transpose":
            expected = shape[::-1]
        elif where.change == "no class token":
            expected = (shape[0], shape[1] - 1, shape[2])
        expected = expected if where.row is None else (4, *shape[1:])
        for place in where.names:
            assert wanted[place] == expected, (name, place)
            filled.setdefault(place, []).append(name)
    assert set(filled) == set(wanted)
    assert all(len(names) == (4 if place.endswith(".point_embed.weight") else 1) for place, names in filled.items())


def as_meta(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A model's weights as Meta's code would have saved them."""
    made = {}
    for name in meta_layout():
        where = target(name)
        if where is None or not all(place in state for place in where.names):
            continue
        value = state[where.names[0]]
        if where.row is not None:
            value = value[where.row : where.row + 1]
        elif where.change == "split":
            value = torch.cat([state[place] for place in where.names])
        elif where.change == "transpose":
            value = value.t()
        elif where.change == "no class token":
            value = torch.cat([torch.full_like(value[:, :1], 7.0), value], 1)
        made[name] = value.clone()
    made["detector.geometry_encoder.points_direct_project.weight"] = torch.zeros(2, 2)
    made["detector.backbone.vision_backbone.trunk.blocks.0.attn.freqs_cis"] = torch.zeros(2, 2, dtype=torch.complex64)
    return made


@pytest.fixture(scope="module")
def model() -> Sam3VideoModel:
    made = tiny_model(5)
    shared = made.tracker_model.prompt_encoder.shared_embedding.positional_embedding
    made.tracker_model.shared_image_embedding.positional_embedding.copy_(shared)
    return made


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of the same shapes and other weights."""
    folder = tmp_path_factory.mktemp("base")
    tiny_model(6).save_pretrained(folder)
    processor().save_pretrained(folder)
    return str(folder)


def assert_loads(folder: Path, state: dict[str, Tensor]) -> None:
    loaded = load_checkpoint(ModelConfig(checkpoint=str(folder), device="cpu", dtype="float32")).model.state_dict()
    assert set(loaded) == set(state)
    for name, value in state.items():
        assert torch.equal(loaded[name], value), name


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "module"])
def test_metas_weights(model, base, tmp_path, wrapper):
    state = as_meta(model.state_dict())
    file = tmp_path / "sam3.pt"
    if wrapper == "module":
        torch.save({"model": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}, file)
    else:
        torch.save(state if wrapper is None else {wrapper: state, "optimizer": {"step": 5}}, file)
    done = convert(str(file), str(tmp_path / "made"), base)
    assert done.layout == "meta"
    assert len(done.unused) == 2
    assert_loads(tmp_path / "made", model.state_dict())
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_the_detector_alone_takes_the_tracker_of_the_base(model, base, tmp_path):
    """As Meta's code for fine-tuning on images saves it: without a prefix, and without a neck for the tracker."""
    state = {
        name.removeprefix("detector."): value
        for name, value in as_meta(model.state_dict()).items()
        if name.startswith("detector.") and "sam2_convs" not in name
    }
    torch.save({"model": state}, tmp_path / "tuned.pth")
    done = convert(str(tmp_path / "tuned.pth"), str(tmp_path / "made"), base)
    assert done.from_base == ("tracker_model", "tracker_neck")
    others = tiny_model(6).state_dict()
    expected = {
        name: value if name.startswith("detector_model.") else others[name]
        for name, value in model.state_dict().items()
    }
    assert_loads(tmp_path / "made", expected)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_transformers_weights_in_any_container(model, base, tmp_path, suffix):
    file, state = tmp_path / f"weights{suffix}", {name: value.clone() for name, value in model.state_dict().items()}
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    assert convert(str(file), str(tmp_path / "made"), base).layout == "transformers"
    assert_loads(tmp_path / "made", model.state_dict())


def test_an_adapter_is_merged(model, base, tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    settings = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "fc1"], init_lora_weights=False)
    tuned = peft.get_peft_model(Sam3VideoModel.from_pretrained(base), settings)
    tuned.save_pretrained(tmp_path / "adapter")
    done = convert(str(tmp_path / "adapter"), str(tmp_path / "made"), base)
    assert done.layout == "lora"
    expected = tuned.merge_and_unload().state_dict()
    name = "detector_model.vision_encoder.backbone.layers.0.attention.q_proj.weight"
    assert not torch.equal(expected[name], tiny_model(6).state_dict()[name])
    assert_loads(tmp_path / "made", expected)


class Trap:
    def __reduce__(self):
        return (print, ("a file must not run code",))


class TestRefused:
    def check(self, file: Path, base: str, sentence: str) -> None:
        goal = file.parent / "made"
        with pytest.raises(UserError, match=sentence):
            convert(str(file), str(goal), base)
        assert not goal.exists()

    def test_code(self, base, tmp_path, capsys):
        torch.save({"model": Trap()}, tmp_path / "evil.pt")
        self.check(tmp_path / "evil.pt", base, "contains more than tensors, and sam3ray never runs code")
        assert "must not run" not in capsys.readouterr().out

    def test_a_weight_of_another_model(self, model, base, tmp_path):
        state = as_meta(model.state_dict()) | {
            "detector.transformer.decoder.instance_query_embed.weight": torch.ones(1)
        }
        torch.save(state, tmp_path / "w.pt")
        self.check(tmp_path / "w.pt", base, r"is not a SAM 3 weight: detector\.transformer\.decoder\.instance_query")

    def test_a_weight_that_is_missing(self, model, base, tmp_path):
        state = as_meta(model.state_dict())
        del state["tracker.no_obj_ptr"]
        torch.save(state, tmp_path / "w.pt")
        self.check(tmp_path / "w.pt", base, r"is missing: tracker_model\.no_object_pointer")

    def test_a_weight_of_another_size(self, model, base, tmp_path):
        state = as_meta(model.state_dict()) | {"tracker.no_obj_ptr": torch.ones(1, 3)}
        torch.save(state, tmp_path / "w.pt")
        self.check(tmp_path / "w.pt", base, r"tracker_model\.no_object_pointer is 1x3, expected 1x128")

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no weights at all"])
    def test_what_is_no_file_of_weights(self, base, tmp_path, content):
        (tmp_path / "w.pt").write_bytes(content)
        self.check(tmp_path / "w.pt", base, r"w\.pt (cannot be read as weights|contains more than tensors)")

    def test_what_holds_no_weights(self, base, tmp_path):
        torch.save([1, 2], tmp_path / "w.pt")
        self.check(tmp_path / "w.pt", base, "holds a list; expected named tensors")

    def test_a_folder_that_is_there(self, base, tmp_path):
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "x").touch()
        torch.save({}, tmp_path / "w.pt")
        with pytest.raises(UserError, match="already exists"):
            convert(str(tmp_path / "w.pt"), str(tmp_path / "made"), base)

    def test_a_checkpoint_that_needs_no_conversion(self, base, tmp_path):
        self.check(Path(base), base, "is already in transformers' layout: use it as model.checkpoint")

    def test_an_adapter_of_another_model(self, base, tmp_path):
        pytest.importorskip("peft")
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        settings = {"peft_type": "LORA", "target_modules": ["q_proj"], "r": 2}
        (adapter / "adapter_config.json").write_text(json.dumps(settings))
        save_file({"base_model.model.strange.lora_A.weight": torch.ones(2, 2)}, adapter / "adapter_model.safetensors")
        self.check(adapter, base, "does not belong to the base's model")


def test_the_folder_holds_safetensors_alone(model, base, tmp_path):
    torch.save(as_meta(model.state_dict()), tmp_path / "w.pt")
    convert(str(tmp_path / "w.pt"), str(tmp_path / "made"), base)
    names = {each.name for each in (tmp_path / "made").iterdir()}
    assert {"config.json", "model.safetensors"} <= names
    assert not any(name.endswith((".bin", ".pt")) for name in names)
    assert len(load_file(tmp_path / "made" / "model.safetensors")) == len(model.state_dict())
