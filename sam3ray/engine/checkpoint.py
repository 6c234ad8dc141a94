"""Loading a SAM 3 video checkpoint: from the hub, a folder or an object store, or the small one in the package."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam3ray.config import ModelConfig
from sam3ray.engine.device_memory import grow_in_place
from sam3ray.engine.digest import folder_digest, hub_digest, is_network_error
from sam3ray.engine.host_memory import reuse_freed
from sam3ray.engine.image_size import fit, resize
from sam3ray.engine.importing import uncollected
from sam3ray.engine.mirror import cache_folder, is_address, mirrored
from sam3ray.engine.versions import check_transformers
from sam3ray.failures import JobStopped, NotNow, Reason
from sam3ray.faults.causes import causes, first_line
from sam3ray.faults.machine import machine_fault
from sam3ray.guard.redact import redact

if TYPE_CHECKING:
    import torch
    from transformers import Sam3VideoModel, Sam3VideoProcessor

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_MODEL_TYPE = "sam3_video"
_HUB_TIMEOUT_S = 10.0


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded model, ready to run.

    Attributes:
        model: in eval mode, on `device`, parameters without gradients.
        processor: its tokenizer and video processor.
        dtype: of the weights.
        autocast: whether float32 weights run under bfloat16 autocast (see `precision`).
        info: what to record with the annotations: name, revision, dtype, device, attention, parameters.
    """

    model: Sam3VideoModel
    processor: Sam3VideoProcessor
    device: torch.device
    dtype: torch.dtype
    autocast: bool
    info: dict[str, Any]

    def precision(self) -> AbstractContextManager[Any]:
        """The context that every forward pass runs in: bfloat16 autocast, or nothing."""
        import torch

        return torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()


def load_checkpoint(config: ModelConfig, storage_options: Mapping[str, Any] | None = None) -> Checkpoint:
    """Loads model and processor, weights straight onto the device.

    Only safetensors are read and no code from the checkpoint is run. A checkpoint on an object store is fetched first.

    Args:
        storage_options: fsspec options, for a checkpoint on an object store.

    Raises:
        JobStopped: the checkpoint is missing, gated, of another kind or damaged; says what to do.
    """
    check_transformers()
    with uncollected():
        import torch
        from transformers import Sam3VideoConfig, Sam3VideoModel, Sam3VideoProcessor
        from transformers.utils import logging as transformers_logging

        from sam3ray.engine import host_linear
        from sam3ray.engine.compiling import compile_layers
        from sam3ray.engine.positions import restore

    # transformers draws a progress bar per load and warns of optional kernels that the engine does not use.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

    grow_in_place()
    device = _device(config.device)
    if device.type == "cpu":
        reuse_freed()
    named = resolved_dtype(config, device.type != "cpu")
    autocast = named == "autocast"
    dtype = torch.bfloat16 if named == "bfloat16" else torch.float32
    source, where = _source(config, storage_options)
    with _explained(config):
        given: dict[str, Any] = {}
        if config.image_size is not None:
            given["config"] = Sam3VideoConfig.from_pretrained(source, **where)
            resize(given["config"], config.image_size)
        model = _as_loaded(Sam3VideoModel).from_pretrained(
            source,
            dtype=dtype,
            device_map={"": device},
            attn_implementation="sdpa",
            use_safetensors=True,
            **given,
            **where,
        )
        processor = Sam3VideoProcessor.from_pretrained(source, **where)
    if config.image_size is not None:
        fit(processor, config.image_size)
    restore(model)
    model.eval().requires_grad_(False)
    if device.type == "cpu" and named == "float32":
        host_linear.use(model)
    if config.compile:
        compile_layers(model, device)
    commit = getattr(model.config, "_commit_hash", None)  # of a hub checkpoint
    info = {
        "checkpoint": config.checkpoint,
        "revision": commit or config.revision,
        "commit": commit,
        "dtype": named,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "device_kind": device.type,
        "attention": model.config._attn_implementation,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_size": model.detector_model.config.image_size,
    }
    return Checkpoint(model, processor, device, dtype, autocast, info)


