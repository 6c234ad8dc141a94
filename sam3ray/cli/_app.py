"""The `sam3ray` command: arguments in, calls to the modules, tables or JSON out.

Results go to stdout, everything else to stderr. Modules are imported by the verb that needs them, so that
`--help` is quick.
"""

from __future__ import annotations

from sam3ray.cli import _interrupts  # isort: skip - first: a signal may come during the imports below

import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from sam3ray.cli._streams import hold_standard_streams, lost_result
from sam3ray.display.console import complain, counter, facts_table, plain, print_json, print_result, say
from sam3ray.failures import ClipError, JobStopped, Reason, UserError
from sam3ray.guard.printable import json_text, printable_lines
from sam3ray.guard.redact import redact

if TYPE_CHECKING:
    from sam3ray.app import AppOptions
    from sam3ray.cameras import LiveFrame
    from sam3ray.config import JobConfig
    from sam3ray.job import JobSummary

OK, SOME_FAILED, WRONG_INPUT, STOPPED, INTERRUPTED = 0, 1, 2, 3, 130

# What these did is on storage: a summary that cannot be printed changes nothing.
_WORK = frozenset(
    {"demo", "run", "retry", "render", "compact", "export_labels", "import_corrections", "refine", "watch_live"}
)

app = typer.Typer(
    name="sam3ray",
    help="SAM 3 over video datasets, on Ray: RLE masks, boxes, scores and ids in Parquet, committed exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
P = ParamSpec("P")

Config = Annotated[str, typer.Argument(metavar="CONFIG", help="The job's YAML file: a path or a storage address.")]
Output = Annotated[
    str,
    typer.Argument(
        metavar="OUTPUT", help="The run: its output folder (a path or a storage address), or the job's YAML file."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a configuration key, as in --set model.dtype=float32. Repeatable."
    ),
]
Revision = Annotated[
    str | None,
    typer.Option("--revision", metavar="R", help="With the corrections up to here: latest, or a number."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
LogLevel = Annotated[
    str,
    typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error. `debug` also shows tracebacks."),
]


def _version(wanted: bool) -> None:
    if wanted:
        from sam3ray import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None, prog_name: str = "sam3ray") -> None:
    """The console script. `arguments`: instead of those of the process."""
    hold_standard_streams()
    app(arguments, prog_name=prog_name)


def _verb(function: Callable[P, int]) -> Callable[P, None]:
    """Runs a verb and turns what it raises into a sentence and an exit code."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        level = str(kwargs.get("log_level", "warning"))
        if _interrupts.is_command():
            _interrupts.interrupt()
        try:
            _set_up_logging(level)
            code = function(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the one place where every error becomes words
            if level == "debug":
                print(printable_lines(redact(traceback.format_exc())), file=sys.stderr)
            sentences, code = _explained(error)
            complain(sentences)
        except SystemExit:  # Ray's own handlers of SIGTERM, from `ray.init` on, end a process so
            complain(["interrupted"])
            code = INTERRUPTED
        if _interrupts.is_command():
            _interrupts.leave_at_once()
        if lost := lost_result():
            complain([lost])
            code = code if function.__name__ in _WORK else code or STOPPED
        raise typer.Exit(code)

    return run


def _explained(error: BaseException) -> tuple[Iterable[str], int]:
    """What to say of an error, and the exit code."""
    if isinstance(error, UserError):
        return error.problems, WRONG_INPUT
    if isinstance(error, JobStopped | ClipError):
        return [redact(str(error))], STOPPED
    if isinstance(error, KeyboardInterrupt):
        return ["interrupted"], INTERRUPTED
    return [
        f"internal error: {type(error).__name__}: {redact(str(error))}",
        "run it again with --log-level debug for details, and please report it",
    ], STOPPED


def _example(text: str) -> str:
    return f"Example: {text}"


@app.command(epilog=_example("sam3ray demo --output demo-output"))
@_verb
def demo(
    output: Annotated[
        str, typer.Option("--output", metavar="DIR", help="Folder to write the demo to.")
    ] = "demo-output",
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> int:
    """Label generated clips on this machine with the small built-in checkpoint, and render the results."""
    from sam3ray.demo import run_demo

    result = run_demo(output)
    print_result(result.as_json(), result.table(), as_json)
    return int(result.exit_code)


@app.command(epilog=_example("sam3ray plan demo-output/demo.yaml --set video.fps=5"))
@_verb
def plan(
    config: Config,
    sample: Annotated[
        int | None,
        typer.Option("--sample", metavar="N", min=1, help="Probe only N clips and scale the figures up."),
    ] = None,
    set_: Set = None,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> int:
    """Check the config and manifest, probe every clip and estimate the cost. Loads no model and writes nothing."""
    from sam3ray.planning import plan_job, plan_report

    job = _load(config, set_)
    with counter("videos probed") as progress:
        found = plan_job(job, sample=sample, on_progress=progress)
    print_result(found.as_json(), plan_report(found), as_json)
    if found.refusals:
        complain(["`run` would refuse this output folder, whose run differs:", *found.refusals])
        return WRONG_INPUT
    complain(found.notices)
    return OK


@app.command(epilog=_example("sam3ray run demo-output/demo.yaml --set cluster.actors.max=1"))
@_verb
def run(
    config: Config,
    failed_clips_ok: Annotated[
        bool,
        typer.Option(
            "--failed-clips-ok", help="Exit with 0 instead of 1 when the run is complete but some clips failed."
        ),
    ] = False,
    set_: Set = None,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> int:
    """Run a job, or resume it. Safe to repeat at any time."""
    from sam3ray.job import make_progress, run_job

    job = _load(config, set_)
    summary = run_job(job, progress=make_progress(), log_level=log_level)
    _show(summary, job.output, as_json)
    if failed_clips_ok and summary.exit_code == SOME_FAILED and summary.left == 0:
        return OK
    return int(summary.exit_code)


@app.command(epilog=_example("sam3ray status demo-output/run"))
@_verb
def status(
    output: Output,
    revision: Revision = "latest",
    set_: Set = None,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> int:
    """Show a run's progress, read from storage alone, while it runs elsewhere or after it has ended."""
    from sam3ray import verbs

    with counter("files read") as progress:
        found = verbs.status(output, _given_storage(set_), revision=_named_revision(revision), progress=progress)
    print_result(found.as_json(), facts_table(found.facts()), as_json)
    return OK


@app.command(epilog=_example("sam3ray verify demo-output/run --sample 100"))
@_verb
def verify(
    output: Output,
    sample: Annotated[
        int | None,
        typer.Option("--sample", metavar="N", min=1, help="Check the files of N clips, chosen at random each time."),
    ] = None,
    revision: Revision = "latest",
    set_: Set = None,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> int:
    """Audit a run: is every clip accounted for, and is every file intact? Lists the problems and exits with 1 if not.

    Uses all CPUs of this machine, or those of a Ray cluster with --set cluster.address=auto.
    """
    from sam3ray import verbs

    options = _options(set_, ("storage", "cluster"))
    cluster, workers = options.cluster.address, os.cpu_count() or 1
    with counter("clips checked") as progress:
        problems = verbs.verify(
            output,
            options.storage or None,
            sample=sample,
            revision=_named_revision(revision),
            workers=workers,
            cluster=cluster,
            progress=progress,
        )
    notes = verbs.verify_notes(output, options.storage or None)
    if as_json:
        print_json({"ok": not problems, "problems": problems, "notes": notes})
    else:
        for problem in problems:
            say(problem)
        for note in notes:
            say(f"note: {note}")
        some = "" if sample is None else f" (files of at most {sample} clips checked)"
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        say(f"{output}: {count} found{some}" if problems else f"{output}: OK, no problems found{some}")
    return SOME_FAILED if problems else OK


@app.command(epilog=_example("sam3ray retry demo-output/run --reason crashed --reason timed_out"))
@_verb
def retry(
    output: Output,
    reason: Annotated[
        list[str] | None,
        typer.Option("--reason", metavar="R", help="Clear only failures with this reason. Repeatable."),
    ] = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Drop what is kept of these clips: they begin at their first frame.")
    ] = False,
    set_: Set = None,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> int:
    """Clear failure records, so that the next `run` retries those clips."""
    from sam3ray import verbs

    cleared = verbs.retry(output, _reasons(reason or ()), _given_storage(set_), from_start=from_start)
    if as_json:
        print_json({"cleared": cleared})
    else:
        say(f"the next `sam3ray run` tries {'1 clip' if cleared == 1 else f'{cleared:,} clips'} again")
    return OK


@app.command(epilog=_example("sam3ray render demo-output/run --set render.max_height=480"))
@_verb
def render(
    output: Output,
    clips: Annotated[
        list[str] | None, typer.Option("--clips", metavar="ID", help="Render only this clip. Repeatable.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Re-render existing videos.")] = False,
    every_frame: Annotated[
        bool,
        typer.Option(
            "--every-frame",
            help="Draw every source frame of sampled clips; frames between two samples show the masks of the earlier "
            "one. By default a video shows only the labelled frames, each until the next.",
        ),
    ] = False,
    revision: Revision = None,
    set_: Set = None,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> int:
    """Render a run's annotated videos, on CPUs. Existing videos are kept.

    With --revision, the corrected clips with their corrections, into edits/videos/<number>/.
    """
    from sam3ray import verbs

    asked = [*(set_ or ()), *(["render.every_frame=true"] if every_frame else [])]
    options = _options(asked, ("storage", "render", "cluster"))
    given = options.model_fields_set  # what is not given is as in the run's own configuration
    summary = verbs.render(
        output,
        clips or None,
        options.storage or None,
        options=options.render if "render" in given else None,
        cluster=options.cluster.address if "cluster" in given else None,
        overwrite=overwrite,
        revision=_named_revision(revision),
        progress=True,
    )
    facts = {"run": output, **summary.render_facts(), "where": f"{output}/videos/*.mp4"}
    print_result(plain(summary), facts_table(facts), as_json)
    if summary.message:
        complain([summary.message])
    return int(summary.exit_code)


@app.command(epilog=_example("sam3ray compact demo-output/run --target-mb 256"))
@_verb
def compact(
    output: Output,
    target_mb: Annotated[
        int, typer.Option("--target-mb", metavar="MB", min=1, max=4096, help="Target size of a merged file.")
    ] = 256,
    remove_originals: Annotated[
        bool,
        typer.Option(
            "--remove-originals",
            help="Delete the per-clip files afterwards. Otherwise they stay, and readers ignore them.",
        ),
    ] = False,
    set_: Set = None,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> int:
    """Merge a run's per-clip files into larger ones (128-512 MB). Safe against a crash at any point."""
    from sam3ray import verbs

    with counter("clips merged") as progress:
        result = verbs.compact(
            output,
            _given_storage(set_),
            target_mb=target_mb,
            remove_originals=remove_originals,
            progress=progress,
        )
    print_result(plain(result), facts_table(plain(result)), as_json)
    return OK


@app.command("eval", epilog=_example("sam3ray eval demo-output/run --truth demo-output/clips/truth"))
@_verb
def evaluate(
    output: Output,
    truth: Annotated[
        str | None,
        typer.Option("--truth", metavar="TRUTH", help="True tracks: a folder or address laid out like a run."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="RUN", help="Another run of the same clips, to compare objects and ids with."
        ),
    ] = None,
    iou: Annotated[
        float, typer.Option("--iou", min=0.01, max=1.0, help="Minimum mask IoU for an object to count as found.")
    ] = 0.5,
    ignore_prompts: Annotated[
        bool,
        typer.Option("--ignore-prompts", help="Ignore which phrase found an object, for truth without classes."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="Number of processes. Default: one per CPU.")
    ] = None,
    revision: Revision = None,
    set_: Set = None,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> int:
    """Measure a run against true tracks (recall, J&F, HOTA, cgF1), or compare its identities with another run's."""
    from sam3ray.evaluate import Tolerance, compare_runs, evaluate_run

    if (truth is None) == (against is None):
        raise UserError("give one of --truth TRUTH (true tracks) and --against RUN (another run)")
    if against is not None and ignore_prompts:
        raise UserError("--ignore-prompts: allowed with --truth alone")
    processes = workers or os.cpu_count() or 1
    with counter("clips compared") as progress:
        report: Any
        if against is not None:
            report = compare_runs(
                _place(output),
                _place(against),
                _given_storage(set_),
                iou,
                processes,
                progress,
                revision=_named_revision(revision),
            )
        else:
            report = evaluate_run(
                _place(output),
                _place(str(truth)),
                _given_storage(set_),
                Tolerance(iou),
                processes,
                progress,
                ignore_prompts=ignore_prompts,
                revision=_named_revision(revision),
            )
    print_result(report.as_json(), report.table(), as_json)
    return OK


@app.command("export", epilog=_example("sam3ray export demo-output/run --format coco --to demo-output/coco"))
@_verb
def export_labels(
    output: Output,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="F",
            help="coco, ytvis, saco, mots, mot, davis, cvat, labelstudio, labelme, xanylabeling, "
            "fiftyone, yolo, sav or parquet.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option("--to", metavar="DEST", help="An empty folder, on any storage; or the address of a CVAT server."),
    ],
    variant: Annotated[
        str | None,
        typer.Option(
            "--variant",
            metavar="V",
            help="mots: challenge, kitti or png. cvat: boxes, masks or push (into a server). labelstudio: video or "
            "brush. Default: the first",
        ),
    ] = None,
    clips: Annotated[
        list[str] | None, typer.Option("--clips", metavar="ID", help="Export only this clip. Repeatable.")
    ] = None,
    prompts: Annotated[
        list[str] | None, typer.Option("--prompts", metavar="P", help="Export only this label. Repeatable.")
    ] = None,
    min_score: Annotated[
        float, typer.Option("--min-score", metavar="S", help="Omit objects with a lower detection score.")
    ] = 0.0,
    every: Annotated[int, typer.Option("--every", metavar="N", help="Export every N-th labelled frame.")] = 1,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels", metavar="FILE", help="YAML or JSON file that renames labels, as in `person: pedestrian`."
        ),
    ] = None,
    images: Annotated[
        bool, typer.Option("--images", help="Also extract the exported frames to where the tool expects them.")
    ] = False,
    revision: Revision = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="Number of processes. Default: one per CPU.")
    ] = None,
    set_: Set = None,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> int:
    """Export labels for another tool. Prints what the format cannot hold. Safe to repeat."""
    from sam3ray.exports import SENTENCES, export, push_to_cvat, read_names

    chosen: dict[str, Any] = {
        "clips": clips or None,
        "prompts": prompts or None,
        "min_score": min_score,
        "every": every,
        "names": read_names(labels) if labels else None,
        "revision": _named_revision(revision),
        "storage_options": _given_storage(set_),
    }
    with counter("clips exported") as progress:
        if (format_, variant) == ("cvat", "push"):
            done = push_to_cvat(_place(output), to, **chosen, progress=progress)
        else:
            done = export(
                _place(output),
                _place(to),
                format_,
                variant=variant,
                images=images,
                workers=workers or os.cpu_count() or 1,
                **chosen,
                progress=progress,
            )
    facts = {key: value for key, value in plain(done).items() if key not in ("lost", "failed")}
    lost = {SENTENCES[kind]: count for kind, count in done.lost.items()}
    print_result(plain(done), facts_table({"exported to": to, **facts, **lost}), as_json)
    complain(f"clip {clip_id} was not exported: {problem}" for clip_id, problem in done.failed.items())
    return SOME_FAILED if done.failed else OK


@app.command(epilog=_example("sam3ray convert sam3.pt my-sam3 --base facebook/sam3"))
@_verb
def convert(
    weights: Annotated[
        str,
        typer.Argument(
            metavar="WEIGHTS", help="Meta's sam3.pt, weights fine-tuned from it, or the folder of a LoRA adapter."
        ),
    ],
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="The checkpoint folder to create.")],
    base: Annotated[
        str,
        typer.Option(
            "--base",
            metavar="ID",
            help="Hub id or folder to take the configuration, the tokenizer and any missing weights from.",
        ),
    ] = "facebook/sam3",
    offline: Annotated[bool, typer.Option("--offline", help="Do not contact the hub.")] = False,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> int:
    """Convert Meta's or fine-tuned weights into a folder for `model.checkpoint`."""
    from dataclasses import asdict

    from sam3ray.engine.convert import convert as convert_weights

    done = convert_weights(weights, folder, base, offline=offline)
    if as_json:
        print_json(asdict(done))
        return OK
    say(f"{folder} contains {done.weights} weights; use it as model.checkpoint")
    if done.from_base:
        say(f"taken from {base}, since {weights} has none: {', '.join(done.from_base)}")
    if done.unused:
        say(f"ignored, because nothing reads them: {len(done.unused)} of the file's weights")
    return OK


def run_arguments(arguments: list[str]) -> tuple[str, list[str]] | None:
    """CONFIG and the `--set` values among the arguments of `run`, in whatever order; None where there is no CONFIG."""
    command = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    found = command.make_context("run", list(arguments), resilient_parsing=True).params
    return None if found.get("config") is None else (found["config"], list(found.get("set_") or ()))


@app.command("import", epilog=_example("sam3ray import demo-output/run --from to-correct --format labelme"))
@_verb
def import_corrections(
    output: Output,
    source: Annotated[
        str, typer.Option("--from", metavar="SRC", help="The folder that `export` wrote, with your corrections.")
    ],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="F",
            help="A format of `export` but yolo, or run (what `refine` made). "
            "With --as-truth: saco, ytvis, davis, mots or sav.",
        ),
    ],
    author: Annotated[
        str | None, typer.Option("--author", metavar="NAME", help="Author of the corrections. Default: your user name.")
    ] = None,
    as_truth: Annotated[
        bool,
        typer.Option(
            "--as-truth", help="Convert the ground truth of a public dataset into OUTPUT, for `eval --truth`."
        ),
    ] = False,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="RUN", help="With --as-truth: a run of this dataset, to take the clip ids from."),
    ] = None,
    label: Annotated[
        str,
        typer.Option(
            "--label", metavar="L", help="With --as-truth: the label of all objects, if the dataset has no classes."
        ),
    ] = "object",
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="FILE",
            help="With --as-truth: YAML or JSON file that renames labels, as in `pedestrian: person`.",
        ),
    ] = None,
    numbered: Annotated[
        bool,
        typer.Option(
            "--numbered",
            help="With --as-truth: the numbers in image names are frame indices. Otherwise images count 0, 1, 2.",
        ),
    ] = False,
    set_: Set = None,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> int:
    """Import corrections as a revision beside the run. The model's own files do not change."""
    if as_truth:
        return _import_truth(output, source, format_, run, label, labels, numbered, set_, as_json)
    from sam3ray.exports import import_labels

    with counter("clips compared") as progress:
        done = import_labels(
            _place(output),
            _place(source),
            format_,
            author=author,
            storage_options=_given_storage(set_),
            progress=progress,
        )
    shown = {"revision": done.revision or "none: nothing has changed", **done.clips}
    print_result(plain(done), facts_table(shown), as_json)
    return OK


