"""Formats values as HTML for notebooks and pages: every text escaped, every picture inline, nothing fetched.

Untrusted text (labels, file names, messages) passes through `printable` and is escaped, so it can neither add markup
nor hide in it.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sam3ray.guard.printable import printable

_LONGEST = 400  # characters of a value
_JPEG_QUALITY = 85


def text(value: object) -> str:
    """A value as text within HTML, also within a quoted attribute."""
    shown = printable(str(value))
    return html.escape(shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}...", quote=True)


def facts(title: str, values: Mapping[str, Any]) -> str:
    """Names and values, one per line, under a title. Values that are None or empty are omitted."""
    rows = "".join(
        f'<tr><td style="text-align:left">{text(name)}</td><td style="text-align:left">{text(value)}</td></tr>'
        for name, value in values.items()
        if value is not None and value != ""
    )
    return f"<div><b>{text(title)}</b><table>{rows}</table></div>"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with a header."""
    head = "".join(f"<th>{text(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def picture(image: np.ndarray, caption: object, height: int | None = None) -> str:
    """An inline image (uint8 RGB, height x width x 3) with a caption below."""
    from PIL import Image

    shown = Image.fromarray(image)
    if height is not None and shown.height > height:
        shown = shown.resize((max(1, round(shown.width * height / shown.height)), height))
    data = io.BytesIO()
    shown.save(data, "JPEG", quality=_JPEG_QUALITY)
    encoded = base64.b64encode(data.getvalue()).decode()
    source = f'src="data:image/jpeg;base64,{encoded}" alt="{text(caption)}"'
    return (
        f'<figure style="display:inline-block;margin:2px;text-align:center"><img {source}>'
        f'<figcaption style="font-size:smaller">{text(caption)}</figcaption></figure>'
    )


def strip(pictures: Iterable[tuple[np.ndarray, object]], height: int) -> str:
    """Images of one height side by side, each with its caption."""
    return "<div>" + "".join(picture(image, caption, height) for image, caption in pictures) + "</div>"
