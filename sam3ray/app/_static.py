"""The page's own files, as they are sent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path

from rjsmin import jsmin

TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
PAGES = ("try", "review", "live")
_IMPORTS = re.compile(r'^import.*?"\./(\w+\.js)"', re.MULTILINE)


def static_files() -> dict[str, bytes]:
    """By name. Scripts come without comments and needless spaces; no line gets another number."""
    folder = resources.files("sam3ray.app").joinpath("static")
    files = {each.name: each.read_bytes() for each in folder.iterdir() if Path(each.name).suffix in TYPES}
    return {name: _code(data) if name.endswith(".js") else data for name, data in files.items()}


def _code(script: bytes) -> bytes:
    """Line by line, so that no line ends where it did not. No text goes over several lines, or lies within another."""
    lines = script.decode().split("\n")
    return "\n".join("" if line.lstrip().startswith("//") else str(jsmin(line)) for line in lines).encode()


def version(files: Mapping[str, bytes]) -> str:
    """A name for these files, to be part of their addresses: a browser may then keep them."""
    return hashlib.sha256(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()[:12]


def index(files: Mapping[str, bytes], first: str) -> bytes:
    """The HTML, with the addresses of this version.

    The browser asks at once for the scripts that all pages need. `main` names those of each page, so that `main.js` can
    ask for them at once, too.

    Args:
        first: the page that is shown where the address names none.
    """
    root = f"/static/{version(files)}/"
    shared = list(scripts_of(files, "main.js"))
    links = "".join(f'<link rel="modulepreload" href="{root}{name}">\n' for name in shared)
    pages = {page: [each for each in scripts_of(files, f"{page}.js") if each not in shared] for page in PAGES}
    data = "".join(f' data-{page}="{" ".join(root + name for name in names)}"' for page, names in pages.items())
    html = files["index.html"].decode().replace('"/static/', f'"{root}')
    html = html.replace("</head>", f"{links}</head>", 1).replace("<main>", f'<main data-first="{first}"{data}>', 1)
    return html.encode()


def scripts_of(files: Mapping[str, bytes], name: str) -> Iterator[str]:
    """A script and those that it imports, directly or not. A script that is only loaded on demand is not among them."""
    seen = [name]
    for each in seen:
        yield each
        found = _IMPORTS.findall(files[each].decode())
        seen += [other for other in dict.fromkeys(found) if other not in seen]