def _import_truth(
    truth: str,
    source: str,
    format_: str,
    run: str | None,
    label: str,
    labels: str | None,
    numbered: bool,
    set_: list[str] | None,
    as_json: bool,
) -> int:
    from sam3ray.exports import read_names
    from sam3ray.truth import import_truth

    with counter("clips read") as progress:
        made = import_truth(
            _place(truth),
            _place(source),
            format_,
            run=None if run is None else _place(run),
            label=label,
            labels=None if labels is None else read_names(labels),
            numbered=numbered,
            storage_options=_given_storage(set_),
            progress=progress,
        )
    print_result(plain(made), facts_table(plain(made)), as_json)
    if run is not None and made.unmatched:
        complain([f"{len(made.unmatched)} clips of the set are not in {run}: {', '.join(made.unmatched[:5])}"])
    return OK


@app.command(epilog=_example("sam3ray refine demo-output/run --to demo-output/refined"))
@_verb
def refine(
    output: Output,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="DEST", help="The new run. Default: OUTPUT-refined-R, R being the revision."),
    ] = None,
    revision: Annotated[
        str, typer.Option("--revision", metavar="R", help="Corrections up to here: latest, or a number.")
    ] = "latest",
    clips: Annotated[
        list[str] | None, typer.Option("--clips", metavar="ID", help="This corrected clip alone (repeatable).")
    ] = None,
    set_: Set = None,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> int:
    """Track corrected objects again from their corrections, into a new run. No phrase runs again; ids stay.

    `sam3ray import OUTPUT --from DEST --format run` brings the rows home as a revision.
    """
    from sam3ray.job import make_progress
    from sam3ray.job import refine as refine_run
    from sam3ray.job.refining import refined_output

    number = _revision(output, revision, set_)
    place = _place(to) if to else refined_output(output, number)
    summary = refine_run(
        output,
        place,
        revision=number,
        clips=clips or None,
        overrides=set_ or (),
        storage_options=_refine_storage(set_),
        progress=make_progress(),
        log_level=log_level,
    )
    _show(summary, place, as_json)
    return int(summary.exit_code)


