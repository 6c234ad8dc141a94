"""What a user meets when the configuration is right, and when it is not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml

from sam3ray.config import JobConfig, config_from_text, load_config, resolve_paths
from sam3ray.failures import UserError

GOOD = "manifest: clips.csv\noutput: labels\nprompts: [person]\n"
ROOT = Path(__file__).parents[2]


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        config_from_text(text, "job.yaml", overrides)
    return list(caught.value.problems)


def problem(text: str, *overrides: str) -> str:
    (sentence,) = problems(text, *overrides)
    return sentence


def test_defaults_are_the_documented_ones() -> None:
    config = config_from_text(GOOD, "job.yaml")
    assert config.model.checkpoint == "facebook/sam3"
    assert config.model.dtype == "auto"
    assert config.tracking.rules == "published"
    assert config.tracking.new_det_thresh is None
    assert (config.cluster.actors.min, config.cluster.actors.max) == (1, 8)
    assert config.retry.crashes == 3
    assert config.render.enabled is False
    assert config.storage == {}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory; the file is in another one."""
    for name in ("jobs", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def put(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        path.mkdir()
    else:
        path.write_text("")


PLACES = [  # key, value, what makes it exist, whether a folder
    ("manifest", "in/clips.csv", "in/clips.csv", "file"),
    ("manifest", "in/clips/", "in/clips", "folder"),
    ("manifest", "in/*.mp4", "in", "folder"),
    ("visual_prompts", "clicks.jsonl", "clicks.jsonl", "file"),
    ("model.checkpoint", "weights/tuned", "weights/tuned", "folder"),
    ("model.checkpoint", "./tuned", "tuned", "folder"),
    ("output", "labels/run", "labels/run/run.json", "file"),
]


@pytest.mark.parametrize(("key", "value", "thing", "kind"), PLACES)
@pytest.mark.parametrize("where", ["jobs", "here", "both", "none"])
def test_a_files_relative_paths_are_beside_it_or_here_with_a_warning(
    key: str, value: str, thing: str, kind: str, where: str, elsewhere: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = elsewhere.parent
    for name in ("jobs", "here") if where == "both" else (where,):
        if name != "none":
            put(base / name / thing, kind)
    data: dict[str, Any] = {"manifest": "/m.csv", "output": "/o"}
    section, _, name = key.rpartition(".")
    (data.setdefault(section, {}) if section else data)[name] = value
    (base / "jobs/job.yaml").write_text(yaml.safe_dump(data))
    config = load_config("../jobs/job.yaml")
    found = config.model.checkpoint if section else getattr(config, name)
    expected = os.path.normpath(base / ("here" if where == "here" else "jobs") / value)
    if (key, value, where) == ("model.checkpoint", "weights/tuned", "none"):
        expected = value  # a hub id, for all that is known
    assert found.rstrip("/") == expected
    assert found.endswith("/") == (value.endswith("/"))
    assert (f"{key} is resolved in the current directory" in caplog.text) == (where == "here")


def test_what_is_set_on_the_command_line_is_here(elsewhere: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = elsewhere.parent
    for name in ("clips.csv", "labels/run.json", "tuned/config.json"):
        put(base / "jobs" / name, "file")
    put(elsewhere / "tuned", "folder")
    (base / "jobs/job.yaml").write_text("manifest: clips.csv\noutput: labels\nmodel: {checkpoint: tuned}\n")
    sets = ["manifest=clips.csv", "output=labels", "model.checkpoint=tuned"]
    config = load_config("../jobs/job.yaml", sets)
    places = (config.manifest, config.output, config.model.checkpoint)
    assert places == tuple(str(elsewhere / name) for name in ("clips.csv", "labels", "tuned"))
    assert "current directory" not in caplog.text
    config = load_config("../jobs/job.yaml", sets[:1])
    assert (config.manifest, config.output) == (str(elsewhere / "clips.csv"), str(base / "jobs/labels"))


def test_beside_a_file_on_a_store_is_on_that_store(elsewhere: Path) -> None:
    fsspec.filesystem("memory").pipe("/jobs/a/job.yaml", b"manifest: ../clips.csv\noutput: /labels\n")
    config = load_config("memory://jobs/a/job.yaml")
    assert (config.manifest, config.output) == ("memory://jobs/clips.csv", "/labels")


def test_dicts_mean_the_current_directory(elsewhere: Path) -> None:
    put(elsewhere / "tuned", "folder")
    config = resolve_paths(JobConfig(manifest="clips.csv", output="labels", model={"checkpoint": "tuned"}))
    places = (config.manifest, config.output, config.model.checkpoint)
    assert places == tuple(str(elsewhere / name) for name in ("clips.csv", "labels", "tuned"))


def test_kinds_of_storage_are_a_list_in_yaml_and_json() -> None:
    config = config_from_text("{manifest: m, output: o, video: {protocols: [sftp]}}", "job.yaml")
    assert config.video.protocols == ("sftp",)
    assert JobConfig.model_validate_json(config.model_dump_json()) == config


def test_addresses_stay_as_they_are() -> None:
    config = config_from_text("manifest: s3://b/c.csv\noutput: s3://b/../out", "job.yaml")
    assert (config.manifest, config.output) == ("s3://b/c.csv", "s3://b/../out")


def test_every_problem_is_reported_at_once() -> None:
    found = problems(
        "manifest: clips.csv\nmodel: {dtype: fp16, chekpoint: x}\ntracking: {new_det_thresh: 2}\nvideo: {fps: -1}\n",
        "cluster.actors.max=zero",
    )
    assert len(found) == 6
    for key in ("output", "model.dtype", "model.chekpoint", "tracking.new_det_thresh", "video.fps", "actors.max"):
        assert sum(key in sentence for sentence in found) == 1


def test_a_problem_names_line_key_value_and_what_is_allowed() -> None:
    assert problem(GOOD + "tracking:\n  # strict\n  new_det_thresh: 1.5\n") == (
        "job.yaml line 6: tracking.new_det_thresh is 1.5; allowed: a number from 0 to 1, or null"
    )


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("promts: [a]", "prompts"),
        ("model: {chekpoint: a}", "model.checkpoint"),
        ("checkpoint: a", "model.checkpoint"),
        ("cluster: {max: 3}", "cluster.actors.max"),
        ("tracking: {new_detection_thresh: 0.5}", "tracking.new_det_thresh"),
    ],
)
def test_an_unknown_key_names_the_nearest(text: str, meant: str) -> None:
    sentence = problem(f"{GOOD}{text}" if "prom" not in text else f"manifest: a\noutput: b\n{text}")
    assert f"the nearest known key is {meant}" in sentence


@pytest.mark.parametrize(
    "text",
    [
        "video: {fps: true}",
        "video: {fps: '5'}",
        "video: {fps: .inf}",
        "video: {fps: .nan}",
        "video: {fps: 0}",
        "video: {queue_frames: 1.5}",
        "render: {enabled: 1}",
        "render: yes please",
        "model: {device: gpu}",
        "model: {revision: 7}",
        "model: [a]",
        "storage: s3",
        "prompts: [a, 1]",
        "prompts: [a, '']",
        "prompts: [Person, person]",
        "prompts: {a: b}",
        'prompts: ["a\\nb"]',
    ],
)
def test_values_of_other_types_and_out_of_range_are_refused(text: str) -> None:
    base = "manifest: a\noutput: b\n" if text.startswith("prompts") else GOOD
    sentence = problem(f"{base}{text}")
    assert text.split(":")[0] in sentence
    assert "allowed: " in sentence


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("cluster: {actors: {min: 4, max: 2}}", ("cluster.actors.min", "cluster.actors.max")),
        ("model: {device: cpu}", ("model.device", "cluster.gpus_per_actor")),
        ("model: {device: cuda}\ncluster: {gpus_per_actor: 0}", ("model.device", "cluster.gpus_per_actor")),
        ("cluster: {gpus_per_actor: 1.5}", ("cluster.gpus_per_actor",)),
        ("model: {checkpoint: embedded, revision: v2}", ("model.checkpoint", "model.revision")),
        ("tracking: {min_trk_keep_alive: 5, max_trk_keep_alive: 1}", ("tracking.min_trk_keep_alive",)),
    ],
)
def test_keys_that_disagree_are_refused(text: str, keys: tuple[str, ...]) -> None:
    sentence = problem(f"{GOOD}{text}")
    assert all(key.rpartition(".")[2] in sentence for key in keys)


