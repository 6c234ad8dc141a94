"""What `plan` accepts `run` freezes and starts; what it refuses `run` refuses, in the same words."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sam3ray.config import JobConfig, VideoConfig
from sam3ray.failures import JobStopped, UserError
from sam3ray.job.driver import run_job
from sam3ray.planning import plan_job
from sam3ray.planning._probing import probe_one
from sam3ray.store import RunStore
from tests.planning.test_plan import frames_folder

LONG = "a very long phrase " * 8


class Started(Exception):
    """The driver got as far as Ray: everything was accepted and frozen."""


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def connected(*_: Any) -> Iterator[None]:
        raise Started
        yield

    def probe_here(uris: Sequence[str], limits: VideoConfig, storage: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        return {uri: probe_one(uri, limits, storage) for uri in uris}  # processes of their own would take a second

    monkeypatch.setattr("sam3ray.job.driver.connected", connected)
    monkeypatch.setattr("sam3ray.planning._plan.probe_all", probe_here)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return frames_folder(tmp_path / "a", frames=2)


def job(folder: Path, rows: list[dict[str, Any]], **sections: Any) -> JobConfig:
    manifest = folder / "m.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sections = {"model": {"checkpoint": "embedded"}, "prompts": ("red circle",), **sections}
    return JobConfig(manifest=str(manifest), output=str(folder / "run"), cluster={"gpus_per_actor": 0}, **sections)


def outcome(call: Any, config: JobConfig) -> tuple[str, ...]:
    try:
        call(config)
    except (UserError, JobStopped) as error:
        return tuple(getattr(error, "problems", None) or (str(error),))
    except Started:
        RunStore(config.output).manifest()
    return ()


@pytest.mark.parametrize(
    ("row", "sections", "says"),
    [
        ({"prompts": ["red circle", LONG.strip()]}, {}, r"clip c: the phrase 'a very long .*' has \d+ tokens"),
        ({}, {"prompts": (LONG.strip(),)}, r"clip c: the phrase 'a very long .*' has \d+ tokens"),
        ({}, {"tracking": {"hotstart_delay": 2}}, r"tracking\.hotstart_\w+ is \d+, above tracking\.hotstart_delay"),
        ({}, {"model": {"checkpoint": "/no/such/folder"}}, "no such folder exists"),
        ({"x\ud800": 1}, {}, "an unpaired surrogate in its name"),
        ({"x": "\ud800"}, {}, "surrogates"),
    ],
)
def test_both_refuse_in_the_same_words_and_nothing_is_left(
    row: dict[str, Any], sections: dict[str, Any], says: str, video: Path, tmp_path: Path
) -> None:
    config = job(tmp_path, [{"uri": str(video), "clip_id": "c", **row}], **sections)
    planned = outcome(plan_job, config)
    assert planned == outcome(run_job, config)
    assert re.search(says, " ".join(planned))
    assert not Path(config.output).exists()


@pytest.mark.parametrize("depth", [1, 60, 200])
@pytest.mark.parametrize("value", [{}, {"a": {}}, [], [{}], [[{"a": []}]], None, {"a": None}, {"": 1}])
def test_any_json_can_be_carried(value: Any, depth: int, video: Path, tmp_path: Path) -> None:
    nested = value
    for _ in range(depth - 1):
        nested = [nested]
    config = job(tmp_path, [{"uri": str(video), "clip_id": "c", "meta": nested}])
    assert outcome(plan_job, config) == outcome(run_job, config) == ()
    (carried,) = RunStore(config.output).manifest_table().column("meta").to_pylist()
    assert carried == nested or json.loads(carried) == nested


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(max_size=4), JSON, max_size=3), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_manifest_carries_both_say_the_same(
    tmp_path_factory: pytest.TempPathFactory, no_ray: None, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("job")
    named = [{**row, "uri": "/absent.mp4", "clip_id": f"c{i}", "prompts": ["x"]} for i, row in enumerate(rows)]
    config = job(folder, named)
    planned = outcome(lambda each: plan_job(each, sample=1), config)
    assert planned == outcome(run_job, config)