@app.command("app", epilog=_example("sam3ray app demo-output/run"))
@_verb
def page(
    source: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE", help="Videos, folders, globs or manifests. None: drawn clips."),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", metavar="ID", help="Short for --set model.checkpoint=ID."),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="H", help="Where to listen. By default this machine alone can reach it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="P", min=0, max=65535, help="0 takes a free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    author: Annotated[
        str | None, typer.Option("--author", metavar="NAME", help="Of corrections; by default your user name.")
    ] = None,
    set_: Set = None,
    log_level: LogLevel = "warning",
) -> int:
    """Open the page: try phrases, clicks and boxes on clips."""
    options_of_page, serve = _page()
    if not source and checkpoint is None and not any(each.startswith("model.") for each in set_ or ()):
        checkpoint = "embedded"  # drawn clips are what it knows
    options = _options(_with_checkpoint(checkpoint, set_), ("storage", "model", "tracking", "video"))
    serve(
        options_of_page(
            sources=tuple(source or ()),
            model=options.model,
            tracking=options.tracking,
            host=host,
            port=port,
            browser=not no_browser,
            author=author,
            storage=options.storage,
            video=options.video,
        ),
        say,
        lambda sentence: complain([sentence]),
    )
    return OK


@app.command("live", epilog=_example("sam3ray live rtsp://camera/stream --prompt person --output recordings/door"))
@_verb
def watch_live(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="rtsp://..., a device such as /dev/video0, or a video file.")
    ],
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", metavar="P", help="A phrase to look for (repeatable).")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="DIR", help="Record into a run folder, a clip every 10 minutes."),
    ] = None,
    no_video: Annotated[bool, typer.Option("--no-video", help="With --output: rows alone, no recording.")] = False,
    every_frame: Annotated[
        bool, typer.Option("--every-frame", help="Of a file: look at every frame instead of keeping its pace.")
    ] = False,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="ID", help="Short for --set model.checkpoint=ID.")
    ] = None,
    set_: Set = None,
    display: Annotated[bool, typer.Option("--display", help="Show it on a page instead of printing.")] = False,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="With --display: only print the page's address.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for every frame.")] = False,
    log_level: LogLevel = "warning",
) -> int:
    """Look for phrases on live video, until it ends or you stop it. Prints what is there now, once a second."""
    from sam3ray.cameras import live
    from sam3ray.model import Model

    options = _options(_with_checkpoint(checkpoint, set_), ("model", "tracking", "video", "live"))
    place = None if output is None else _place(output)
    if display:
        options_of_page, serve = _page()
        shown = options_of_page(
            model=options.model,
            tracking=options.tracking,
            browser=not no_browser,
            video=options.video,
            camera=source,
            phrases=tuple(prompts or ()),
            record=place,
            record_video=not no_video,
            live=options.live,
        )
        serve(shown, say, lambda sentence: complain([sentence]))
        return OK
    model = Model(options.model, options.tracking)
    frames = live(
        source,
        prompts or (),
        model=model,
        output=place,
        record_video=not no_video,
        every_frame=every_frame,
        settings=options.live,
        limits=options.video,
    )
    _tell(frames, as_json)
    return OK


