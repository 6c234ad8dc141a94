"""Checks the cluster files of configs/deploy: the SLURM script on a real SLURM, the KubeRay file against KubeRay's
schema.

For SLURM, the check starts a controller and two nodes on this machine. It needs root and Debian's packages `slurmctld`,
`slurmd`, `slurm-client` and `munge`. KubeRay's schema comes from a clone named by $KUBERAY_REPOSITORY, else from
GitHub.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from sam3ray.shapes import ClipSpec, clip_phrases, write_clip
from tools.interop._place import Place, ToolFailed
from tools.interop._result import Outcome
from tools.interop._upstream import upstream_file

REQUIREMENTS: tuple[str, ...] = ()
ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "configs" / "deploy"
NODES = ("n1", "n2")


def check(place: Place) -> list[Outcome]:
    return [_kuberay(), *_slurm(place.folder)]


def _kuberay() -> Outcome:
    """Checks that the operator knows every field and that every value has the right type, also in pods."""
    source = "helm-chart/kuberay-operator/crds/ray.io_rayjobs.yaml"
    crd = yaml.safe_load(upstream_file("ray-project/kuberay", source, "KUBERAY_REPOSITORY").read_text())
    schemas = {each["name"]: each["schema"]["openAPIV3Schema"] for each in crd["spec"]["versions"]}
    job = yaml.safe_load((DEPLOY / "kuberay-rayjob.yaml").read_text())
    checker = jsonschema.Draft7Validator(_strict(schemas[job["apiVersion"].partition("/")[2]]))
    problems = [f"{'.'.join(map(str, each.absolute_path))}: {each.message[:100]}" for each in checker.iter_errors(job)]
    generator = crd["metadata"]["annotations"]["controller-gen.kubebuilder.io/version"]
    said = "; ".join(problems[:3]) or "every field is known and has the right type; not run on Kubernetes"
    return Outcome("kuberay-rayjob.yaml", "schema only", f"KubeRay's CRD ({generator})", not problems, said)


def _strict(schema: Any) -> Any:
    """Makes unknown fields errors, as `kubectl apply --validate=strict` does."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _strict(value) for key, value in schema.items()}
    free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and "type" in schema and not free:
        found["additionalProperties"] = False
    return found


def _slurm(folder: Path) -> list[Outcome]:
    """Runs `sbatch slurm.sh` twice: one job runs to its end; the other gets SLURM's warning, is requeued and
    continues.
    """
    for program in ("munged", "slurmctld", "slurmd", "sbatch"):
        if shutil.which(program) is None:
            raise ToolFailed(f"deploy: there is no {program} (apt-get install slurmctld slurmd slurm-client munge)")
    phrases: set[str] = set()
    for seed in range(500_002, 500_006):
        spec = ClipSpec(seed, 160, 120, frames=14, objects=(1, 1), look="plain")
        write_clip(spec, folder / "videos" / f"{seed}.mp4")
        phrases |= set(clip_phrases(spec))
    config = {
        "manifest": "videos",
        "output": "labels",
        "prompts": sorted(phrases),
        "model": {"checkpoint": "embedded", "device": "cpu"},
        "cluster": {"gpus_per_actor": 0, "actors": {"max": 2}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    version = subprocess.run(["slurmctld", "-V"], capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as short, _cluster(Path(short)) as environment:
        log, code = _submit(folder, environment)
        output = folder / "labels"
        done = code == 0 and _verified(output)
        where = f"slurm.sh on {len(NODES)} nodes of a SLURM on one machine"
        said = "4 clips done, `sam3ray verify` finds no problems" if done else log[-300:]
        finished = Outcome(where, "run", version, done, said)
        shutil.rmtree(output)
        log, code = _submit(folder, environment, warn_when=output / "run.json")
        done = code == 0 and _verified(output)
        said = "the driver shut down, SLURM requeued the job, and it finished" if done else log[-300:]
        return [finished, Outcome("slurm.sh, warned before its time is up", "run", version, done, said)]


def _submit(folder: Path, environment: dict[str, str], warn_when: Path | None = None) -> tuple[str, int]:
    """Returns the job's log and exit code. SLURM warns the batch script once the file `warn_when` exists."""
    options = [f"--nodes={len(NODES)}", "--cpus-per-task=1", "--output=job.log", "--open-mode=truncate"]
    command = ["sbatch", "--wait", *options, str(DEPLOY / "slurm.sh"), "config.yaml"]
    job = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    if warn_when is not None:
        end = time.monotonic() + 300
        while not warn_when.exists() and time.monotonic() < end and job.poll() is None:
            time.sleep(0.2)
        ids = subprocess.run(["squeue", "-h", "-o", "%A"], env=environment, capture_output=True, text=True)
        for each in ids.stdout.split():
            subprocess.run(["scancel", "--batch", "--signal=TERM", each], env=environment, check=True)
    try:
        code = job.wait(timeout=900)
    except subprocess.TimeoutExpired:
        subprocess.run(["scancel", "--user=root"], env=environment)
        code = job.wait()
    log = folder / "job.log"
    return log.read_text(errors="replace") if log.exists() else "", code


def _verified(output: Path) -> bool:
    return subprocess.run([sys.executable, "-m", "sam3ray", "verify", str(output)], cwd=ROOT).returncode == 0


@contextmanager
def _cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Runs a controller and nodes; yields the environment in which `sbatch` reaches them."""
    ports = _free_ports(len(NODES) + 1)
    names = ",".join(NODES)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    (folder / "slurm.conf").write_text(
        f"""ClusterName=interop
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser=root
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
GresTypes=gpu
NodeName={names} NodeHostname=localhost NodeAddr=127.0.0.1 Port={",".join(map(str, ports[1:]))} CPUs=8 Gres=gpu:8
PartitionName=all Nodes=ALL Default=YES State=UP
"""
    )
    (folder / "gres.conf").write_text(f"NodeName={names} Name=gpu File=/dev/tty[0-7]\n")  # stand-ins for GPUs
    for name in ("state", *NODES):
        (folder / name).mkdir()
    environment = os.environ | {
        "SLURM_CONF": f"{folder}/slurm.conf",
        "VENV": sys.prefix,
        "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": f"{folder}/ray",
        "OMP_NUM_THREADS": "1",
    }
    munge = ["munged", "--force", f"--socket={folder}/munge.sock", f"--key-file={folder}/munge.key",
             f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log",
             f"--seed-file={folder}/munged.seed"]  # fmt: skip
    try:
        subprocess.run(munge, check=True, capture_output=True)
        subprocess.run(["slurmctld", "-c"], env=environment, check=True, capture_output=True)
        for name in NODES:
            subprocess.run(["slurmd", "-c", "-N", name], env=environment, check=True, capture_output=True)
        yield environment
    finally:
        for name in (*NODES, "slurmctld", "munged"):
            _end(folder / f"{name}.pid")


def _end(pid_file: Path) -> None:
    """Ends a daemon, and waits until it is gone, since it writes into its folder to the last."""
    try:
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        return
    for _ in range(300):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
