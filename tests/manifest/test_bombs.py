"""Tables of a few kilobytes that unpack to gigabytes, and texts that crash readers."""

from __future__ import annotations

import io
import json
import resource
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam3ray.config import JobConfig
from sam3ray.failures import UserError
from sam3ray.manifest import _text as text_module
from sam3ray.manifest import read_manifest
from sam3ray.manifest._prompts import read_prompt_file
from tests.files.test_web import send, server

CONFIG = JobConfig(manifest="m", output="/run", prompts=("p",))
MEMORY_BYTES = 700 * 2**20  # what reading may take here, of the gigabytes that are asked for


def refusals(path: Path | str) -> str:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as caught:
        read_manifest(str(path), CONFIG)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY_BYTES
    (sentence,) = caught.value.problems
    assert sentence.isprintable()
    return sentence


def bomb(name: str, path: Path) -> Path:
    rows = 20_000
    uris = [f"{i}.mp4" for i in range(rows)]
    long = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * 100_000]))  # 2 GB
    listed = pa.ListArray.from_arrays(list(range(rows + 1)), long)
    name, _, kept = name.partition(" as ")
    columns: dict[str, Any] = {
        "the uri": {"uri": long},
        "another column": {"uri": uris, "note": long},
        "lists": {"uri": uris, "notes": listed},
        "structs": {"uri": uris, "notes": pa.StructArray.from_arrays([long], ["a"])},
    }
    pq.write_table(pa.table(columns[name]), path, compression="zstd", store_schema=bool(kept))
    assert path.stat().st_size < 2_000_000
    return path


@pytest.mark.parametrize(
    "name", ["another column", *(f"{name} as a dictionary" for name in ("the uri", "lists", "structs"))]
)
def test_tables_that_unpack_to_gigabytes_are_refused(tmp_path: Path, name: str) -> None:
    sentence = refusals(bomb(name, tmp_path / "m.parquet"))
    assert "the limit" in sentence or "more memory" in sentence


def test_a_page_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    """The header of each page says how much it unpacks to, in a variable-length number that a byte can change."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"uri": ["a" * 3000 for _ in range(50)]}), sink, compression="zstd", use_dictionary=False)
    data = sink.getvalue()
    endings = set()
    for at in range(4, 16):
        (tmp_path / "m.parquet").write_bytes(data[:at] + b"\xfe\xff\xff\xff\x0f" + data[at + 5 :])
        try:
            read_manifest(str(tmp_path / "m.parquet"), CONFIG)
        except UserError as error:
            endings.add(error.problems[0].partition(":")[0])
    assert f"{tmp_path}/m.parquet cannot be read as Parquet" in endings


def test_what_crashes_the_reader_does_not_crash_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"uri": ["a.mp4"]}), path)
    monkeypatch.setattr("sam3ray.manifest._parquet._read_file", crash)
    assert refusals(path) == f"{path} cannot be read as Parquet: the reader crashed (SIGABRT) on it"


def crash(*_: object) -> None:
    import os

    os.abort()


@pytest.mark.parametrize("deep", ["[" * 100_000, '{"a":' * 100_000, '{"a":[' * 100_000, "[" * 100_000 + "]" * 100_000])
def test_depth_is_a_bad_row_not_a_crash(tmp_path: Path, deep: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(f'{{"uri": "a.mp4", "x": {deep}}}\n{{"uri": "b.mp4"}}\n')
    assert "row 1 (line 1): not JSON: " in refusals(path)
    path.write_text(json.dumps({"uri": "a.mp4", "visual_prompts": deep}))
    assert "visual_prompts" in refusals(path)
    prompts = tmp_path / "p.jsonl"
    prompts.write_text(f'{{"clip_id": "a", "frame": {deep}}}\n')
    with pytest.raises(UserError, match=r"row 1 .*not JSON"):
        read_prompt_file(str(prompts), {})


def test_texts_of_too_many_values_are_refused_before_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "MAX_CELLS", 1000)
    (tmp_path / "m.csv").write_text("uri\n" + "," * 5000)
    (tmp_path / "m.jsonl").write_text('{"uri": "a", "x": [' + "[],{}," * 5000 + "0]}")
    for name in ("m.csv", "m.jsonl"):
        assert "values; allowed: 1000" in refusals(tmp_path / name)


def test_a_signed_address_is_a_file_and_no_pattern(tmp_path: Path) -> None:
    table = io.BytesIO()
    pq.write_table(pa.table({"uri": ["/a.mp4"]}), table)
    bodies = {"/m.csv": b"uri\n/a.mp4\n", "/m.parquet": table.getvalue(), "/m.jsonl": b'{"uri": "/a.mp4"}\n'}
    with server(lambda request: send(request, bodies[request.path.partition("?")[0]])) as url:
        for path in bodies:
            clips = read_manifest(f"{url}{path}?sig=a%2Fb*[c]?.mp4", CONFIG)
            assert [clip.uri for clip in clips] == ["/a.mp4"]
