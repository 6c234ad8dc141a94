"""A checkpoint on an object store: fetched once per node, whole or not at all, and known by its content."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from importlib import resources
from pathlib import Path

import fsspec
import pytest

from sam3ray.config import ModelConfig, load_config
from sam3ray.engine import mirror
from sam3ray.engine.checkpoint import NotFetched, checkpoint_identity, load_checkpoint
from sam3ray.engine.mirror import mirrored
from sam3ray.failures import JobStopped, NotNow, UserError
from tests.servers import Place

EMBEDDED = Path(str(resources.files("sam3ray") / "embedded"))


@pytest.fixture
def weights(s3_place: Place) -> tuple[str, dict[str, str]]:
    """The embedded checkpoint on S3: its address, and the options to reach it."""
    address = s3_place.uri.rsplit("/", 2)[0] + "/weights/tiny"
    fs = fsspec.filesystem("s3", **s3_place.options, skip_instance_cache=True)
    for file in EMBEDDED.iterdir():
        fs.put_file(str(file), f"{address}/{file.name}")
    return address, s3_place.options


def fetch(address: str, options: dict[str, str], cache: str, opened: object = None) -> str:
    folder = mirrored(address, options, Path(cache))
    assert folder is not None
    return str(folder)


def test_a_checkpoint_on_s3_is_the_one_in_a_folder(weights: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, options = weights
    config = ModelConfig(checkpoint=address, cache_dir=str(tmp_path), device="cpu")
    with pytest.raises(NotFetched, match="has not been fetched to this machine yet"):
        checkpoint_identity(config, patient=False, storage_options=options)
    identity = checkpoint_identity(config, storage_options=options)
    assert identity == checkpoint_identity(ModelConfig(checkpoint="embedded"))
    assert identity == checkpoint_identity(config, patient=False, storage_options=options)
    assert load_checkpoint(config, options).info["checkpoint"] == address
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert "README.md" not in os.listdir(folder)


def test_actors_of_a_node_fetch_it_once(
    weights: tuple[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, options = weights
    fetched: Counter[str] = Counter()
    whole = mirror._fetch_file

    def counted(fs: object, source: str, *rest: object) -> None:
        fetched[source] += 1
        whole(fs, source, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(mirror, "_fetch_file", counted)
    folders: list[str] = []
    threads = [
        threading.Thread(target=lambda: folders.append(fetch(address, options, str(tmp_path)))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 6
    assert len(set(folders)) == 1
    assert set(fetched.values()) == {1}
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:  # other processes find what is there
        assert set(pool.starmap(fetch, [(address, options, str(tmp_path))] * 2)) == set(folders)


def test_a_fetch_that_dies_is_started_over(weights: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, options = weights
    code = (
        "import sys, time; from pathlib import Path; from sam3ray.engine import mirror\n"
        "whole = mirror._fetch_file\n"
        "def slow(*args):\n"
        "    whole(*args); print('one', flush=True); time.sleep(60)\n"
        "mirror._fetch_file = slow\n"
        "mirror.mirrored(sys.argv[1], {'endpoint_url': sys.argv[2]}, Path(sys.argv[3]))\n"
    )
    command = [sys.executable, "-c", code, address, options["endpoint_url"], str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "one\n"
        process.send_signal(signal.SIGKILL)
    assert mirrored(address, options, tmp_path, fetch=False) is None
    folder = mirrored(address, options, tmp_path)
    assert folder is not None
    assert (folder / "model.safetensors").read_bytes() == (EMBEDDED / "model.safetensors").read_bytes()
    assert not list(tmp_path.glob("*.part"))


def test_a_replaced_checkpoint_is_fetched_again(weights: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, options = weights
    first = mirrored(address, options, tmp_path)
    fs = fsspec.filesystem("s3", **options, skip_instance_cache=True)
    changed = (EMBEDDED / "config.json").read_bytes().replace(b"{", b"{ ", 1)
    fs.pipe_file(f"{address}/config.json", changed)
    second = mirrored(address, options, tmp_path)
    assert first != second
    assert second is not None
    assert (second / "config.json").read_bytes() == changed


def test_a_file_cut_short_is_no_checkpoint(
    weights: tuple[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, options = weights
    monkeypatch.setattr(mirror.shutil, "copyfileobj", lambda source, sink, size: sink.write(source.read(100)))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(NotNow, match=r"100 of \d+ bytes of .* arrived"):
        mirrored(address, options, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("s3://nosuchbucket-sam3ray/weights", "does not exist"),
        ("ftp://host/weights", "is on ftp://; allowed: a path, s3://"),
        ("s3://bucket//weights", "contains a double slash"),
    ],
)
def test_what_is_no_checkpoint_is_said(address: str, sentence: str, s3_place: Place, tmp_path: Path) -> None:
    with pytest.raises(JobStopped, match=f"model.checkpoint '{address}' {sentence}"):
        mirrored(address, s3_place.options, tmp_path)


def test_a_folder_without_weights_is_said(s3_place: Place, tmp_path: Path) -> None:
    fs = fsspec.filesystem("s3", **s3_place.options, skip_instance_cache=True)
    fs.pipe_file(f"{s3_place.uri}/config.json", b"{}")
    with pytest.raises(JobStopped, match=r"it needs config.json and a .safetensors file"):
        mirrored(s3_place.uri, s3_place.options, tmp_path)


def test_addresses_of_checkpoints_are_checked_with_the_configuration(tmp_path: Path) -> None:
    given = {"manifest": "m.csv", "output": str(tmp_path / "run")}
    assert load_config({**given, "model": {"checkpoint": f"file://{tmp_path}"}}).model.checkpoint == str(tmp_path)
    assert load_config({**given, "model": {"checkpoint": "s3a://b/w"}}).model.checkpoint == "s3://b/w"
    for wrong in ("s3:///w", "nosuch://b/w"):
        with pytest.raises(UserError, match=r"model\.checkpoint"):
            load_config({**given, "model": {"checkpoint": wrong}})
    with pytest.raises(UserError, match=r"model.cache_dir .* is not a local path"):
        load_config({**given, "model": {"cache_dir": "s3://b/cache"}})