def test_disagreeing_keys_are_reported_beside_wrong_values() -> None:
    found = problems(f"{GOOD}model: {{device: cpu}}\nvideo: {{fps: 0}}")
    assert len(found) == 2


def test_a_consequence_of_a_wrong_value_is_not_reported_as_well() -> None:
    assert "gpus_per_actor is 'none'" in problem(f"{GOOD}model: {{device: cpu}}\ncluster: {{gpus_per_actor: none}}")


def test_output_must_not_be_the_manifest() -> None:
    assert "same place" in problem("manifest: clips\noutput: clips/")


def test_sections_left_empty_have_their_defaults() -> None:
    text = f"{GOOD}storage:\n  # endpoint_url: x\nmodel:\ncluster:\n  actors:\n"
    assert config_from_text(text, "job.yaml") == config_from_text(GOOD, "job.yaml")
    assert problem(f"{GOOD}model: {{dtype: null}}")


# --set


def test_set_wins_over_the_file_and_takes_yaml() -> None:
    config = config_from_text(
        f"{GOOD}video: {{fps: 5}}",
        "job.yaml",
        ["video.fps=null", "prompts=[red car, dog]", "cluster.actors.max=2", "storage.client_kwargs.region_name=eu"],
    )
    assert config.video.fps is None
    assert config.prompts == ("red car", "dog")
    assert config.cluster.actors.max == 2
    assert config.storage == {"client_kwargs": {"region_name": "eu"}}


