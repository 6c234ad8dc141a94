"""Loading checkpoints: what loads, and what each failure says."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from sam3ray.config import ModelConfig
from sam3ray.engine import checkpoint
from sam3ray.engine.checkpoint import HubUnreachable, checkpoint_identity, load_checkpoint, resolved_dtype
from sam3ray.failures import JobStopped, NotNow


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub that is never reached, with an empty cache."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def folder(path: Path, config: object = None, weights: bytes | None = b"") -> ModelConfig:
    path.mkdir()
    if config is not None:
        (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if weights is not None:
        (path / "model.safetensors").write_bytes(weights)
    return ModelConfig(checkpoint=str(path))


@pytest.mark.parametrize("load", [load_checkpoint, checkpoint_identity])
class TestRefused:
    def test_a_folder_that_does_not_exist(self, load, tmp_path):
        with pytest.raises(JobStopped, match=r"no such folder"):
            load(ModelConfig(checkpoint=str(tmp_path / "absent")))

    def test_a_folder_without_a_config(self, load, tmp_path):
        with pytest.raises(JobStopped, match=r"has no config\.json"):
            load(folder(tmp_path / "c"))

    def test_a_config_that_is_no_json(self, load, tmp_path):
        with pytest.raises(JobStopped, match=r"config\.json cannot be read"):
            load(folder(tmp_path / "c", "{"))

    def test_a_model_of_another_type(self, load, tmp_path):
        with pytest.raises(JobStopped, match=r"is of type 'sam2'; sam3ray needs 'sam3_video'"):
            load(folder(tmp_path / "c", {"model_type": "sam2"}))

    def test_pickled_weights(self, load, tmp_path):
        config = folder(tmp_path / "c", {"model_type": "sam3_video"}, weights=None)
        (tmp_path / "c" / "pytest_model.bin").write_bytes(b"x")
        with pytest.raises(JobStopped, match=r"no \.safetensors file"):
            load(config)

    def test_a_hub_model_that_cannot_be_reached(self, load, no_hub):
        with pytest.raises(
            JobStopped, match=r"'facebook/sam3' is not in the local cache .*`hf download facebook/sam3`"
        ):
            load(ModelConfig(checkpoint="facebook/sam3", offline=True))


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (403, "GatedRepo", r"'facebook/sam3' is gated: request access .* HF_TOKEN"),
        (404, "RevisionNotFound", r"'facebook/sam3' has no revision 'main'"),
        (401, "RepoNotFound", r"'facebook/sam3' does not exist on the hub, or is private .*HF_TOKEN"),
    ],
)
def test_what_the_hub_refuses_says_what_to_do(status, code, says, tmp_path, monkeypatch):
    """Against a real HTTP server that answers as the hub does."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Request-Id", "test")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_):
            pass

    import huggingface_hub.constants as constants

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{hub.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(JobStopped, match=says):
            checkpoint_identity(ModelConfig(checkpoint="facebook/sam3"))
        hub.shutdown()


def test_damaged_weights_are_one_sentence(tmp_path):
    config = folder(tmp_path / "c", {"model_type": "sam3_video"}, weights=b"not safetensors")
    with pytest.raises(JobStopped, match=r"cannot be loaded: ") as raised:
        load_checkpoint(config)
    assert "\n" not in str(raised.value)


def test_a_device_that_is_not_there():
    with pytest.raises(JobStopped, match=r"model\.device is 'cuda:99', but this process sees \d+ CUDA devices"):
        load_checkpoint(ModelConfig(checkpoint="embedded", device="cuda:99"))


def test_identity_is_of_the_content_not_of_the_path(tmp_path):
    same = [checkpoint_identity(folder(tmp_path / n, {"model_type": "sam3_video"}, b"w")) for n in ("a", "b")]
    other = checkpoint_identity(folder(tmp_path / "c", {"model_type": "sam3_video"}, b"v"))
    assert same[0]["sha256"] == same[1]["sha256"] != other["sha256"]


@pytest.mark.parametrize("extra", ["README.md", "sam3.pt", "vocab.json"])
def test_files_that_make_no_other_model_make_no_other_identity(extra, tmp_path):
    config = folder(tmp_path / "c", {"model_type": "sam3_video"}, b"w")
    (tmp_path / "c" / "tokenizer.json").write_text("{}")
    before = checkpoint_identity(config)
    (tmp_path / "c" / extra).write_text("x")
    assert checkpoint_identity(config) == before


@pytest.mark.parametrize("changed", ["tokenizer.json", "model.safetensors", "processor_config.json", "config.json"])
def test_every_file_of_the_model_counts(changed, tmp_path):
    """A fine-tuned model has the header and the size of the one it began as."""
    config = folder(tmp_path / "c", {"model_type": "sam3_video"}, b"weights 1")
    for name in ("tokenizer.json", "processor_config.json"):
        (tmp_path / "c" / name).write_text("{}")
    before = checkpoint_identity(config)
    content = (tmp_path / "c" / changed).read_bytes()
    (tmp_path / "c" / changed).write_bytes(content[:-1] + (b"2" if changed == "model.safetensors" else b"} "))
    assert checkpoint_identity(config) != before


COMMITS = {"main": "c" * 40, "old": "0" * 40}


class FakeHub(BaseHTTPRequestHandler):
    """One repository whose `main` is where `COMMITS` says; its large file is never given out."""

    files: ClassVar = {"config.json": b'{"model_type": "sam3_video"}', "tokenizer.json": b"{}"}
    weights = b"w" * 1000
    asked: ClassVar[list[str]] = []

    def do_HEAD(self, body=True):
        self.asked.append(self.path)
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            lfs = {"sha256": hashlib.sha256(self.weights).hexdigest(), "size": 1000, "pointerSize": 1}
            siblings = [{"rfilename": n, "size": len(c), "blobId": "b"} for n, c in self.files.items()]
            siblings += [{"rfilename": "model.safetensors", "size": 1000, "blobId": "b", "lfs": lfs}]
            content = json.dumps({"id": "a/sam", "sha": parts[-1], "siblings": siblings}).encode()
        else:
            content = self.files[parts[-1]]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()[:40]}"')
        self.send_header(
            "X-Repo-Commit", COMMITS.get(parts[3], parts[3]) if len(parts) > 4 or parts[0] != "api" else ""
        )
        self.end_headers()
        if body:
            self.wfile.write(content)

    def do_GET(self):
        self.do_HEAD()

    def log_message(self, *_):
        pass


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    import huggingface_hub.constants as constants
    from huggingface_hub import hf_api

    with ThreadingHTTPServer(("127.0.0.1", 0), FakeHub) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{hub.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(hf_api.api, "endpoint", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(FakeHub, "asked", [])
        yield FakeHub
        hub.shutdown()


class TestHub:
    def test_the_same_files_are_the_same_model_from_the_hub_and_from_a_folder(self, fake_hub, tmp_path):
        local = folder(tmp_path / "c", None, fake_hub.weights)
        for name, content in fake_hub.files.items():
            (tmp_path / "c" / name).write_bytes(content)
        identity = checkpoint_identity(ModelConfig(checkpoint="a/sam"))
        assert identity == {"name": "a/sam", "commit": "c" * 40, "sha256": checkpoint_identity(local)["sha256"]}
        assert not [path for path in fake_hub.asked if path.endswith("model.safetensors")]

    def test_what_is_known_is_not_asked_again(self, fake_hub):
        known = {"name": "a/sam", "commit": "0" * 40, "sha256": "s"}
        assert checkpoint_identity(ModelConfig(checkpoint="a/sam", revision="0" * 40), known) == known
        assert fake_hub.asked == []

    def test_without_a_hub_its_cache_tells(self, fake_hub, tmp_path, monkeypatch):
        config = ModelConfig(checkpoint="a/sam")
        online = checkpoint_identity(config)
        (blobs,) = (tmp_path / "hub").glob("*/blobs")
        blob = blobs / hashlib.sha256(fake_hub.weights).hexdigest()
        blob.write_bytes(fake_hub.weights)
        (blobs.parent / "snapshots" / ("c" * 40) / "model.safetensors").symlink_to(blob)
        fake_hub.asked.clear()
        assert checkpoint_identity(config.model_copy(update={"offline": True})) == online
        assert fake_hub.asked == []


def test_a_hub_that_does_not_answer_is_told_apart_quickly(monkeypatch, tmp_path):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HubUnreachable, match="is not in the local cache and the hub cannot be reached"):
        checkpoint_identity(ModelConfig(checkpoint="facebook/sam3"), patient=False)


def test_auto_dtype():
    assert resolved_dtype(ModelConfig(), on_gpu=True) == "bfloat16"
    assert resolved_dtype(ModelConfig(), on_gpu=False) == "float32"
    assert resolved_dtype(ModelConfig(dtype="autocast"), on_gpu=False) == "autocast"


def test_the_embedded_checkpoint_loads_as_asked():
    import torch

    checkpoint = load_checkpoint(ModelConfig(checkpoint="embedded", dtype="bfloat16", device="cpu"))
    assert {parameter.dtype for parameter in checkpoint.model.parameters()} == {torch.bfloat16}
    assert not checkpoint.model.training
    assert checkpoint.info["checkpoint"] == "embedded"


def test_auto_takes_a_gpu_only_where_one_works():
    import torch

    checkpoint = load_checkpoint(ModelConfig(checkpoint="embedded"))
    assert checkpoint.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_hub_may_answer_later(status: int) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    response = SimpleNamespace(status_code=status, headers={}, request=None)
    config = ModelConfig(checkpoint="acme/model")
    with pytest.raises(NotNow, match="is temporarily unavailable from the hub"), checkpoint._explained(config):
        raise HfHubHTTPError("busy", response=response)


def test_a_gpu_that_fails_while_loading_is_no_fault_of_the_checkpoint() -> None:
    with pytest.raises(RuntimeError, match="CUDA error"), checkpoint._explained(ModelConfig(checkpoint="acme/model")):
        raise RuntimeError("CUDA error: device-side assert triggered")
