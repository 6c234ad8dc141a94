"""Says what is wrong with a file that a library cannot read, as the end of a sentence."""

from __future__ import annotations

_SAID = {
    "it is another kind of file, or only part of one": (
        "magic bytes",
        "Parquet file size is",
        "Not an Arrow file",
        "too small",
        "smaller than",
    ),
    "its list of contents is damaged": ("thrift", "footer", "Footer", "flatbuffer", "metadata"),
    "it contains text that is not UTF-8": ("UTF8", "UTF-8", "utf-8"),
    "its compressed data is damaged": ("ecompress", "snappy", "ZSTD", "zlib", "LZ4", "Corrupt"),
}


def why_unreadable(error: BaseException) -> str:
    """Explains an error of Arrow, with its text in brackets if its kind is unknown. Other errors are ours, and
    unchanged.
    """
    said = " ".join(str(error).split())
    if not isinstance(error, OSError) and not type(error).__module__.startswith("pyarrow"):
        return said[:300]
    for meaning, words in _SAID.items():
        if any(word in said for word in words):
            return meaning
    return f"its data is damaged ({said[:200] or type(error).__name__})"
