"""One place, one spelling."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from sam3ray.config import JobConfig, VideoConfig, config_from_text
from sam3ray.failures import ClipError, UserError
from sam3ray.guard.addresses import AddressError, folder_form, one_form, scheme_of
from sam3ray.manifest import read_manifest
from sam3ray.store import RunStore
from sam3ray.values.prompt_reading import parse_visual_prompts
from sam3ray.video._remote import look_up
from tests.servers import Place

HERE = str(Path.cwd())


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("/a//b/./c/../d", "/a/b/d"),
        ("//a/b", "/a/b"),
        ("///", "/"),
        ("clips.csv", f"{HERE}/clips.csv"),
        ("./clips/", f"{HERE}/clips/"),
        ("file:///a/b.mp4", "/a/b.mp4"),
        ("FILE:///a/b.mp4", "/a/b.mp4"),
        ("file://localhost/a/b.mp4", "/a/b.mp4"),
        ("file:/a/b.mp4", "/a/b.mp4"),
        ("local:///a//b", "/a/b"),
        (Path("/a b/käfer#1?.mp4").as_uri(), "/a b/käfer#1?.mp4"),
        ("s3://bucket/a.mp4", "s3://bucket/a.mp4"),
        ("S3A://Bucket/a b.mp4", "s3://Bucket/a b.mp4"),
        ("  gcs://bucket/x", "gs://bucket/x"),
        ("abfs://box/x", "az://box/x"),
        ("abfss://box@account.dfs.core.windows.net/x", "abfss://box@account.dfs.core.windows.net/x"),
        # Two objects, not one: an object store takes names as they are.
        ("s3://bucket//a.mp4", "s3://bucket//a.mp4"),
        ("s3://bucket/a/../b.mp4", "s3://bucket/a/../b.mp4"),
        ("HTTPS://h/a%2Fb//c?sig=%2B%20&X=1#f", "https://h/a%2Fb//c?sig=%2B%20&X=1#f"),
    ],
)
def test_what_is_read_has_one_spelling(written: str, form: str) -> None:
    assert one_form(written) == form
    assert one_form(form) == form


@pytest.mark.parametrize(
    "written", ["s3://", "s3:///a", "s3:/bucket/a", "gs:bucket/a", "https://", "", " ", "a\x00b", "s3://b/\x1b[0m"]
)
def test_what_names_no_place_is_refused(written: str) -> None:
    with pytest.raises(AddressError, match="allowed: "):
        one_form(written)


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("s3://bucket/run///", "s3://bucket/run"),
        ("S3://bucket/", "s3://bucket"),
        ("/a//run/", "/a/run"),
        ("/", "/"),
        ("file:///a/run/", "/a/run"),
        ("memory://x/run/", "memory://x/run"),
    ],
)
def test_a_folder_has_one_spelling(written: str, form: str) -> None:
    assert folder_form(written) == form
    assert RunStore(written).storage.uri == form


@pytest.mark.parametrize(
    ("written", "allowed"),
    [
        ("s3://bucket//run", "allowed: s3://bucket/run"),
        ("s3://bucket/a//run/", "allowed: s3://bucket/a/run"),
        ("gcs://bucket//run", "allowed: gs://bucket/run"),
        ("https://host/run", "read-only"),
        ("zip::s3://bucket/run.zip", "cannot be written"),
        ("simplecache::s3://bucket/run", "cannot be written"),
    ],
)
def test_a_folder_that_clients_disagree_about_is_refused_before_anything_starts(written: str, allowed: str) -> None:
    with pytest.raises(UserError, match=allowed):
        RunStore(written)
    with pytest.raises(UserError, match=rf"job.yaml line 2: output .*{allowed}"):
        config_from_text(f"manifest: m.csv\noutput: {written}\n", "job.yaml")


def test_aliases_are_one_scheme() -> None:
    assert [scheme_of(a) for a in ("S3A://b/x", "gcs://b", "x.mp4", "local:///x", "https://h")] == [
        "s3", "gs", "file", "file", "https"
    ]  # fmt: skip


def test_an_output_in_memory_is_refused() -> None:
    with pytest.raises(UserError, match="no worker can see it"):
        config_from_text("{manifest: m.csv, output: 'memory://run'}", "job.yaml")


def test_a_relative_output_in_a_ray_job_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "{manifest: m.csv, output: run}"
    assert config_from_text(text, "job.yaml").output == f"{HERE}/run"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UserError, match="Ray's temporary copy"):
        config_from_text(text, "job.yaml")
    assert config_from_text("{manifest: m.csv, output: /data/run}", "job.yaml").output == "/data/run"


def test_a_cache_is_a_folder_on_the_nodes_own_disk() -> None:
    with pytest.raises(UserError, match=r"video\.cache_dir s3://b/cache is not a local path"):
        config_from_text("{manifest: m, output: run, video: {cache_dir: 's3://b/cache'}}", "job.yaml")


def test_a_bad_address_in_a_manifest_is_a_row_of_it(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    path.write_text("uri\ns3:/bucket/a.mp4\nS3://bucket/b.mp4\ns3:///c.mp4\n//d//e.mp4\n")
    config = JobConfig(manifest=str(path), output="/run", prompts=("x",))
    with pytest.raises(UserError) as caught:
        read_manifest(str(path), config)
    assert [p.partition("uri ")[2].partition(";")[0] for p in caught.value.problems] == [
        "'s3:/bucket/a.mp4' has no slash after the colon",
        "'s3:///c.mp4' has three slashes, so the bucket name is missing",
    ]
    path.write_text("uri\nS3://bucket/b.mp4\n//d//e.mp4\nfile:///f%20g.mp4\n")
    assert [clip.uri for clip in read_manifest(str(path), config)] == ["s3://bucket/b.mp4", "/d/e.mp4", "/f g.mp4"]


def test_a_bad_address_of_a_mask_is_a_problem_of_its_prompt() -> None:
    found, problems = parse_visual_prompts([{"object_id": 1, "frame": 0, "mask": {"png": "s3:/b/m.png"}}])
    assert found == ()
    assert problems == ["[0].mask.png 's3:/b/m.png' has no slash after the colon; allowed: s3://b/m.png"]
    ((mask,), _) = parse_visual_prompts([{"object_id": 1, "frame": 0, "mask": {"png": "S3://b/m.png"}}])
    assert mask.png == "s3://b/m.png"


def test_a_listing_of_another_folder_is_no_answer(s3_place: Place, tmp_path: Path) -> None:
    """s3fs drops the slash in front of a name when it lists."""
    fs = fsspec.filesystem("s3", **s3_place.options, skip_instance_cache=True)
    bucket = s3_place.uri.split("/")[2]
    for name in ("/clips/a.mp4", "clips/b.mp4", "/frames/1.jpg", "frames/2.jpg", "c//d.mp4", "c//e/1.jpg"):
        fs.pipe_file(f"{bucket}/{name}", b"x")
    config = JobConfig(manifest="s3://b/m.csv", output="/run", prompts=("x",), storage=s3_place.options)
    for uri in (f"s3://{bucket}//clips/", f"s3://{bucket}//clips/*.mp4"):
        with pytest.raises(UserError, match=r"double slash|has no videos"):
            read_manifest(uri, config)
    with pytest.raises(ClipError, match="double slash"):
        look_up(f"s3://{bucket}//frames", s3_place.options, VideoConfig())
    # One object is what its address says, and so is a doubled slash further down.
    assert look_up(f"s3://{bucket}//clips/a.mp4", s3_place.options, VideoConfig())[1].size == 1
    assert [clip.uri for clip in read_manifest(f"s3://{bucket}/c/", config)] == [
        f"s3://{bucket}/c//d.mp4",
        f"s3://{bucket}/c//e",
    ]
