"""The wheel, built and run against the installed dependencies; and the image's recipe, which is only read here.

`make interop NAMES=wheel` installs the wheel into an empty environment and runs the demo there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import sam3ray

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "configs" / "deploy"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, from a copy of the sources: building leaves files beside them."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    files = subprocess.run(["git", "ls-files", "sam3ray"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.split():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=site.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_wheel_holds_what_users_run(unpacked: Path) -> None:
    assert (unpacked / "sam3ray" / "embedded" / "model.safetensors").stat().st_size > 1_000_000
    assert (unpacked / "sam3ray" / "py.typed").exists()
    assert {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")} == {"sam3ray"}


def test_the_wheel_labels_frames(unpacked: Path) -> None:
    assert run(unpacked, "-m", "sam3ray", "--version").strip() == sam3ray.__version__
    code = (
        "import numpy as np, sam3ray; from sam3ray.video import Frame\n"
        "model = sam3ray.load('embedded', device='cpu')\n"
        "frames = [Frame(i, i, i / 30, np.zeros((32, 32, 3), np.uint8)) for i in range(2)]\n"
        "print(len(list(model.segment(frames, 32, 32, 'red circle'))), sam3ray.__file__)\n"
    )
    count, place = run(unpacked, "-c", code).split()
    assert count == "2"
    assert Path(place).is_relative_to(unpacked)


def test_the_image_is_pinned_and_not_root() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    recipe = "\n".join(line for line in lines if not line.startswith("#"))
    base = re.search(r"^ARG BASE=(\S+)$", recipe, re.MULTILINE)
    assert base is not None
    assert re.search(r":\d+\.\d+\.\d+-", base[1])
    users = re.findall(r"^USER (\S+)$", recipe, re.MULTILINE)
    assert users
    assert "root" not in users
    assert recipe.index("\nUSER ") < recipe.index("pip install")
    assert "-c /tmp/source/constraints.txt" in recipe
    assert not re.search(r"safetensors|hf download|HF_TOKEN", recipe)
    uid = re.search(r"--uid (\d+)", recipe)
    assert uid is not None
    job = yaml.safe_load((DEPLOY / "kuberay-rayjob.yaml").read_text())["spec"]["rayClusterSpec"]
    for group in (job["headGroupSpec"], *job["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsUser"] == int(uid[1])
        for container in pod["containers"]:
            assert container["image"].endswith(f"/sam3ray:{sam3ray.__version__}")


def test_what_the_image_copies_is_sent_to_the_builder() -> None:
    recipe = (DEPLOY / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY .*$", recipe, re.MULTILINE) for name in line.split()[2:-1]]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == kept
    assert all((ROOT / name).exists() for name in copied)
