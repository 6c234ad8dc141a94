"""Which of a job's storage options go to which address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest

from sam3ray.config import JobConfig, config_from_text
from sam3ray.failures import UserError
from sam3ray.files import ambiguous_options, options_for
from sam3ray.manifest import read_manifest
from tests.servers import Place

BY_KIND: dict[str, Any] = {
    "s3": {"endpoint_url": "https://minio.example", "anon": True},
    "gs": {"project": "ours"},
    "azure": {"account_name": "ours"},
    "http": {"client_kwargs": {"trust_env": True}},
}


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("s3://b/k", "s3"),
        ("s3a://b/k", "s3"),
        ("gs://b/k", "gs"),
        ("gcs://b/k", "gs"),
        ("az://c/k", "azure"),
        ("abfss://c/k", "azure"),
        ("https://h/k", "http"),
        ("http://h/k", "http"),
    ],
)
def test_what_stands_under_a_kind_is_for_that_kind(uri: str, kind: str) -> None:
    assert options_for(uri, BY_KIND) == BY_KIND[kind]


@pytest.mark.parametrize("uri", ["/a/b.mp4", "a.mp4", "file:///a/b.mp4", "memory://a", "sftp://h/a"])
def test_other_addresses_get_none_of_it(uri: str) -> None:
    assert options_for(uri, BY_KIND) == {}


def test_what_stands_under_no_kind_is_for_every_store_but_no_web_server() -> None:
    options = {"endpoint_url": "https://minio.example", "client_kwargs": {"region_name": "x"}}
    assert options_for("s3://b/k", options) == options
    assert options_for("https://h/k", options) == {}
    assert options_for("/a/b", options) == {}
    assert options_for("s3://b/k", options | {"s3": {"anon": True}, "gcs": {"project": "x"}}) == options | {
        "anon": True
    }


def test_options_for_either_of_two_stores_are_refused_where_they_stand() -> None:
    flat = "manifest: gs://b/m.csv\noutput: s3://b/run\nstorage: {endpoint_url: https://minio.example}\n"
    with pytest.raises(UserError) as caught:
        config_from_text(flat, "job.yaml")
    (problem,) = caught.value.problems
    assert "storage.endpoint_url could be for gcs or s3" in problem
    assert "storage: {s3: {endpoint_url: ...}}" in problem
    config_from_text(flat.replace("{endpoint_url: https://minio.example}", "{s3: {endpoint_url: 'x'}}"), "job.yaml")


def test_the_stores_of_the_clips_count_as_well(tmp_path: Path) -> None:
    manifest = tmp_path / "clips.csv"
    config = JobConfig(manifest=str(manifest), output="s3://b/run", prompts=("x",), storage={"anon": True})
    manifest.write_text("uri\ns3://b/a.mp4\nhttps://h/b.mp4\n/c.mp4\n")
    assert len(read_manifest(str(manifest), config)) == 3
    manifest.write_text("uri\ns3://b/a.mp4\naz://c/b.mp4\n")
    with pytest.raises(UserError, match=r"storage\.anon could be for azure or s3"):
        read_manifest(str(manifest), config)
    assert ambiguous_options(["s3://b/a.mp4", "az://c/b.mp4"], BY_KIND) is None


def test_a_store_is_reached_by_options_under_its_kind(s3_place: Place) -> None:
    from sam3ray.store.storage import Storage

    options = {"s3": s3_place.options, "azure": {"account_name": "nobody"}}
    assert Storage(s3_place.uri, options).create_bytes(b"1", "a")
    fs, root = fsspec.core.url_to_fs(s3_place.uri, **s3_place.options, skip_instance_cache=True)
    assert fs.cat_file(f"{root}/a") == b"1"
