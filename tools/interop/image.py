"""Builds the image of configs/deploy/Dockerfile step by step in a clean root file system, and uses it.

Needs root, and Debian's packages `buildah` and `debootstrap`. If the registry of the Dockerfile's base image does not
answer, a minimal Debian replaces it, and the result says so. CUDA and Kubernetes are not tried.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from tools.interop._environment import cache
from tools.interop._place import Place, ToolFailed
from tools.interop._result import Outcome

REQUIREMENTS: tuple[str, ...] = ()
ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "configs" / "deploy"
SUITE = "trixie"  # Python 3.13; the Dockerfile's Ubuntu has 3.12


def check(place: Place) -> list[Outcome]:
    for program in ("buildah", "debootstrap"):
        if shutil.which(program) is None:
            raise ToolFailed(f"image: there is no {program}; install it (apt-get install buildah debootstrap)")
    if os.geteuid() != 0:
        raise ToolFailed("image: building in a root file system of its own needs root")
    builder = Builder(place.folder / "storage")
    try:
        base, named = _base(builder)
        builder.call("bud", "--isolation", "chroot", "--layers=false", "--build-arg", f"BASE={base}", "-t", "sam3ray",
                     "-f", str(DEPLOY / "Dockerfile"), str(ROOT))  # fmt: skip
        container = builder.call("from", "sam3ray").strip()
        used = Container(builder, container)
        python = used.run("python", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
        where = f"configs/deploy/Dockerfile on {named}, Python {python}"
        return [_built(used, where), _demo(used), _ray_job(used, place.folder)]
    finally:
        builder.remove()


@dataclass(frozen=True)
class Builder:
    """buildah with a separate store."""

    storage: Path

    def command(self, *words: str) -> list[str]:
        return ["buildah", "--root", str(self.storage), "--runroot", f"{self.storage}.run", *words]

    def call(self, *words: str) -> str:
        done = subprocess.run(self.command(*words), capture_output=True, text=True)
        if done.returncode:
            raise ToolFailed(f"buildah {words[0]}: {(done.stdout + done.stderr).strip()[-1500:]}")
        return done.stdout

    def remove(self) -> None:
        """Removes everything. Containers go first, because their mounts keep the store busy."""
        subprocess.run(self.command("rm", "--all"), capture_output=True)
        for folder in (self.storage, Path(f"{self.storage}.run")):
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Container:
    """A container of the image, with the user and the environment that the image sets."""

    builder: Builder
    name: str

    def run(self, *words: str, volume: str = "") -> str:
        options = ["--volume", volume] if volume else []
        return self.builder.call("run", "--isolation", "chroot", *options, self.name, "--", *words)

    def settings(self) -> dict[str, object]:
        """The image's `Config`: user, entry point, environment."""
        found: dict[str, object] = json.loads(self.builder.call("inspect", self.name))["OCIv1"]["config"]
        return found


