"""Reads a manifest of any kind: a table, a folder, a glob, or one video."""

from __future__ import annotations

import gc
import logging
import posixpath
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sam3ray.config import JobConfig
from sam3ray.failures import UserError
from sam3ray.faults.storage import explain
from sam3ray.files import (
    ambiguous_options,
    decode,
    filesystem,
    is_local,
    local_copy,
    local_path,
    read_bytes,
    resolve,
    suffix_of,
)
from sam3ray.guard.redact import redact
from sam3ray.manifest._check import check_rows
from sam3ray.manifest._listing import VIDEO_SUFFIXES, glob_root, is_glob, read_folder, read_glob
from sam3ray.manifest._parquet import MAX_FILE_BYTES, read_parquet
from sam3ray.manifest._prompts import read_exemplar_file, read_prompt_file
from sam3ray.manifest._rows import Rows, likely_typos
from sam3ray.manifest._text import MAX_TEXT_BYTES, read_csv, read_jsonl
from sam3ray.values.clip import Manifest

_LOG = logging.getLogger(__name__)


def read_manifest(uri: str, config: JobConfig, storage_options: Mapping[str, Any] | None = None) -> Manifest:
    """Reads every clip of a manifest, in its order (of folders and globs: by path).

    Does not check that the videos exist.

    Args:
        uri: a .parquet, .csv or .jsonl file, a folder, a glob, or one video.
        config: its prompts and exemplars apply to clips without any. Files of visual prompts or of exemplars are
            matched by clip id.
        storage_options: for fsspec; None takes the configuration's `storage`.

    Raises:
        UserError: with every problem found, one sentence each.
    """
    options = config.storage if storage_options is None else storage_options
    uri = resolve(uri)
    with _no_garbage_collection():
        rows = _read_rows(uri, config, options)
    if rows.carried is not None:
        for column, known in likely_typos(rows.carried.column_names):
            _LOG.warning("%s: the column %r is carried through unchanged; did you mean %r?", rows.name, column, known)
    joined = exemplars = None
    if config.visual_prompts is not None:
        joined = read_prompt_file(resolve(config.visual_prompts), options)
    if isinstance(config.exemplars, str):
        exemplars = read_exemplar_file(resolve(config.exemplars), options)
    with _no_garbage_collection():
        manifest = check_rows(rows, config, joined, exemplars)
    if problem := ambiguous_options((config.output, *(clip.uri for clip in manifest)), options):
        raise UserError(problem)
    return manifest


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Reading makes millions of values without cycles, and looking for cycles would take half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _read_rows(uri: str, config: JobConfig, options: Mapping[str, Any]) -> Rows:
    name = redact(uri)
    if is_glob(uri):
        _refuse_output_inside(glob_root(uri), config, recursive="**" in uri)
        return read_glob(uri, options)
    suffix = suffix_of(uri)
    if suffix == ".csv":
        return read_csv(decode(read_bytes(uri, options, MAX_TEXT_BYTES, what="manifest"), name, what="manifest"), name)
    if suffix in (".jsonl", ".ndjson"):
        return read_jsonl(
            decode(read_bytes(uri, options, MAX_TEXT_BYTES, what="manifest"), name, what="manifest"), name
        )
    fs, path = filesystem(uri, options, what="manifest")
    try:
        info = fs.info(path)
        if suffix in (".parquet", ".pq") and info["type"] == "file":
            with local_copy(uri, options, MAX_FILE_BYTES, what="manifest") as local:
                return read_parquet(local, name)
        is_folder = info["type"] == "directory"
    except FileNotFoundError:
        raise UserError(f"manifest {name} does not exist") from None
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"manifest {name} cannot be read: {explain(error)}") from error
    if is_folder:
        _refuse_output_inside(uri, config, recursive=True)
        return read_folder(uri, options)
    if suffix in VIDEO_SUFFIXES:
        return Rows(name, 1, {"uri": [uri]}, identities=[posixpath.basename(uri)])
    raise UserError(
        f"manifest {name} is not a manifest; allowed: a .parquet, .csv or .jsonl file, a folder, a glob such as "
        "'clips/*.mp4', or one video"
    )


def _refuse_output_inside(root: str, config: JobConfig, *, recursive: bool) -> None:
    """Rejects an output inside the manifest's folder: its annotated videos would be clips of the next run."""
    output, root = resolve(config.output), root.rstrip("/")
    if is_local(output) and is_local(root):
        output, root = local_path(output), local_path(root)
    if recursive and f"{output.rstrip('/')}/".startswith(f"{root}/"):
        raise UserError(f"output {output} is inside the manifest's folder {root}; choose a folder outside it")
