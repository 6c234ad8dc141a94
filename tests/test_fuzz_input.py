"""Whatever the bytes, reading gives a value or a UserError: never another exception, never a hang.

`SAM3RAY_FUZZ=20000 pytest tests/test_fuzz_input.py` tries so many inputs per test.
"""

from __future__ import annotations

import io
import json
import os
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sam3ray.config import JobConfig, config_from_text, fingerprint
from sam3ray.config._fields import known_keys
from sam3ray.failures import UserError
from sam3ray.manifest import is_clip_id
from sam3ray.manifest._check import check_rows
from sam3ray.manifest._parquet import assemble, read_parts, rows_of
from sam3ray.manifest._rows import Rows
from sam3ray.manifest._text import read_csv, read_jsonl
from sam3ray.prompts import exemplar_items, exemplar_problem, parse_exemplars, parse_visual_prompts
from sam3ray.values.clip_ids import derive_clip_id
from sam3ray.values.prompt_reading import KEYS

TRIES = int(os.environ.get("SAM3RAY_FUZZ", "60"))
fuzz = settings(max_examples=TRIES, deadline=None, suppress_health_check=list(HealthCheck))

CONFIG = JobConfig(manifest="m", output="/elsewhere", prompts=("person",))
COLUMNS = ("uri", "clip_id", "prompts", "start_s", "end_s", "fps", "visual_prompts", "exemplars", "other")
EDGES = st.sampled_from(
    [
        "",
        " ",
        "a.mp4",
        "../../x",
        "s3://b/k",
        "::",
        "://",
        "a;b",
        ";",
        "nan",
        "1e999",
        "-0",
        "\x00",
        "\ud800",
        "é" * 300,
        "=1+1",
    ]
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30), EDGES)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)


def check_sentences(error: UserError) -> None:
    assert error.problems
    assert all(problem and "\n" not in problem for problem in error.problems), error.problems


def clips_or_error(read: Any) -> None:
    try:
        rows: Rows = read()
        manifest = check_rows(rows, CONFIG)
    except UserError as error:
        check_sentences(error)
        return
    assert all(is_clip_id(clip.clip_id) and clip.uri and clip.prompts for clip in manifest)
    assert len({clip.clip_id.lower() for clip in manifest}) == len(manifest)
    fingerprint(CONFIG, manifest)


def config_or_error(text: str, overrides: tuple[str, ...] = ()) -> None:
    try:
        assert isinstance(config_from_text(text, "job.yaml", overrides), JobConfig)
    except UserError as error:
        check_sentences(error)


@fuzz
@given(st.text(max_size=300))
def test_config_of_any_text(text: str) -> None:
    config_or_error(text)


keys = st.sampled_from([".".join(key) for key in known_keys(JobConfig)] + ["", "x", "model.x", "a.b.c", "prompts.0"])


@fuzz
@given(st.dictionaries(keys, values, max_size=8))
def test_config_of_known_keys_with_any_values(flat: dict[str, Any]) -> None:
    nested: dict[str, Any] = {"manifest": "a", "output": "b"}
    for key, value in flat.items():
        section: Any = nested
        *parents, last = key.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                break
        else:
            section[last] = value
    config_or_error(json.dumps(nested))  # JSON is YAML


@fuzz
@given(st.lists(st.one_of(st.text(max_size=40), st.tuples(keys, st.text(max_size=20)).map("=".join)), max_size=4))
def test_any_overrides(overrides: list[str]) -> None:
    config_or_error("manifest: a\noutput: b\n", tuple(overrides))


SEED_CONFIG = "manifest: a\noutput: b\nprompts: [x, 'y']\nmodel: {dtype: auto}\nvideo:\n  fps: 1.5  # note\n"


def mutated(seed: bytes) -> st.SearchStrategy[bytes]:
    """The seed with a few bytes changed, cut out, doubled or put in."""
    edit = st.tuples(st.integers(0, len(seed)), st.integers(0, 8), st.binary(max_size=8))

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = seed
        for at, length, insert in edits:
            data = data[:at] + insert + data[at + length :]
        return data

    return st.lists(edit, min_size=1, max_size=6).map(apply)


@fuzz
@given(mutated(SEED_CONFIG.encode()))
def test_config_with_damaged_bytes(data: bytes) -> None:
    config_or_error(data.decode("utf-8", "replace"))


@fuzz
@given(st.text(max_size=300))
def test_csv_of_any_text(text: str) -> None:
    clips_or_error(lambda: read_csv(text, "m.csv"))
    clips_or_error(lambda: read_csv("uri,clip_id,fps\n" + text, "m.csv"))


@fuzz
@given(mutated(b'uri,clip_id,prompts,start_s,other\na.mp4,a,"x; y",1.5,z\n"b,c.mp4",,,,\n'))
def test_csv_with_damaged_bytes(data: bytes) -> None:
    clips_or_error(lambda: read_csv(data.decode("utf-8", "replace"), "m.csv"))


