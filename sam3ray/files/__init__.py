"""Reads small files and lists folders on any fsspec storage, with limits; and records sightings of files."""

from sam3ray.files._files import (
    EXTRAS,
    WEB,
    ambiguous_options,
    decode,
    filesystem,
    is_local,
    kind_of_storage,
    local_copy,
    local_path,
    open_filesystem,
    options_for,
    read_bytes,
    read_text,
    read_whole,
    resolve,
    suffix_of,
)

__all__ = [
    "EXTRAS",
    "WEB",
    "ambiguous_options",
    "decode",
    "filesystem",
    "is_local",
    "kind_of_storage",
    "local_copy",
    "local_path",
    "open_filesystem",
    "options_for",
    "read_bytes",
    "read_text",
    "read_whole",
    "resolve",
    "suffix_of",
]
