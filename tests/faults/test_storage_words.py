"""What people read of a store's or a library's error: no numbers, no classes, and what to do."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from sam3ray.app._start import _listener
from sam3ray.config import load_config
from sam3ray.engine.convert import convert
from sam3ray.failures import UserError
from sam3ray.faults.storage import explain
from sam3ray.files import read_bytes
from sam3ray.job.logs import set_up_logging
from sam3ray.manifest._parquet import read_parquet
from sam3ray.screening._run import _target


def test_an_error_of_a_disk_has_no_number(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotADirectoryError) as caught:
        (file / "x").read_bytes()
    assert str(explain(caught.value)) == "Not a directory (part of this path is a file: choose another folder)"


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UserError) as caught:
        read_bytes(f"http://127.0.0.1:{port}/a.csv", {}, 100, what="manifest")
    assert str(caught.value) == (
        f"manifest http://127.0.0.1:{port}/a.csv cannot be read: 127.0.0.1:{port} cannot be reached: nothing listens "
        "there (check the address and this machine's network)"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("manifest: v\n\toutput: x\n", "line 2: not YAML: a line begins with a tab; indent with spaces"),
        ("prompts: [a", "not YAML: a list in [ ] is not closed, or a comma is missing"),
        ("model: {dtype: auto", "not YAML: a mapping in { } is not closed, or a comma is missing"),
        ("output: 'x\n", "not YAML: a quote is not closed"),
        ("output: a: b\n", "not YAML: there is a second ':' on the line; put the value in quotes, or indent it"),
        ("output: @x\n", "not YAML: a value begins with a character that YAML reserves; put the value in quotes"),
    ],
)
def test_yaml_in_words(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(str(file))
    assert said in str(caught.value)


def test_a_table_of_another_kind(tmp_path: Path) -> None:
    file = tmp_path / "clips.parquet"
    file.write_bytes(b"uri,clip_id\n" * 50)
    with pytest.raises(UserError, match="as Parquet: it is another kind of file, or only part of one; write it again"):
        read_parquet(file, "clips.parquet")


@pytest.mark.parametrize("content", [b"hi\n", b"", b"PK\x03\x04", b"\x80\x02", bytes(range(256))])
def test_weights_of_another_kind(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read as weights|contains more than tensors"):
        convert(file, tmp_path / "made")


def test_a_client_that_logs_what_it_raises_is_quiet() -> None:
    package = logging.getLogger("sam3ray")
    before = package.handlers[:], package.level, package.propagate
    try:
        set_up_logging("warning")
        assert not logging.getLogger("gcsfs").isEnabledFor(logging.ERROR)
    finally:
        package.handlers[:], package.propagate = before[0], before[2]
        package.setLevel(before[1])


def test_a_ranking_needs_a_folder_on_the_store() -> None:
    with pytest.raises(UserError, match=r"allowed: the address of a \.parquet file in a folder"):
        _target(None, "foo://x.parquet", {})


def test_an_address_of_another_machine() -> None:
    with pytest.raises(UserError, match=r"--host nowhere.invalid --port 0: .*; allowed: an address of this machine"):
        _listener("nowhere.invalid", 0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("NoCredentialsError", "no credentials were found (set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PR"),
        ("NoRegionError", "no region is set (set the region of the bucket as AWS_DEFAULT_REGION or storage."),
    ],
)
def test_an_account_that_is_not_set_up(name: str, said: str) -> None:
    botocore = pytest.importorskip("botocore.exceptions")
    assert str(explain(getattr(botocore, name)())).startswith(said)
