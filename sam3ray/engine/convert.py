"""Converts weights in other layouts into a folder that `model.checkpoint` takes.

Reads Meta's `sam3.pt`, weights trained from it with Meta's code (all of them, or only the detector's), both also as
safetensors, and LoRA adapters of transformers' model. Only this module reads files other than safetensors, and only as
tensors (`weights_only`): no code from a file runs.

Every weight of the file must have a place, or be one of the few known to have no effect. All others are refused by
name, as are missing weights. The folder appears whole or not at all: it is built beside its place and renamed.
"""

from __future__ import annotations

import json
import pickle
import struct
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam3ray.config import ModelConfig
from sam3ray.engine import checkpoint
from sam3ray.engine.meta_names import UNUSED, target
from sam3ray.failures import UserError
from sam3ray.faults.causes import first_line

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Sam3VideoModel, Sam3VideoProcessor

PARTS = ("detector_model.", "tracker_model.", "tracker_neck.")
_WRAPPERS = ("model", "state_dict")  # under which trainers keep the weights beside their own state
_NAMED = 5  # at most, in an error


@dataclass(frozen=True)
class Converted:
    """The result of a conversion.

    Attributes:
        layout: "meta", "transformers" or "lora".
        weights: tensors written.
        unused: names in the file that no computation reads.
        from_base: parts missing in the file and taken from the base.
    """

    layout: str
    weights: int
    unused: tuple[str, ...] = ()
    from_base: tuple[str, ...] = ()


def convert(weights: str, folder: str, base: str = "facebook/sam3", *, offline: bool = False) -> Converted:
    """Writes a checkpoint folder.

    Args:
        weights: a file (`.pt`, `.pth`, `.bin`, `.safetensors`), or the folder of a LoRA adapter.
        folder: the folder to create; must not exist, or be empty.
        base: hub id or folder in transformers' layout. Gives the configuration, tokenizer and preprocessing, the
            weights that an adapter changes, and the tracker if the file has only a detector.

    Raises:
        UserError: the file or the folder is not suitable.
        JobStopped: the base cannot be loaded.
    """
    source, goal = Path(weights).expanduser(), Path(folder).expanduser()
    if not source.exists():
        remote = "; allowed: a file or folder on this machine" if "://" in weights else ""
        raise UserError(f"{weights} does not exist{remote}")
    if goal.exists() and (not goal.is_dir() or any(goal.iterdir())):
        raise UserError(f"{folder} already exists; choose a new or an empty folder")
    if source.is_dir() and not (source / "adapter_config.json").is_file():
        if (source / "config.json").is_file():
            raise UserError(f"{weights} is already in transformers' layout: use it as model.checkpoint")
        raise UserError(
            f"{weights} is a folder without adapter_config.json, so it is not a LoRA adapter; give a weights file"
        )
    goal.parent.mkdir(parents=True, exist_ok=True)
    config = ModelConfig(checkpoint=base, device="cpu", dtype="float32", offline=offline)
    with tempfile.TemporaryDirectory(dir=goal.parent, prefix=f".{goal.name}.") as place:
        made = Path(place) / "checkpoint"
        if source.is_dir():
            done = _merge(source, config, made)
        else:
            done = _rename(source, config, made)
        made.replace(goal)
    return done


# Files of weights


def _rename(source: Path, config: ModelConfig, made: Path) -> Converted:
    given = _read(source)
    model_config, processor = _base(config)
    wanted = _shapes(model_config)
    layout, placed, unused = "transformers", given, tuple[str, ...]()
    if not all(name.startswith(PARTS) for name in given):
        layout = "meta"
        placed, unused = _from_meta(source, given)
    wrong = [
        f"{name} is {_size(placed[name].shape)}, expected {_size(wanted[name])}"
        for name in placed
        if name in wanted and tuple(placed[name].shape) != wanted[name]
    ]
    strange = [name for name in placed if name not in wanted]
    absent = [part for part in PARTS if not any(name.startswith(part) for name in placed)]
    missing = [name for name in wanted if name not in placed and not name.startswith(tuple(absent))]
    problems = [
        *_list("does not belong to the base's model", strange),
        *_list("does not fit the base's model", wrong),
        *_list("is missing", missing),
    ]
    if absent and PARTS[0] in absent:
        problems.append("it holds no detector")
    if problems:
        raise UserError(f"{source}: {problem}" for problem in problems)
    if absent:
        rest = checkpoint.load_checkpoint(config).model.state_dict()
        placed = placed | {name: rest[name] for name in wanted if name.startswith(tuple(absent))}
    _write(made, placed, model_config, processor)
    return Converted(layout, len(placed), unused, tuple(part.rstrip(".") for part in absent))


# What torch's unpickler raises for a file that is no pickle, whose bytes it takes for instructions.
_NO_PICKLE = (ValueError, LookupError, TypeError, AttributeError, AssertionError, struct.error)


