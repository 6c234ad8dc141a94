"""The page's own files, as they are sent."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def static_files() -> dict[str, bytes]:
    """By name. Scripts come without comments of their own line and without indentation; no line gets another number."""
    folder = resources.files("sam3ray.app").joinpath("static")
    files = {each.name: each.read_bytes() for each in folder.iterdir() if Path(each.name).suffix in TYPES}
    return {name: _code(data) if name.endswith(".js") else data for name, data in files.items()}


def _code(script: bytes) -> bytes:
    """No text in our scripts goes over several lines."""
    lines = (line.strip() for line in script.split(b"\n"))
    return b"\n".join(b"" if line.startswith(b"//") else line for line in lines)