def test_set_can_supply_what_the_file_lacks() -> None:
    assert config_from_text("manifest: a", "job.yaml", ["output=b"]).output == os.path.abspath("b")


def test_set_of_phrases_as_one_text() -> None:
    assert config_from_text(GOOD, "job.yaml", ["prompts=red car; dog"]).prompts == ("red car", "dog")


def test_the_last_set_wins() -> None:
    assert config_from_text(GOOD, "job.yaml", ["video.fps=1", "video.fps=2"]).video.fps == 2


@pytest.mark.parametrize("override", ["video.fps", "=3", "video.=3", ".fps=3", "", "video.fps=[", "video.fps=&a 1"])
def test_a_malformed_set_is_refused(override: str) -> None:
    assert "--set" in problem(GOOD, override)


def test_a_problem_of_a_set_says_so() -> None:
    assert problem(GOOD, "video.fps=fast").startswith("--set: video.fps is 'fast'")


# YAML from strangers


def test_numbers_in_exponent_form_are_numbers() -> None:
    assert config_from_text(f"{GOOD}retry: {{no_progress_s: 1e3}}", "job.yaml").retry.no_progress_s == 1000


def test_a_key_given_twice_is_refused_with_both_lines() -> None:
    sentence = problem(f"{GOOD}video:\n  fps: 1\n  fps: 2\n")
    assert "line 6" in sentence
    assert "first on line 5" in sentence


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "manifest: !!python/object/apply:os.system ['true']\noutput: b\n",
        "manifest: !include other.yaml\noutput: b",
        "<<: {manifest: a}\noutput: b",
        "? [a]\n: b",
        "manifest: [unclosed",
        "\tmanifest: a",
        "--- a\n--- b",
        "just text",
        "- a\n- b",
        "",
        "null",
        "manifest: a\x00b",
        "[" * 5000,
        "{a: " * 5000,
        "manifest: " + "9" * 5000 + "\noutput: b",
        "x" * 300_000,
    ],
)
def test_hostile_yaml_is_refused_with_a_sentence(text: str) -> None:
    assert problems(text)


def test_a_file_that_is_missing_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_config(str(tmp_path / "nothing.yaml"))
    with pytest.raises(UserError, match="is a folder"):
        load_config(str(tmp_path))
    (tmp_path / "latin.yaml").write_bytes(b"manifest: caf\xe9\n")
    with pytest.raises(UserError, match=r"line 1: byte 0xe9 is not UTF-8"):
        load_config(str(tmp_path / "latin.yaml"))


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_config(str(tmp_path / "bom.yaml")).prompts == ("person",)


# secrets


