"""What stands in configs/deploy: starts dry, fits the package, names metrics that exist."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from sam3ray.config import load_config
from sam3ray.job.metrics import METRICS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "configs" / "deploy"


def write_program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(0o755)


@pytest.mark.parametrize("script", sorted(DEPLOY.glob("*.sh")), ids=lambda p: p.name)
def test_scripts_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)


RAY = """
echo "$RAY_AUTH_MODE $RAY_API_SERVER_ADDRESS"; printf "%s\\n" "$@"; exit ${SUBMITTED:-0}
"""


def submit(folder: Path, *arguments: str, job: str = "SUCCEEDED 0", **environment: str) -> tuple[int, list[str], str]:
    """Exit code, what `ray` was called with, and stderr. `job`: what Ray then says of it."""
    write_program(folder, "ray", RAY)
    write_program(folder, "python", f"cat >/dev/null; echo {job}")
    more = {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder), **environment}
    done = subprocess.run([DEPLOY / "submit.sh", *arguments], env=more, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_submit_starts_a_job(tmp_path: Path) -> None:
    given = ("s3://b/config.yaml", "--set", "a.b=1 2")
    code, (first, *words), _ = submit(tmp_path, *given, RAY_API_SERVER_ADDRESS="http://head:8265")
    assert code == 0
    assert first == " http://head:8265"
    assert words[:3] == ["job", "submit", "--submission-id"]
    assert words[4] == "--working-dir"
    assert (Path(words[5]) / "prelabel.py").resolve() == ROOT / "jobs" / "prelabel.py"
    assert words[6:] == ["--", "python", "prelabel.py", *given]
    assert submit(tmp_path)[0] == 2


def test_submit_ends_with_the_code_of_the_job(tmp_path: Path) -> None:
    for job, submitted, expected in (
        ("FAILED 1", "1", 1),
        ("FAILED 3", "1", 3),
        ("SUCCEEDED 0", "0", 0),
        ("STOPPED 130", "1", 130),
        ("FAILED -9", "1", 1),  # no exit code of ours
        ("FAILED", "1", 1),
        ("", "1", 1),  # it never got there
    ):
        assert submit(tmp_path, "c.yaml", job=job, SUBMITTED=submitted)[0] == expected, job
    code, _, said = submit(tmp_path, "c.yaml", job="RUNNING", SUBMITTED="1")
    assert code == 1
    assert "the job is still running; follow it with: ray job logs --follow sam3ray-" in said


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, " http://127.0.0.1:8265"),
        ({"RAY_ADDRESS": "http://head:1"}, " http://head:1"),
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, " http://127.0.0.1:8265"),
        ({"RAY_ADDRESS": "http://head:1", "RAY_API_SERVER_ADDRESS": "https://api"}, " https://api"),
        ({"RAY_AUTH_TOKEN": "x"}, "token http://127.0.0.1:8265"),
        ({"RAY_AUTH_TOKEN": "x", "RAY_AUTH_MODE": "disabled"}, "disabled http://127.0.0.1:8265"),
        ({"RAY_AUTH_TOKEN_PATH": "{here}/token"}, "token http://127.0.0.1:8265"),
    ],
)
def test_submit_finds_the_cluster_and_its_token(environment: dict[str, str], first: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    environment = {name: value.format(here=tmp_path) for name, value in environment.items()}
    assert submit(tmp_path, "c.yaml", **environment)[1][0] == first


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Stand-ins for SLURM, Ray and the driver that note what they were called with."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").write_text("")
    log = tmp_path / "calls"
    log.touch()
    write_program(tmp_path, "scontrol", f'[[ $1 == show ]] && printf "n1\\nn2\\nn3\\n" || echo "scontrol $*" >> {log}')
    # Drops its own options and runs the rest here.
    write_program(
        tmp_path, "srun", 'while [[ $1 == -* ]]; do if [[ $1 == -w ]]; then shift; fi; shift; done; exec "$@"'
    )
    write_program(tmp_path, "hostname", "echo 10.0.0.1 10.0.0.2")
    write_program(tmp_path, "ray", f'echo "ray $*" >> {log}')
    write_program(
        tmp_path,
        "python",
        f'[[ $1 == -c ]] && echo 0123 && exit; echo "python $*" >> {log}\n'
        'trap "exit 130" TERM; [[ -n ${WAIT:-} ]] && for i in $(seq 600); do sleep 0.1; done; exit ${CODE:-0}',
    )
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "VENV": str(tmp_path / "venv"),
        "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_JOB_ID": "7",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_CPUS_PER_TASK": "32",
        "CALLS": str(log),
    }


def test_slurm_starts_a_node_each_and_one_driver(slurm: dict[str, str]) -> None:
    command = [DEPLOY / "slurm.sh", "config.yaml", "--set", "retry.crashes=5"]
    done = subprocess.run(command, env=slurm | {"CODE": "1"}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    calls = Path(slurm["CALLS"]).read_text().splitlines()
    heads = [call for call in calls if "--head" in call]
    workers = [call for call in calls if "ray start" in call and "--address=10.0.0.1:20014" in call]
    assert len(heads) == 1
    assert "--node-ip-address=10.0.0.1" in heads[0]
    assert "--port=20014 --ray-client-server-port=20015" in heads[0]  # of job 7 alone
    assert len(workers) == 2
    assert all("--num-gpus=8" in call for call in heads + workers)
    assert "python -m sam3ray run config.yaml --set cluster.address=auto --set retry.crashes=5" in calls


def test_slurm_says_which_node_has_no_head_and_stops(slurm: dict[str, str], tmp_path: Path) -> None:
    write_program(tmp_path, "ray", "exit 1")
    done = subprocess.run([DEPLOY / "slurm.sh", "c.yaml"], env=slurm, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert "the head of the Ray cluster did not start on n1" in done.stderr
    assert "python" not in Path(slurm["CALLS"]).read_text()


def test_slurm_passes_the_warning_on_and_requeues(slurm: dict[str, str]) -> None:
    job = subprocess.Popen([DEPLOY / "slurm.sh", "config.yaml"], env=slurm | {"WAIT": "1"})
    end = time.monotonic() + 60
    while "python -m sam3ray" not in Path(slurm["CALLS"]).read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.3)  # the script sets its trap just after it started the driver
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=60) == 130
    assert "scontrol requeue 7" in Path(slurm["CALLS"]).read_text()


def test_rayjob_fits_the_package() -> None:
    job = yaml.safe_load((DEPLOY / "kuberay-rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    pinned = re.search(r"^ray(?:\[\w+\])?==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert cluster["rayVersion"] == pinned[1]
    assert spec["entrypoint"].startswith("python -m sam3ray run /config/")
    assert "--failed-clips-ok" in spec["entrypoint"].split()  # else `backoffLimit` would try it again
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["resources"]["limits"] == container["resources"]["requests"]
            assert all(isinstance(amount, str) for amount in container["resources"]["limits"].values())
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    head, worker = groups[0], cluster["workerGroupSpecs"][0]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"]
    mounted = {m["mountPath"] for m in worker["template"]["spec"]["containers"][0]["volumeMounts"]}
    config = load_config(str(DEPLOY / "cluster.yaml"))
    assert config.cluster.address == "auto"
    assert config.video.cache_dir in mounted
    assert config.cluster.actors.max <= worker["maxReplicas"]


def test_dashboard_shows_metrics_that_exist() -> None:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries.append(dashboard["templating"]["list"][1]["query"]["query"])
    shown = set()
    for query in queries:
        for name in re.findall(r"ray_(sam3ray_\w+)", query):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            shown.add(base if base in METRICS else name)
    assert shown == set(METRICS)
    labels = {label for _, _, names in METRICS.values() for label in names} | {"le", "NodeAddress"}
    for query in queries:
        for group in re.findall(r"by \(([^)]*)\)", query):
            assert set(re.findall(r"\w+", group)) <= labels, query
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def test_a_submitted_config_without_address_runs_on_its_cluster(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("manifest: m.csv\noutput: out\nprompts: [a]\n")
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['has_no_address'](sys.argv[2:]))"
    script = str(ROOT / "jobs" / "prelabel.py")

    def answer(*arguments: str) -> str:
        command = [sys.executable, "-c", code, script, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()

    assert answer(str(config)) == "True"
    assert answer("--set", "prompts=[b]", str(config)) == "True"
    assert answer("--log-level", "info", "--json", str(config)) == "True"
    assert answer("--set=cluster.actors.max=2", str(config), "--log-level=info") == "True"
    assert answer("--set=cluster.address=auto", str(config)) == "False"
    assert answer(str(config), "--set", "cluster.address=null") == "False"
    assert answer("--no-such-option", str(config)) == "False"
    assert answer(str(config), "--set", "cluster.address=10.0.0.1:6379") == "False"