def _base(builder: Builder) -> tuple[str, str]:
    """The base image's name, for the builder and for people."""
    own = re.search(r"^ARG BASE=(\S+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert own is not None
    if subprocess.run(builder.command("pull", f"docker.io/{own[1]}"), capture_output=True).returncode == 0:
        return f"docker.io/{own[1]}", f"`{own[1]}`"
    archive = cache() / f"{SUITE}.tar"
    if not archive.exists():
        _make_root(archive)
    container = builder.call("from", "scratch").strip()
    builder.call("add", container, str(archive), "/")
    builder.call("commit", container, "clean-root")
    builder.call("rm", container)
    return "localhost/clean-root", f"a minimal Debian {SUITE} in place of `{own[1]}`"


def _make_root(archive: Path) -> None:
    """Makes a minimal system. It trusts the certificates that this machine trusts, since the network may need them."""
    folder = archive.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    archive.parent.mkdir(parents=True, exist_ok=True)
    trusted = Path(os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile or "/nowhere")
    commands = [
        ["debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, str(folder)],
        ["cp", str(trusted), str(folder / "usr/local/share/ca-certificates/machine.crt")],
        ["chroot", str(folder), "update-ca-certificates"],
        ["tar", "-C", str(folder), "-cf", f"{archive}.part", "."],
    ]
    for command in commands if trusted.exists() else (commands[0], commands[-1]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ToolFailed(f"{command[0]}: {(done.stdout + done.stderr).strip()[-1500:]}")
    shutil.rmtree(folder)
    os.replace(f"{archive}.part", archive)


def _built(used: Container, where: str) -> Outcome:
    """Checks that every step ran, the user is not root, versions are as pinned, and no weights are inside."""
    problems = []
    user = used.run("id", "-u").strip()
    if user == "0":
        problems.append("it runs as root")
    pinned = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    wanted = {_plain(name): version for name, version in pinned.items()}
    packages = json.loads(used.run("/opt/sam3ray/bin/pip", "list", "--format=json"))
    free = [
        f"{each['name']} {each['version']}"
        for each in packages
        if each["name"] not in ("pip", "sam3ray") and wanted.get(_plain(each["name"])) != each["version"]
    ]
    if free:
        problems.append(f"not as pinned: {', '.join(free)}")
    weights = used.run(
        "find", "/opt", "/home", "/weights", "/cache", "-size", "+1M", "(", "-name", "*.safetensors", "-o", "-name",
        "*.pt", "-o", "-name", "*.pth", ")", "-not", "-path", "*/sam3ray/embedded/*",
    ).split()  # fmt: skip
    if weights:
        problems.append(f"weights inside: {', '.join(weights)}")
    settings = used.settings()
    entry = settings["Entrypoint"]
    assert isinstance(entry, list)
    version = used.run(*map(str, entry), "sam3ray", "--version").strip()
    used.run("bash", "-lc", "command -v ray sam3ray hf wget")  # for KubeRay's probes and the init container
    size = int(used.run("du", "-sxm", "/opt/sam3ray").split()[0]) / 1000
    said = f"user {user}; {len(packages)} packages as pinned; no weights; {size:.1f} GB; `sam3ray --version` {version}"
    return Outcome(where, "run", _version(), not problems, "; ".join(problems) or said)


def _demo(used: Container) -> Outcome:
    patient = ("env", "RAY_raylet_start_wait_time_s=300")  # the machine may be busy
    said = json.loads(used.run("tini", "--", *patient, "sam3ray", "demo", "--output", "/tmp/demo", "--json"))
    ok = said["done"] == said["clips"] > 0 and not said["failed"]
    used.run("sam3ray", "verify", "/tmp/demo/run")
    text = f"{said['done']} of {said['clips']} clips done; `sam3ray verify` finds no problems"
    return Outcome("`sam3ray demo` in that image", "run", _version(), ok, text)


def _ray_job(used: Container, folder: Path) -> Outcome:
    """Runs in one container what KubeRay starts in the pods of the head, a worker and the submitter.

    As in kuberay-rayjob.yaml: a login shell, `rayStartParams`, the entry point word for word, and the configuration as
    a file in /config. Uses CPUs, the embedded checkpoint and the demo's clips.
    """
    spec = yaml.safe_load((DEPLOY / "kuberay-rayjob.yaml").read_text())["spec"]
    cluster = spec["rayClusterSpec"]
    config = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())
    config |= {"manifest": "/tmp/demo/run/manifest.parquet", "output": "/tmp/labels"}
    config["model"] = {"checkpoint": "embedded", "device": "cpu"}
    config["cluster"] |= {"gpus_per_actor": 0, "cpus_per_actor": 1, "actors": {"min": 1, "max": 1}}
    mounted = folder / "config"
    mounted.mkdir()
    (mounted / "config.yaml").write_text(yaml.safe_dump(config))
    mounted.chmod(0o755)
    port, client = _free_port(), _free_port()  # other Ray clusters of this machine share the network
    address = f"127.0.0.1:{port}"
    free = {"port": str(port), "ray-client-server-port": str(client)}
    head = _ray_start({**cluster["headGroupSpec"]["rayStartParams"], **free}, "--head")
    worker = _ray_start({**cluster["workerGroupSpecs"][0]["rayStartParams"], "num-cpus": "1"}, f"--address={address}")
    script = f"""
        trap 'kill $(jobs -p); wait' EXIT
        export RAY_raylet_start_wait_time_s=300
        {head} & started=$!
        until ray status --address {address} >/dev/null 2>&1; do kill -0 $started || exit 3; sleep 1; done
        {worker} & export RAY_ADDRESS={address}
        {spec["entrypoint"]} --json
    """
    said = json.loads(used.run("bash", "-lc", script, volume=f"{mounted}:/config:ro"))
    used.run("sam3ray", "verify", "/tmp/labels")
    ok = said["done"] == said["clips"] > 0 and not said["failed"]
    text = f"head without CPUs, one worker, the entry point word for word: {said['done']} of {said['clips']} clips done"
    return Outcome("the commands of kuberay-rayjob.yaml in that image", "run", _version(), ok, text)


def _ray_start(params: dict[str, str], first: str) -> str:
    """The `ray start` command as KubeRay writes it, with a free dashboard port."""
    return " ".join(["ray start", first, *(f"--{name}={value}" for name, value in params.items()), "--block >&2"])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _version() -> str:
    return " ".join(subprocess.run(["buildah", "--version"], capture_output=True, text=True).stdout.split()[:3])
