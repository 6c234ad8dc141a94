"""The guide for 10,000 clips on S3, cell by cell, against an S3 server and a Ray on this machine.

What changes: two drawn clips for 10,000, the checkpoint in the package for SAM 3, CPUs for GPUs, a Ray of its own.
"""

from __future__ import annotations

import re
from contextlib import chdir
from importlib import resources
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml

from sam3ray.config import load_config
from sam3ray.shapes import ClipSpec, clip_phrases, write_clip
from tests.e2e.pages import run_cell, sections

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "cluster.md"
INSTEAD = {
    '"gpus_per_actor": 1, "cpus_per_actor": 2': '"gpus_per_actor": 0, "cpus_per_actor": 1',
    '"max": 64': '"max": 1',
    "/tmp/sam3ray-videos": "videos",
    '["cluster.address=auto"], progress=True': "progress=False",
}


@pytest.fixture(scope="module")
def cells(s3_server: str, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the notebook holds after each section."""
    pytest.importorskip("duckdb")
    folder = tmp_path_factory.mktemp("guide")
    specs = [ClipSpec(seed, 160, 120, frames=14, objects=(1, 1), look="plain") for seed in (500_002, 500_005)]
    phrases = list(dict.fromkeys(phrase for spec in specs for phrase in clip_phrases(spec)))
    storage = fsspec.filesystem("s3", endpoint_url=s3_server, skip_instance_cache=True)
    storage.mkdir("my-bucket")
    for spec in specs:
        video = folder / f"shapes-{spec.seed}.mp4"
        write_clip(spec, video)
        storage.put_file(str(video), f"my-bucket/clips/{video.name}")
    for file in Path(str(resources.files("sam3ray") / "embedded")).iterdir():
        storage.put_file(str(file), f"my-bucket/weights/sam3/{file.name}")
    reach = f'"storage": {{"s3": {{"endpoint_url": "{s3_server}"}}}},'  # Ray's workers do not see this environment
    instead = {**INSTEAD, '["person", "forklift"]': repr(phrases), '"output": f': f'{reach} "output": f'}
    held: dict[str, Any] = {"__name__": "__main__"}
    after: dict[str, dict[str, Any]] = {}
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        patch.setenv("AWS_ENDPOINT_URL", s3_server)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        fsspec.filesystem("s3").clear_instance_cache()
        for section, code in sections("cluster.md", "python", instead):
            run_cell(code, f"cluster.md: {section}", held)
            after[section] = dict(held)
        after["Run"]["written"] = Path("job.yaml").read_text()
        fsspec.filesystem("s3").clear_instance_cache()
    return after


def test_the_guide_leads_to_labels(cells: dict[str, dict[str, Any]]) -> None:
    assert cells["Run"]["summary"].exit_code == 0
    assert cells["Run"]["summary"].done == 2
    assert cells["Watch"]["_"].done == 2
    assert cells["Failures"]["failures"].empty
    assert cells["Failures"]["problems"] == []
    assert cells["Look at the labels"]["_"]._repr_html_().count("<img") == 2
    read = cells["Read the labels"]
    assert len(read["table"]) > 10
    assert read["_"] is not None
    assert all(masks.any() for masks in read["batch"]["masks"])
    assert cells["What it cost"]["seconds"] > 0


def test_the_plan_of_the_guide_has_a_cost(cells: dict[str, dict[str, Any]]) -> None:
    planned = cells["Plan the job and its cost"]
    assert (planned["plan"].clips, planned["plan"].unreadable) == (2, {})
    assert planned["plan"].frames == 28
    assert planned["hours"] is None  # no speed is known for this checkpoint on CPUs, and the cell says so


def test_the_job_of_the_guide_is_that_of_the_cluster_file() -> None:
    code = re.search(r"^job = \{.*?^\}", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {"BUCKET": "s3://my-bucket"}
    exec(code[0], names)  # noqa: S102
    example = yaml.safe_load((ROOT / "configs" / "deploy" / "cluster.yaml").read_text())
    assert load_config({**names["job"], "cluster": {**names["job"]["cluster"], "address": "auto"}}) == load_config(
        example
    )


def test_the_file_for_the_cluster_is_the_job(cells: dict[str, dict[str, Any]]) -> None:
    run = cells["Run"]
    assert load_config(yaml.safe_load(run["written"])) == load_config(run["job"])


def test_the_commands_of_the_guide_name_what_the_rayjob_uses() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rayjob = yaml.safe_load((ROOT / "configs" / "deploy" / "kuberay-rayjob.yaml").read_text())["spec"]
    head = rayjob["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (workers,) = rayjob["rayClusterSpec"]["workerGroupSpecs"]
    (config,) = [each["configMap"]["name"] for each in head["volumes"] if "configMap" in each]
    folder = head["containers"][0]["volumeMounts"][0]["mountPath"]
    assert f"$ kubectl create configmap {config} --from-file=config.yaml=job.yaml\n" in page
    assert f"sam3ray run {folder}/config.yaml --set cluster.address=auto" in rayjob["entrypoint"]
    for pod in (head, workers["template"]["spec"]):
        (container,) = pod["containers"]
        (secret,) = [each["secretRef"]["name"] for each in container["envFrom"]]
        assert f"$ docker push {container['image']}\n" in page
        assert f"$ kubectl create secret generic {secret}\n" in page
        assert f"$ kubectl create serviceaccount {pod['serviceAccountName']}\n" in page
    assert f"at most {workers['maxReplicas']} GPU" in page