def _tell(frames: Iterable[LiveFrame], as_json: bool) -> None:
    """Frames as lines on stdout."""
    from contextlib import closing
    from time import monotonic

    told, count = 0.0, 0
    with closing(frames) as each:  # type: ignore[type-var]
        for frame in each:
            count += 1
            objects = frame.annotations.objects
            if as_json:
                say(json_text(frame.as_json()))
                continue
            now = monotonic()
            told = told or now
            if now - told >= 1:
                names: dict[str, int] = {}
                for item in objects:
                    names[item.prompt] = names.get(item.prompt, 0) + 1
                seen = ", ".join(f"{n} {name}" for name, n in sorted(names.items())) or "nothing"
                rate = count / (now - told)
                say(f"{seen}; {rate:.1f} frames/s, {frame.age_s:.2f} s old, {frame.dropped} dropped")
                told, count = now, 0


def _page() -> tuple[type[AppOptions], Callable[..., None]]:
    """What serves the page. Raises UserError where its extra is not installed."""
    try:
        from sam3ray.app import AppOptions, serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("uvicorn", "fastapi", "starlette", "websockets"):
            raise
        raise UserError(f"the page needs {error.name}: pip install 'sam3ray[app]'") from None
    return AppOptions, serve


def _with_checkpoint(checkpoint: str | None, set_: list[str] | None) -> list[str]:
    return [*([] if checkpoint is None else [f"model.checkpoint={checkpoint}"]), *(set_ or ())]


