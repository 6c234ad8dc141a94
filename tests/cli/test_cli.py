"""The command line: exit codes, what goes to which stream, and examples that run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from PIL import Image
from typer.testing import CliRunner, Result

from sam3ray.annotations import AnnotationWriter, FrameAnnotations, ObjectAnnotation
from sam3ray.cli import app
from sam3ray.config import fingerprint, load_config
from sam3ray.failures import Failure, JobStopped, Reason, UserError
from sam3ray.job import JobSummary
from sam3ray.manifest import read_manifest
from sam3ray.masks import encode_masks
from sam3ray.store import RunStore

VERBS = ("demo", "plan", "run", "status", "verify", "retry", "render", "compact")
VERBS += ("eval", "export", "convert", "import", "refine", "app", "live", "triage", "report")
COMMAND = typer.main.get_command(app)


def sam3ray_command(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder like the demo's: two clips, one done, one failed."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "demo-output"
    for name in ("a", "b"):
        (folder / "clips" / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.zeros((16, 32, 3), np.uint8)).save(folder / "clips" / name / f"{i}.png")
    (folder / "clips.jsonl").write_text(
        "\n".join(json.dumps({"uri": str(folder / "clips" / name), "clip_id": name}) for name in ("a", "b"))
    )
    (folder / "demo.yaml").write_text(
        f"manifest: {folder}/clips.jsonl\noutput: {folder}/run\nprompts: [red circle]\n"
        "model: {checkpoint: embedded}\ncluster: {gpus_per_actor: 0}\n"
    )
    config = load_config(str(folder / "demo.yaml"))
    clips = read_manifest(config.manifest, config)
    store = RunStore(config.output)
    store.create_or_open(fingerprint(config, clips), config.model_dump(mode="json"), clips)
    mask = np.zeros((16, 32), bool)
    mask[4:9, 5:11] = True
    (encoded,) = encode_masks(mask[None])
    item = ObjectAnnotation(1, "red circle", 0.9, 0.8, encoded.bbox, encoded.area, encoded.rle)
    writer = AnnotationWriter(tmp_path / "a.parquet", "a", {"fingerprint": fingerprint(config, clips)})
    for i in range(4):
        writer.write(FrameAnnotations(i, i, i / 30, 16, 32, (item,)))
    writer.finish(seconds=1.0)
    store.commit("a", tmp_path / "a.parquet")
    store.record_failure(Failure("b", Reason.CRASHED, "the worker died", final=True))
    return folder


# help


def epilog(verb: str) -> str:
    return str(COMMAND.commands[verb].epilog)  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    result = sam3ray_command(verb, "--help")
    assert result.exit_code == 0
    assert "Example: sam3ray " + verb in " ".join(result.stdout.split())


def test_the_verbs_are_the_documented_ones() -> None:
    assert tuple(COMMAND.commands) == VERBS  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", ["plan", "status", "verify", "retry", "compact"])
def test_the_examples_run(verb: str, demo: Path) -> None:
    if verb == "verify":
        sam3ray_command("retry", "demo-output/run")
    args = shlex.split(epilog(verb).removeprefix("Example: sam3ray "))
    result = sam3ray_command(*args)
    # The run of this test lacks a clip, which `verify` is there to say; and `video.fps` differs from the run's.
    assert result.exit_code == {"verify": 1, "plan": 2}.get(verb, 0), result.output
    assert result.stdout


@pytest.mark.parametrize("verb", ["demo", "run", "render", "eval"])
def test_the_other_examples_parse(verb: str, monkeypatch: pytest.MonkeyPatch, demo: Path) -> None:
    called = []
    summary = JobSummary(1, 1, 0, {}, 0, 4, 1, 1.0, 0)

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        called.append((args, kwargs))
        return summary

    monkeypatch.setattr("sam3ray.job.driver.run_job", stand_in)
    monkeypatch.setattr("sam3ray.job.rendering.render_run", stand_in)
    if verb in ("demo", "eval"):
        module = pytest.importorskip("sam3ray.demo" if verb == "demo" else "sam3ray.evaluate")

        class Shown:
            exit_code = 0

            def as_json(self) -> dict[str, Any]:
                return {}

            def table(self) -> str:
                return "a table"

        def shown(*args: Any, **kwargs: Any) -> Shown:
            called.append((args, kwargs))
            return Shown()

        monkeypatch.setattr(module, "run_demo" if verb == "demo" else "evaluate_run", shown)
    result = sam3ray_command(*shlex.split(epilog(verb).removeprefix("Example: sam3ray ")))
    assert result.exit_code == 0, result.output
    assert len(called) == 1


def test_a_run_is_compared_with_the_truth_it_is_given(demo: Path) -> None:
    run = str(demo / "run")
    shown = sam3ray_command("eval", run, "--truth", run)
    assert shown.exit_code == 0, shown.output
    assert "red circle" in shown.stdout
    assert "1.000" in shown.stdout
    found = json.loads(sam3ray_command("eval", run, "--truth", run, "--json").stdout)
    assert found["overall"]["true_boxes"] == 4
    assert found["prompts"]["red circle"]["precision"] == 1
    nothing = sam3ray_command("eval", run, "--truth", str(demo / "clips"))
    assert nothing.exit_code == 2
    assert "it is not a folder of true tracks" in nothing.output


def test_without_track_eval_there_is_a_sentence_and_all_the_rest_of_the_demo(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("trackeval", "trackeval.metrics"):
        monkeypatch.setitem(sys.modules, name, None)
    result = sam3ray_command("eval", str(demo / "run"), "--truth", str(demo / "run"))
    assert result.exit_code == 2
    assert "evaluation needs TrackEval, and trackeval.metrics is not installed: pip install" in result.output

    from rich.console import Console

    from sam3ray import demo as module

    (demo / "clips" / "truth").mkdir()
    monkeypatch.setattr("sam3ray.shapes.demo_clips", lambda _: [])
    monkeypatch.setattr("sam3ray.job.run_job", lambda *_, **__: JobSummary(1, 1, 0, {}, 0, 4, 1, 1.0, 0))
    console = Console(width=200)
    with console.capture() as shown:
        console.print(module.run_demo(str(demo)).table())
    assert "not evaluated: evaluation needs TrackEval" in shown.get()
    assert "red circle" in shown.get()


def test_help_is_quick_and_brings_no_heavy_module() -> None:
    code = (
        "import sys; sys.argv = ['sam3ray', '--help']\n"
        "from sam3ray.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = ('torch', 'ray', 'transformers', 'pyarrow', 'av', 'fsspec', 'pydantic')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "sam3ray", "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", done.stdout)


# exit codes and streams


def test_wrong_configuration_is_exit_code_2_on_stderr(demo: Path) -> None:
    result = sam3ray_command("plan", "demo-output/demo.yaml", "--set", "model.dtype=fp16", "--set", "video.fsp=1")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 2
    assert all(line.startswith("sam3ray: --set: ") for line in result.stderr.splitlines())


@pytest.mark.parametrize(
    "args",
    [
        ("plan",),
        ("plan", "nothing.yaml"),
        ("frobnicate",),
        ("plan", "demo-output/demo.yaml", "--frobnicate"),
        ("plan", "demo-output/demo.yaml", "--log-level", "loud"),
        ("status", "nothing"),
        ("verify", "nothing"),
        ("retry", "nothing"),
        ("retry", "demo-output/run", "--reason", "bad_luck"),
        ("status", "demo-output/run", "--set", "model.dtype=auto"),
        ("status", "demo-output/run", "--set", "storage.secret=x"),
        ("compact", "demo-output/run", "--target-mb", "0"),
        ("compact", "nothing"),
        ("status", "s4://bucket/run"),
    ],
)
def test_wrong_arguments_are_exit_code_2(args: tuple[str, ...], demo: Path) -> None:
    result = sam3ray_command(*args)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr
    assert "Traceback" not in result.stderr


def run_job_that(behaves: Callable[[], Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: behaves()


def raises(error: BaseException) -> Callable[[], Any]:
    def behave() -> Any:
        raise error

    return behave


@pytest.mark.parametrize(
    ("behaves", "code", "said"),
    [
        (lambda: JobSummary(2, 2, 0, {}, 0, 9, 3, 1.0, 0), 0, ""),
        (lambda: JobSummary(2, 1, 0, {"crashed": 1}, 0, 9, 3, 1.0, 1, "1 clip failed"), 1, "1 clip failed"),
        (raises(UserError(["one", "two"])), 2, "sam3ray: one\nsam3ray: two\n"),
        (raises(JobStopped("nothing could be loaded")), 3, "sam3ray: nothing could be loaded\n"),
        (raises(KeyboardInterrupt()), 130, "interrupted"),
        (raises(ZeroDivisionError("oh")), 3, "ZeroDivisionError: oh"),
    ],
)
def test_how_a_job_ends_is_the_exit_code(
    behaves: Callable[[], Any], code: int, said: str, demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sam3ray.job.driver.run_job", run_job_that(behaves))
    result = sam3ray_command("run", "demo-output/demo.yaml")
    assert result.exit_code == code
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("left", "code"), [(0, 0), (1, 1)])
def test_failed_clips_may_be_taken_for_success_once_the_run_is_over(
    left: int, code: int, demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = JobSummary(3, 2 - left, 0, {"crashed": 1}, left, 9, 3, 1.0, 1)
    monkeypatch.setattr("sam3ray.job.driver.run_job", run_job_that(lambda: summary))
    assert sam3ray_command("run", "demo-output/demo.yaml", "--failed-clips-ok").exit_code == code


@pytest.mark.parametrize("error", [ZeroDivisionError("oh"), JobStopped("oh")])
def test_debug_shows_the_traceback(error: Exception, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sam3ray.job.driver.run_job", run_job_that(raises(error)))
    result = sam3ray_command("run", "demo-output/demo.yaml", "--log-level", "debug")
    assert result.exit_code == 3
    assert "Traceback" in result.stderr


@pytest.mark.parametrize("verb", ["plan demo-output/demo.yaml", "status demo-output/run", "verify demo-output/run"])
def test_json_is_json_and_alone_on_stdout(verb: str, demo: Path) -> None:
    result = sam3ray_command(*verb.split(), "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    if verb.startswith("plan"):
        assert (data["clips"], data["done"], data["settled"]) == (2, 1, {"crashed": 1})
    elif verb.startswith("status"):
        assert (data["clips"], data["done"], data["failed"], data["left"]) == (2, 1, {"crashed": 1}, 0)
    else:
        assert data == {"ok": True, "problems": [], "notes": []}


def test_tables_are_not_cut_where_stdout_is_no_terminal(demo: Path) -> None:
    result = sam3ray_command("plan", "demo-output/demo.yaml")
    assert str(demo / "clips.jsonl") in result.stdout
    assert "assuming" in result.stdout


def test_retry_clears_by_reason(demo: Path) -> None:
    nothing = sam3ray_command("retry", "demo-output/run", "--reason", "timed_out", "--reason", "preempted").stdout
    assert nothing == "nothing to retry: no clip's last failure is timed_out or preempted\n"
    cleared = sam3ray_command("retry", "demo-output/run", "--reason", "crashed").stdout
    assert cleared == "cleared the failures of 1 clip; the next `sam3ray run` tries those that are not done\n"
    assert sam3ray_command("retry", "demo-output/run").stdout == "nothing to retry: no clip has a failed attempt\n"
    assert json.loads(sam3ray_command("retry", "demo-output/run", "--json").stdout) == {"cleared": 0}


def test_plan_says_when_run_would_refuse(demo: Path) -> None:
    result = sam3ray_command("plan", "demo-output/demo.yaml", "--set", "tracking.new_det_thresh=0.9")
    assert result.exit_code == 2
    assert "tracking.new_det_thresh is 0.9, the run has null" in result.stderr


def test_verify_lists_what_is_wrong(demo: Path) -> None:
    (demo / "run/annotations/a.parquet").write_bytes(b"rubbish")
    result = sam3ray_command("verify", "demo-output/run")
    assert result.exit_code == 1
    assert "a.parquet" in result.stdout or "clip a" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("report", "run", "--clips", "500"), "'--clips': 500; allowed: at most 200"),
        (("triage", "run", "--workers", "0"), "'--workers': 0; allowed: at least 1"),
        (("app", "--port", "http"), "'--port': http; allowed: a whole number"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(arguments: tuple[str, ...], problem: str) -> None:
    result = sam3ray_command(*arguments)
    assert result.exit_code == 2
    assert problem in result.stderr
