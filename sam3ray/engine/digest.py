"""Identifies a model by one SHA-256, which is the same for a folder, a hub id and a copy under another path.

It covers the whole content of the model's files, but not their folder. Headers and sizes would not suffice, since
fine-tuning does not change them. A folder is read once for it: 0.7 GB/s measured on one core, 5 s for facebook/sam3, of
bytes that loading reads anyway. A hub checkpoint is not read, because the hub and its cache on this machine know the
SHA-256 of each large file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

_SMALL = (
    "config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "adapter_config.json",
)
_WEIGHTS = "model.safetensors"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors|model\.safetensors\.index\.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def model_files(names: Iterable[str]) -> list[str]:
    """The files of a folder from which transformers loads a model, sorted. Other files, such as a README or the weights
    in another format, do not matter.
    """
    given = set(names)
    small = {name for name in _SMALL if name in given}
    if "tokenizer.json" in small:
        small -= {"vocab.json", "merges.txt"}  # the files it covers
    weights = {name for name in given if name.endswith(".safetensors")}
    if _WEIGHTS in weights:
        weights = {_WEIGHTS}
    elif shards := {name for name in given if _SHARD.fullmatch(name)}:
        weights = shards
    if "adapter_config.json" in small:  # transformers also applies an adapter in the folder
        weights |= {"adapter_model.safetensors"} & given
    return sorted(small | weights)


def combined(digests: Mapping[str, str]) -> str:
    """One digest of the files' names and SHA-256."""
    state = hashlib.sha256()
    for name in sorted(digests):
        state.update(f"{name}\0{digests[name]}\n".encode())
    return state.hexdigest()


def folder_digest(folder: Path) -> str:
    """Reads all files of the model. Raises OSError."""
    names = model_files(entry.name for entry in folder.iterdir())
    return combined({name: _file_digest(folder / name) for name in names})


def hub_digest(name: str, commit: str, snapshot: Path, *, offline: bool) -> str | None:
    """The digest of a commit on the hub, downloading only small files; None if the hub and its cache cannot tell.

    Args:
        snapshot: the commit's folder in the cache on this machine.
        offline: ask the cache alone.
    """
    found = None if offline else _digests_from_hub(name, commit)
    found = found or _digests_from_cache(snapshot)
    return None if found is None else combined(found)


def is_network_error(error: BaseException) -> bool:
    """Whether the hub did not answer, or sent something unexpected.

    The HTTP library of the hub's client changes with its version, so errors are recognised by the package that defines
    them.
    """
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "requests")


def _digests_from_hub(name: str, commit: str) -> dict[str, str] | None:
    from huggingface_hub import HfApi, hf_hub_download

    try:
        siblings = HfApi().model_info(name, revision=commit, files_metadata=True, timeout=20).siblings or []
        stored = {each.rfilename: getattr(each.lfs, "sha256", None) for each in siblings}
        digests = {}
        for file in model_files(stored):
            if stored[file] is not None:
                digests[file] = str(stored[file])
            elif file.endswith(".safetensors"):
                return None
            else:
                digests[file] = _file_digest(Path(hf_hub_download(name, file, revision=commit)))
    except Exception as error:
        if not is_network_error(error):
            raise
        return None  # a mirror without this interface, or no network: ask the cache
    return digests if any(file.endswith(".safetensors") for file in digests) else None


def _digests_from_cache(snapshot: Path) -> dict[str, str] | None:
    """Digests from the cache, which names the blob of a large file by its SHA-256. None for a snapshot without
    weights.
    """
    digests = {}
    for name in model_files(entry.name for entry in snapshot.iterdir()):
        blob = (snapshot / name).resolve().name
        if not name.endswith(".safetensors"):
            digests[name] = _file_digest(snapshot / name)
        elif _SHA256.fullmatch(blob):
            digests[name] = blob
        else:
            return None
    return digests if any(name.endswith(".safetensors") for name in digests) else None


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
