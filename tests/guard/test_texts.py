"""What is said of JSON, YAML and Parquet that cannot be read: our words, with the place, never a library's alone."""

from __future__ import annotations

import io
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from sam3ray.guard.damaged import why_unreadable
from sam3ray.guard.jsontext import no_constant, parse_json
from sam3ray.guard.yamltext import line_of, why_not_yaml


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ('{"a": [1, 2', "it ends too early, at line 1, column 12"),
        ('{"a": 1,\n "b" 2}', "a colon is missing at line 2, column 6"),
        ("[1 2]", "a comma or a closing bracket is missing at line 1, column 4"),
        ("{a: 1}", "a key in double quotes is missing at line 1, column 2"),
        ('["a]', "a quote is not closed at line 1, column 2"),
        ("[1] []", "something follows the value at line 1, column 5"),
        ("[nul]", "a value is missing at line 1, column 2"),
        ('["\\q"]', "a backslash is followed by a wrong character at line 1, column 3"),
        ("[NaN]", "NaN is not a number in JSON"),
        ("[" * 200_000, "it is nested too deeply"),
        ("9" * 5000, "a number has thousands of digits"),
        (b'"\xff"', "it is not text in UTF-8"),
    ],
)
def test_json(text: str | bytes, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        parse_json(text, constant=no_constant)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: [1", 1, "a list in [ ] is not closed, or a comma is missing"),
        ("a: 1\nb: c: d", 2, "there is a second ':' on the line; put the value in quotes, or indent it"),
        ("a: \x07", None, "it contains the character U+0007, which YAML does not allow; remove it"),
        ("a: 1\nb: !no 1", 2, "a value has an unknown tag; remove what begins with '!'"),
    ],
)
def test_yaml(text: str, line: int | None, said: str) -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        yaml.safe_load(text)
    assert (line_of(caught.value), why_not_yaml(caught.value)) == (line, said)


def test_parquet() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": list(range(1000))}), sink, compression="zstd")
    whole = sink.getvalue()
    size = int.from_bytes(whole[-8:-4], "little")  # of the list of contents
    header = pq.read_metadata(io.BytesIO(whole)).row_group(0).column(0).data_page_offset
    cases = {
        "it is another kind of file, or only part of one": whole[:200],
        "its list of contents is damaged": whole[: -8 - size] + bytes(size) + whole[-8:],
        "its compressed data is damaged": whole[: header + 40] + bytes(200) + whole[header + 240 :],
    }
    found = {}
    for said, data in cases.items():
        with pytest.raises((pa.ArrowException, OSError)) as caught:
            pq.read_table(io.BytesIO(data))
        found[said] = why_unreadable(caught.value)
    assert found == {said: said for said in cases}
    assert why_unreadable(ValueError("the file has no column clip_id")) == "the file has no column clip_id"