def _show(summary: JobSummary, output: str, as_json: bool) -> None:
    """The summary of a job; its closing message goes to stderr."""
    print_result(plain(summary), facts_table({"output": output, **summary.facts()}), as_json)
    if summary.message:
        complain([summary.message])


def _load(config: str, overrides: list[str] | None) -> JobConfig:
    from sam3ray.config import load_config

    return load_config(config, overrides or ())


def _options(overrides: list[str] | None, sections: tuple[str, ...]) -> JobConfig:
    """Configuration for a verb that works on a finished run: some sections of it, from `--set` alone."""
    from sam3ray.config import config_from_text

    wrong = [o for o in overrides or () if o.partition("=")[0].partition(".")[0].strip() not in sections]
    if wrong:
        raise UserError(f"--set {o}: allowed here: keys of {', '.join(sections)}" for o in wrong)
    return config_from_text("{manifest: none, output: /none}", "--set", overrides or ())


def _storage(overrides: list[str] | None) -> dict[str, Any]:
    return _options(overrides, ("storage",)).storage


def _given_storage(overrides: list[str] | None) -> dict[str, Any] | None:
    """fsspec options; None where none are given: those of the configuration then, if OUTPUT is one."""
    return _storage(overrides) or None


def _revision(output: str, revision: str | None, set_: list[str] | None) -> int:
    """The number of a revision; 0 where none is asked for.

    Raises:
        UserError: no such name.
    """
    from sam3ray.config import run_place
    from sam3ray.revisions import Edits
    from sam3ray.store import RunStore

    return Edits(RunStore(*run_place(output, _refine_storage(set_)))).number_of(_named_revision(revision))


def _named_revision(revision: str | None) -> int | str | None:
    """As `Edits.number_of` takes it."""
    return int(revision) if revision is not None and revision.isascii() and revision.isdigit() else revision


def _refine_storage(set_: list[str] | None) -> dict[str, Any] | None:
    """Of a verb whose `--set` takes every key."""
    return _given_storage([each for each in set_ or () if each.startswith("storage.")])


def _place(output: str) -> str:
    from sam3ray.files import resolve

    return resolve(output)


def _reasons(names: Iterable[str]) -> list[Reason] | None:
    import difflib

    known = [reason.value for reason in Reason]
    wrong = [name for name in names if name not in known]
    if wrong:
        raise UserError(
            f"--reason {name}: the nearest known one is {difflib.get_close_matches(name, known, 1, 0.0)[0]}; "
            f"allowed: {', '.join(known)}"
            for name in wrong
        )
    return [Reason(name) for name in names] or None


def _set_up_logging(level: str) -> None:
    from sam3ray.job.logs import LEVELS, set_up_logging

    if level not in LEVELS:
        raise UserError(f"--log-level is {level!r}; allowed: {', '.join(LEVELS)}")
    set_up_logging(level)