def read_parquet(stream: io.BytesIO, name: str) -> Rows:
    return rows_of(assemble(read_parts(stream, name, "uri", 2**28)), name)


rows = st.lists(st.dictionaries(st.sampled_from(COLUMNS), values, max_size=8), min_size=1, max_size=5)


@fuzz
@given(rows)
def test_jsonl_of_any_values(records: list[dict[str, Any]]) -> None:
    clips_or_error(lambda: read_jsonl("\n".join(map(json.dumps, records)), "m.jsonl"))


@fuzz
@given(mutated(b'{"uri": "a.mp4", "prompts": ["x"], "start_s": 1.5, "other": {"a": [1, null]}}\n{"uri": "b.mp4"}\n'))
def test_jsonl_with_damaged_bytes(data: bytes) -> None:
    clips_or_error(lambda: read_jsonl(data.decode("utf-8", "replace"), "m.jsonl"))


@fuzz
@given(rows)
def test_parquet_of_any_values(records: list[dict[str, Any]]) -> None:
    columns = {}
    for name in sorted({key for record in records for key in record}):
        try:
            columns[name] = pa.array([record.get(name) for record in records])
        except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError):
            columns[name] = pa.array([repr(record.get(name)).encode("ascii", "replace").decode() for record in records])
    stream = io.BytesIO()
    try:
        pq.write_table(pa.table(columns), stream)
    except (pa.ArrowException, UnicodeEncodeError):
        return  # structs without fields cannot be written
    clips_or_error(lambda: read_parquet(io.BytesIO(stream.getvalue()), "m.parquet"))


def seed_parquet() -> bytes:
    stream = io.BytesIO()
    table = pa.table(
        {
            "uri": [f"s3://b/{i}.mp4" for i in range(20)],
            "prompts": [["x", "y"]] * 20,
            "start_s": [None, 1.5] * 10,
            "meta": [{"a": i} for i in range(20)],
            "kind": pa.array(["a", "b"] * 10).dictionary_encode(),
        }
    )
    pq.write_table(table, stream, row_group_size=8)
    return stream.getvalue()


@fuzz
@given(mutated(seed_parquet()))
def test_parquet_with_damaged_bytes(data: bytes) -> None:
    clips_or_error(lambda: read_parquet(io.BytesIO(data), "m.parquet"))


items = st.dictionaries(st.sampled_from(KEYS), values, max_size=6)
likely = st.fixed_dictionaries(
    {},
    optional={
        "object_id": st.integers(-1, 3),
        "label": EDGES,
        "frame": st.integers(-1, 5),
        "time_s": st.floats(),
        "units": st.sampled_from(["pixels", "relative", "px"]),
        "points": st.lists(st.lists(st.one_of(st.floats(), st.integers()), max_size=3), max_size=3),
        "labels": st.lists(st.one_of(st.integers(-1, 2), st.booleans(), EDGES, scalars), max_size=3),
        "box": st.lists(st.floats(0, 10), max_size=5),
        "mask": st.fixed_dictionaries(
            {},
            optional={"size": st.lists(st.integers(-1, 100), max_size=3), "counts": st.text(max_size=20), "png": EDGES},
        ),
    },
)


@fuzz
@given(st.one_of(values, st.lists(st.one_of(items, likely), max_size=4)))
def test_visual_prompts_of_any_values(value: Any) -> None:
    prompts, wrong = parse_visual_prompts(value)
    assert all(isinstance(sentence, str) for sentence in wrong)
    assert all(prompt.object_id >= 1 and prompt.label for prompt in prompts)
    prompts, wrong = parse_visual_prompts(json.dumps(value))


BOXED = st.fixed_dictionaries(
    {"boxes": st.one_of(values, st.lists(st.lists(st.floats(), min_size=4, max_size=4), max_size=3))},
    optional={
        "phrase": values, "label": values, "frame": values, "time_s": values, "labels": values,
        "units": st.sampled_from(["pixels", "relative", "ells", 3]),
    },
)  # fmt: skip


@fuzz
@given(st.one_of(values, st.lists(st.one_of(items, BOXED), max_size=4)))
def test_exemplars_of_any_values(value: Any) -> None:
    exemplars, wrong = parse_exemplars(value)
    assert all(isinstance(sentence, str) for sentence in wrong)
    assert all(each.name and exemplar_problem(each) is None for each in exemplars)
    assert parse_exemplars(json.dumps(exemplar_items(exemplars))) == (exemplars, [])


@fuzz
@given(st.text(), st.one_of(st.none(), st.floats(0, 1e9)), st.one_of(st.none(), st.floats(0, 1e9)))
def test_derived_ids_are_always_allowed(identity: str, start_s: float | None, end_s: float | None) -> None:
    assert is_clip_id(derive_clip_id(identity, start_s, end_s))