def _as_loaded(kind: type[Sam3VideoModel]) -> type[Sam3VideoModel]:
    """The class, told to load the positions of clicks and of the tracker's image as they are: see `positions`.

    Half a pixel at the edge of the image is what rounding them to bfloat16 costs.
    """
    exact = {"_keep_in_fp32_modules_strict": {"shared_image_embedding", "shared_embedding"}}
    return type(kind.__name__, (kind,), exact | {"__module__": kind.__module__})


class HubUnreachable(JobStopped):
    """The checkpoint is not on this machine, and the hub that may have it does not answer."""


class NotFetched(HubUnreachable):
    """The checkpoint lies on an object store, and has not been fetched to this machine."""


class HubBusy(HubUnreachable, NotNow):
    """Whether it may answer later: too many requests, a reset, a time-out."""


def checkpoint_identity(
    config: ModelConfig,
    known: Mapping[str, str] | None = None,
    *,
    patient: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The identity of the weights, without loading them: part of a run's fingerprint.

    Args:
        known: the identity that this run was begun with: its commit is not looked up again, so that a branch which
            has moved since does not matter, nor a hub that is out of reach.
        patient: False: a hub that does not answer at once is out of reach, and its cache on this machine is asked.
            Nothing is fetched from an object store either.
        storage_options: fsspec options, for a checkpoint on an object store.

    Returns:
        `sha256`, over the content of the model's files (see `digest`); of a hub id also `name` and `commit`, and
        `sha256` only where hub or cache tell it.

    Raises:
        JobStopped: as `load_checkpoint`.
    """
    source, where = _source(config, storage_options, fetch=patient)
    if isinstance(source, Path):
        with _explained(config):
            return {"sha256": folder_digest(source)}
    if known is not None and known.get("name") == source and known.get("commit") == config.revision:
        return dict(known)
    from huggingface_hub import hf_hub_download

    with _explained(config):
        _look_only_here(where, config, source, patient)
        snapshot = Path(hf_hub_download(source, "config.json", **where)).parent
    identity = {"name": source, "commit": snapshot.name}
    digest = hub_digest(source, snapshot.name, snapshot, offline=where["local_files_only"])
    return identity if digest is None else identity | {"sha256": digest}


def small_files(config: ModelConfig, *, patient: bool = True, storage_options: Mapping[str, Any] | None = None) -> Path:
    """A folder with the checkpoint's configuration and tokenizer; of a hub checkpoint they are downloaded.

    Raises:
        JobStopped: as `load_checkpoint`.
    """
    source, where = _source(config, storage_options, fetch=patient)
    if isinstance(source, Path):
        return source
    from huggingface_hub import snapshot_download

    with _explained(config):
        _look_only_here(where, config, source, patient)
        return Path(snapshot_download(source, allow_patterns=["*.json", "*.txt"], **where))


def resolved_dtype(config: ModelConfig, on_gpu: bool) -> str:
    """The name of the dtype that `auto` stands for on a GPU or a CPU."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if on_gpu else "float32"


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise JobStopped(f"model.device is {name!r}; allowed: auto, cpu, cuda, cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise JobStopped(f"model.device is {name!r}, but this process sees {torch.cuda.device_count()} CUDA devices")
    return device


def _source(
    config: ModelConfig, storage_options: Mapping[str, Any] | None = None, *, fetch: bool = True
) -> tuple[Path | str, dict[str, Any]]:
    """The folder or hub id to load from, and the hub options that go with it."""
    name = config.checkpoint
    if is_address(name):
        found = mirrored(name, storage_options or {}, cache_folder(config.cache_dir), fetch=fetch)
        if found is None:
            raise NotFetched(f"model.checkpoint {redact(name)!r} has not been fetched to this machine yet")
        _check_folder(found, name)
        return found, {"local_files_only": True}
    folder = Path(str(resources.files("sam3ray") / "embedded")) if name == "embedded" else Path(name).expanduser()
    if folder.is_dir():
        _check_folder(folder, name)
        return folder, {"local_files_only": True}
    if name == "embedded" or not _HUB_ID.fullmatch(name):
        raise JobStopped(
            f"model.checkpoint is {name!r}: no such folder exists, and it is not a hub id such as facebook/sam3 "
            f"(or `embedded`, the small checkpoint in the package)"
        )
    return name, {"revision": config.revision, "local_files_only": config.offline}


def _check_folder(folder: Path, name: str) -> None:
    path = folder / "config.json"
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except FileNotFoundError:
        raise JobStopped(f"model.checkpoint {name!r} has no config.json, so it is not a checkpoint folder") from None
    except (ValueError, AttributeError, OSError) as error:
        raise JobStopped(f"model.checkpoint {name!r}: config.json cannot be read: {error}") from None
    if kind != _MODEL_TYPE:
        raise JobStopped(
            f"model.checkpoint {name!r} is of type {kind!r}; sam3ray needs {_MODEL_TYPE!r} (such as facebook/sam3)"
        )
    if not any(folder.glob("*.safetensors")):
        raise JobStopped(f"model.checkpoint {name!r} has no .safetensors file; sam3ray reads no other weight format")


@contextmanager
def _explained(config: ModelConfig) -> Iterator[None]:
    """Turns errors of the hub and the loader into one sentence that says what to do."""
    from huggingface_hub import errors as hub
    from huggingface_hub.utils import logging as hub_logging
    from safetensors import SafetensorError

    hub_logging.set_verbosity_error()  # it warns at each retry; the sentence below says it once
    name = config.checkpoint
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        chain = list(causes(error, hidden=True))
        fault = machine_fault(error)
        if fault is not None and fault.passing:
            raise NotNow(f"model.checkpoint {name!r} cannot be loaded now: {fault.message}") from error
        if fault is not None and fault.reason is Reason.DEVICE:
            raise

        def has(*kinds: type[BaseException]) -> bool:
            return any(isinstance(cause, kinds) for cause in chain)

        kind, advice = JobStopped, f"cannot be loaded: {first_line(error, 300)}"
        if has(hub.GatedRepoError):
            advice = (
                f"is gated: request access on its Hugging Face page ({name}), then pass your token to the job "
                f"(environment variable HF_TOKEN, or `hf auth login` on every node)"
            )
        elif has(hub.RevisionNotFoundError):
            advice = f"has no revision {config.revision!r}"
        elif has(hub.RepositoryNotFoundError):
            advice = "does not exist on the hub, or is private and your token (HF_TOKEN) has no access to it"
        elif has(hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled):
            kind = HubUnreachable if config.offline or has(hub.OfflineModeIsEnabled) else HubBusy
            advice = (
                "is not in the local cache and the hub cannot be reached (or offline mode is on): download it once "
                f"with `hf download {name}`, or set model.checkpoint to a folder that contains it"
            )
        elif any(_is_busy(cause) for cause in chain):
            kind, advice = HubBusy, f"is temporarily unavailable from the hub: {first_line(error, 300)}"
        raise kind(f"model.checkpoint {name!r} {advice}") from error


def _is_busy(error: BaseException) -> bool:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return isinstance(status, int) and (status in (408, 429) or status >= 500)


def _look_only_here(where: dict[str, Any], config: ModelConfig, name: str, patient: bool) -> None:
    """If the hub does not answer at once, and the caller does not wait, its cache on this machine is used."""
    if not patient and not config.offline and not _hub_answers(name, config.revision):
        where["local_files_only"] = True


def _hub_answers(name: str, revision: str) -> bool:
    """One request, tried once. A refusal is repeated when a file is requested."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision), timeout=_HUB_TIMEOUT_S)
    except HfHubHTTPError:
        return True
    except Exception as error:
        if not is_network_error(error):
            raise
        return False
    return True