def _read(source: Path) -> dict[str, Tensor]:
    """Names and tensors of a file, unchanged."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if source.suffix == ".safetensors":
            return load_file(source)
        value = torch.load(source, map_location="cpu", weights_only=True, mmap=_is_zip(source))
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, OSError, *_NO_PICKLE) as error:
        if "weights_only" in str(error) or "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise UserError(
                f"{source} contains more than tensors, and sam3ray never runs code from a file: save only its "
                "state_dict "
                "with torch.save(model.state_dict(), ...)"
            ) from error
        raise UserError(
            f"{source} cannot be read as weights: it is another kind of file, or only part of one; allowed: "
            ".safetensors, or what torch.save wrote"
        ) from error
    for name in _WRAPPERS:
        if isinstance(value, Mapping) and isinstance(value.get(name), Mapping):
            value = value[name]
    if not isinstance(value, Mapping) or not value:
        raise UserError(f"{source} holds a {type(value).__name__}; expected named tensors (a state_dict)")
    odd = [str(name) for name, each in value.items() if not isinstance(name, str) or not torch.is_tensor(each)]
    if odd:
        raise UserError(f"{source}: {problem}" for problem in _list("is not a tensor", odd))
    return {name.removeprefix("module."): each for name, each in value.items()}


def _is_zip(source: Path) -> bool:
    with source.open("rb") as stream:
        return stream.read(2) == b"PK"


def _from_meta(source: Path, given: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Meta's weights under transformers' names, and the names of those without effect."""
    import torch

    placed: dict[str, Tensor] = {}
    rows: dict[str, dict[int, Tensor]] = {}
    unused: list[str] = []
    unknown: list[str] = []
    for name, value in given.items():
        full = _full(name)
        where = target(full)
        if where is None:
            (unused if UNUSED.fullmatch(full) else unknown).append(name)
        elif where.row is not None:
            rows.setdefault(where.names[0], {})[where.row] = value
        elif where.change == "split":
            if len(value) % 3:
                raise UserError(f"{source}: {name} holds {len(value)} rows, which do not split into three projections")
            placed.update(zip(where.names, (part.clone() for part in value.chunk(3)), strict=True))
        else:
            value = value.t() if where.change == "transpose" else value
            value = value[:, 1:] if where.change == "no class token" and _has_class_token(value) else value
            placed.update((each, value.contiguous().clone()) for each in where.names)
    for name, parts in rows.items():
        if sorted(parts) == list(range(len(parts))):
            placed[name] = torch.cat([parts[row] for row in sorted(parts)])
    if unknown:
        raise UserError(f"{source}: {problem}" for problem in _list("is not a SAM 3 weight", unknown))
    return placed, tuple(unused)


def _full(name: str) -> str:
    """A weight's name in Meta's video model, even if the weight is from Meta's image model."""
    name = name.replace("inst_interactive_predictor.model.", "tracker.", 1)
    return name if name.startswith(("detector.", "tracker.")) else f"detector.{name}"


def _has_class_token(value: Tensor) -> bool:
    """Whether position embeddings (1, tokens, C) have one token more than a square of patches."""
    return round(value.shape[1] ** 0.5) ** 2 != value.shape[1]


# Adapters


def _merge(adapter: Path, config: ModelConfig, made: Path) -> Converted:
    try:
        from peft import PeftConfig, PeftModel, set_peft_model_state_dict
    except ImportError:
        raise UserError('a LoRA adapter needs peft: pip install "sam3ray[lora]"') from None
    from safetensors.torch import load_file

    file = adapter / "adapter_model.safetensors"
    if not file.is_file():
        raise UserError(f"{adapter} has no adapter_model.safetensors; sam3ray reads no other adapter format")
    try:
        settings: Any = PeftConfig.from_pretrained(str(adapter))
        kind = getattr(settings.peft_type, "value", settings.peft_type)
        if kind != "LORA":
            raise UserError(f"{adapter} is an adapter of type {kind}; allowed: LORA")
        base = checkpoint.load_checkpoint(config)
        model = PeftModel(base.model, settings)
        weights = load_file(file)
        result: Any = set_peft_model_state_dict(model, weights)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(f"{adapter} does not fit {config.checkpoint}: {first_line(error, 300)}") from error
    missing = [name for name in result.missing_keys if "lora_" in name]
    problems = [
        *_list("does not belong to the base's model", list(result.unexpected_keys)),
        *_list("is missing", missing),
    ]
    if problems:
        raise UserError(f"{adapter}: {problem}" for problem in problems)
    merged = model.merge_and_unload()
    state = merged.state_dict()
    _write(made, state, merged.config, base.processor)
    return Converted("lora", len(state))


# The base, and the folder


def _base(config: ModelConfig) -> tuple[Any, Sam3VideoProcessor]:
    from transformers import Sam3VideoConfig, Sam3VideoProcessor

    source, where = checkpoint._source(config)
    with checkpoint._explained(config):
        return Sam3VideoConfig.from_pretrained(source, **where), Sam3VideoProcessor.from_pretrained(source, **where)


def _shapes(model_config: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's weights, without allocating them."""
    import torch
    from transformers import Sam3VideoModel

    with torch.device("meta"):
        model: Sam3VideoModel = Sam3VideoModel(model_config)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _write(made: Path, weights: Mapping[str, Tensor], model_config: Any, processor: Any) -> None:
    from safetensors.torch import save_file

    made.mkdir()
    save_file(
        {name: value.contiguous() for name, value in weights.items()}, made / "model.safetensors", {"format": "pt"}
    )
    model_config.save_pretrained(made)
    processor.save_pretrained(made)
    path = made / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"architectures": ["Sam3VideoModel"]}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _list(what: str, names: Sequence[str]) -> Iterable[str]:
    """One sentence that names some and counts the rest; no sentence if there are no names."""
    if names:
        rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield f"{what}: {', '.join(names[:_NAMED])}{rest}"


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a single number"