@pytest.mark.parametrize(
    "storage",
    [
        "key: hunter2",
        "secret: hunter2",
        "token: hunter2",
        "password: hunter2",
        "sas_token: hunter2",
        "connection_string: hunter2",
        "account_key: hunter2",
        "client_kwargs: {aws_secret_access_key: hunter2}",
        "client_kwargs: {aws_session_token: hunter2}",
        "endpoint_url: 'http://user:hunter2@minio:9000'",
        "fallbacks: [{secret: hunter2}]",
        "headers: {X-Any: hunter2}",
        "http: {client_kwargs: {headers: {X-Any: hunter2}}}",
        "http: {client_kwargs: {cookies: {sid: hunter2}}}",
        "http: {client_kwargs: {headers: [[X-Any, hunter2]]}}",
        "Authorization: Bearer hunter2hunter2",
        "x-api-key: hunter2",
        "endpoint_url: 'https://store.example/?code=hunter2'",
        "endpoint_url: 'https://hunter2@store.example'",
        "endpoint_url: 'https://u:hunter2@[::1]:9000'",
        "note: AKIAABCDEFGHIJKLMNOP hunter2",
        "anything: eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJodW50ZXIyIn0.hunter2",
    ],
)
def test_secrets_are_refused_and_not_repeated(storage: str) -> None:
    sentence = problem(f"{GOOD}storage: {{{storage}}}")
    assert "environment" in sentence
    assert "storage." in sentence
    assert "hunter2" not in sentence


def test_a_secret_in_the_wrong_place_is_not_repeated_either() -> None:
    assert "hunter2" not in problem(f"{GOOD}aws_secret_access_key: hunter2")
    assert "hunter2" not in problem("manifest: a\noutput: s3://key:hunter2@bucket/x")


def test_options_that_are_no_secrets_pass() -> None:
    storage = {"anon": True, "token": "anon", "endpoint_url": "http://localhost:9000", "account_name": "acme"}
    config = config_from_text(GOOD + yaml.safe_dump({"storage": storage}), "job.yaml")
    assert config.storage == storage


# the examples


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_example_configurations_are_right(path: Path) -> None:
    assert isinstance(load_config(str(path)), JobConfig)


def test_python_callers_may_pass_lists() -> None:
    assert JobConfig(manifest="a", output="b", prompts=["person"]).prompts == ("person",)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", ["0x" + "f" * 6000, "0b" + "1" * 60_000, "1" + ":1" * 3000, "9" * 6000])
def test_numbers_of_thousands_of_digits_are_a_sentence(number: str) -> None:
    for line in (f"video: {{fps: {number}}}", f"prompts: [{number}]", f"storage: {{a: {number}}}"):
        with pytest.raises(UserError, match="line 3: "):
            config_from_text(f"manifest: m\noutput: /run\n{line}\n", "job.yaml")
    with pytest.raises(UserError, match="--set"):
        config_from_text(
            "manifest: m\noutput: /run\n", "job.yaml", [f"video.fps={number}", ".".join("a" * 5000) + "=1"]
        )


def test_a_bare_off_means_off() -> None:
    """YAML 1.1 reads it as false."""
    text = "{manifest: m.csv, output: out, prompts: [x], windows: {mode: off}}"
    assert config_from_text(text, "job.yaml").windows.mode == "off"
    text = "{manifest: m.csv, output: out, prompts: [x]}"
    assert config_from_text(text, "job.yaml", ["windows.mode=off"]).windows.mode == "off"
    with pytest.raises(UserError, match=r"windows.mode is true; allowed: 'checkpoint', 'parallel' or 'off'"):
        config_from_text(text, "job.yaml", ["windows.mode=on"])


class TestSurrogates:
    """JSON is YAML, and writes a character beyond U+FFFF as two escapes."""

    def test_a_pair_is_its_character(self) -> None:
        text = json.dumps(
            {"manifest": "a", "output": "b", "prompts": ["a \U0001f600"], "cluster": {"resources": {"\U0001f600": 1}}}
        )
        assert "\\ud83d" in text
        config = config_from_text(text, "job.yaml")
        assert config.prompts == ("a \U0001f600",)
        assert config.cluster.resources == {"\U0001f600": 1}

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ('prompts: ["\\ud83d"]', r"line 3: prompts.0 cannot be read: '\\ud83d' has half"),
            ('cluster: {resources: {"\\udc00\\ud800": 1}}', r"line 3: the key '\\udc00\\ud800' has half"),
        ],
    )
    def test_half_a_pair_is_a_sentence(self, text: str, place: str) -> None:
        with pytest.raises(UserError, match=place):
            config_from_text(f"manifest: a\noutput: b\n{text}\n", "job.yaml")

    def test_bytes_of_another_encoding_on_the_command_line(self) -> None:
        with pytest.raises(UserError, match=r"--set 'cluster\.resources"):
            config_from_text("manifest: a\noutput: b\n", "job.yaml", ["cluster.resources.\udcff=1"])
