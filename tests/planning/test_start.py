"""A run goes on with the weights that it began with, even where the hub is out of reach; others are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sam3ray.config import JobConfig, ModelConfig, config_from_text, fingerprint
from sam3ray.engine.checkpoint import HubUnreachable
from sam3ray.failures import Failure, JobStopped, Reason
from sam3ray.manifest import Clip, Manifest
from sam3ray.planning import Start, prepare
from sam3ray.store import RunStore

CLIPS = Manifest([Clip("a", "/a.mp4", ("person",))])
OLD = {"name": "facebook/sam3", "commit": "c" * 40, "sha256": "old"}
NEW = {"name": "facebook/sam3", "commit": "d" * 40, "sha256": "new"}

Hub = Callable[..., dict[str, str]]


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """A run that has failed one clip, begun with what `main` was then."""
    store = RunStore(str(tmp_path / "run"))
    begun = job(tmp_path)
    store.create_or_open(
        fingerprint(begun, CLIPS, OLD), begun.model_dump(mode="json"), CLIPS, extra={"checkpoint": OLD}
    )
    store.record_failure(Failure("a", Reason.CRASHED, "m"))
    return store


def job(tmp_path: Path, **model: str) -> JobConfig:
    return JobConfig(manifest="/m.csv", output=str(tmp_path / "run"), prompts=("person",), model=model)


def hub(answers: Mapping[str, dict[str, str]]) -> Hub:
    """What the hub's revisions stand for; a commit that is known is not asked for."""

    def identity(
        config: ModelConfig, known: Mapping[str, str] | None = None, *, patient: bool = True, **_: object
    ) -> dict[str, str]:
        if known is not None and known["commit"] == config.revision:
            return dict(known)
        if config.revision not in answers:
            raise HubUnreachable("the hub is out of reach")
        return answers[config.revision]

    return identity


def prepared(monkeypatch: pytest.MonkeyPatch, config: JobConfig, store: RunStore, answer: Hub, **how: bool) -> Start:
    monkeypatch.setattr("sam3ray.engine.checkpoint.checkpoint_identity", answer)
    return prepare(config, CLIPS, store, **how)


@pytest.mark.parametrize("answers", [{"main": NEW}, {}], ids=["moved", "out of reach"])
@pytest.mark.parametrize("revision", ["main", "c" * 40])
def test_a_run_goes_on_with_the_commit_that_it_began_with(
    answers: dict[str, dict[str, str]], revision: str, store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = prepared(monkeypatch, job(tmp_path, revision=revision), store, hub(answers))
    assert (start.refusal, start.checkpoint) == (None, OLD)
    assert start.begun is not None


def test_another_revision_that_is_asked_for_is_looked_up_and_refused(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = prepared(monkeypatch, job(tmp_path, revision="v2"), store, hub({"v2": NEW}))
    assert start.refusal is not None
    assert 'checkpoint.sha256 is "new", the run has "old"' in start.refusal


@pytest.mark.parametrize("same", [{"sha256": "old"}, {"name": "mirror/sam3", "commit": "e" * 40, "sha256": "old"}])
def test_the_same_files_under_another_name_are_the_same_model(
    same: dict[str, str], store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = prepared(monkeypatch, job(tmp_path, checkpoint="mirror/sam3"), store, hub({"main": same}))
    assert start.refusal is None
    assert start.checkpoint == same


def test_a_run_that_never_began_to_label_binds_nobody(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.clear_failures()
    start = prepared(monkeypatch, job(tmp_path, dtype="float32"), store, hub({"main": NEW}))
    assert (start.refusal, start.begun, start.checkpoint) == (None, None, NEW)


def test_a_plan_goes_on_without_the_hub_and_a_run_does_not(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = job(tmp_path, revision="v2")
    start = prepared(monkeypatch, elsewhere, store, hub({}), patient=False)
    assert (start.refusal, start.unknown) == (None, "the hub is out of reach")
    with pytest.raises(JobStopped, match="out of reach"):
        prepared(monkeypatch, elsewhere, store, hub({}))


@pytest.mark.parametrize(
    ("added", "other"),
    [
        ("tracking.detect_every", "4"),
        ("tracking.memory_frames", "4"),
        ("model.image_size", "504"),
        ("exemplars", "[{label: x, frame: 0, units: pixels, boxes: [[0, 0, 1, 1]], labels: [positive]}]"),
    ],
)
def test_a_run_begun_before_a_key_existed_goes_on_with_its_default(
    added: str, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = job(tmp_path)
    prints = fingerprint(begun, CLIPS, OLD)
    del prints[added]
    store = RunStore(begun.output)
    store.create_or_open(prints, begun.model_dump(mode="json"), CLIPS, extra={"checkpoint": OLD})
    store.record_failure(Failure("a", Reason.CRASHED, "m"))
    start = prepared(monkeypatch, begun, store, hub({"main": OLD}))
    assert (start.refusal, start.differences) == (None, ())
    assert start.fingerprint == store.run_info()["fingerprint"]  # new files say what the run's old ones say
    store.create_or_open(start.fingerprint, begun.model_dump(mode="json"), CLIPS)

    text = f"{{manifest: /m.csv, output: {begun.output}, prompts: [person]}}"
    changed = config_from_text(text, "job.yaml", [f"{added}={other}"])
    start = prepared(monkeypatch, changed, store, hub({"main": OLD}))
    assert start.refusal is not None
    assert added in start.refusal
