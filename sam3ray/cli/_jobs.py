"""Verbs for a job and its run folder, from the plan to the merged files."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from sam3ray.cli._app import (
    OK,
    SOME_FAILED,
    WRONG_INPUT,
    AsJson,
    Config,
    LogLevel,
    Output,
    Revision,
    Set,
    _example,
    _given_storage,
    _named_revision,
    _options,
    _show,
    _verb,
    app,
)
from sam3ray.display.console import complain, counter, facts_table, plain, print_json, print_result, say
from sam3ray.display.readable import byte_size, counted
from sam3ray.failures import Reason, UserError

if TYPE_CHECKING:
    from sam3ray.config import JobConfig


@app.command(epilog=_example("sam3ray demo --output demo-output"))
@_verb
def demo(
    output: Annotated[
        str, typer.Option("--output", metavar="DIR", help="Folder to write the demo to.")
    ] = "demo-output",
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> int:
    """Label drawn clips on this machine with the embedded checkpoint, and render the results."""
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
            "--failed-clips-ok",
            metavar="",
            help="Exit with 0 instead of 1 when the run is complete but some clips failed.",
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
    """Audit a run: is every clip accounted for and every file intact? Lists problems and exits with 1 if there are any.

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
        some = "" if sample is None else f" (files of at most {counted(sample, 'clip')} checked)"
        say(
            f"{output}: {counted(len(problems), 'problem')} found{some}"
            if problems
            else f"{output}: OK, no problems found{some}"
        )
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
        bool,
        typer.Option("--from-start", metavar="", help="Delete the saved progress of these clips: they start over."),
    ] = False,
    set_: Set = None,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> int:
    """Clear failure records: the next `run` tries those clips again."""
    from sam3ray import verbs

    reasons = _reasons(reason or ())
    cleared = verbs.retry(output, reasons, _given_storage(set_), from_start=from_start)
    if as_json:
        print_json({"cleared": cleared})
    elif cleared:
        say(f"cleared the failures of {counted(cleared, 'clip')}; the next `sam3ray run` tries those that are not done")
    elif reasons:
        say(f"nothing to retry: no clip's last failure is {' or '.join(reason.value for reason in reasons)}")
    else:
        say("nothing to retry: no clip has a failed attempt")
    return OK


@app.command(epilog=_example("sam3ray render demo-output/run --set render.max_height=480"))
@_verb
def render(
    output: Output,
    clips: Annotated[
        list[str] | None, typer.Option("--clips", metavar="ID", help="Render only this clip. Repeatable.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", metavar="", help="Re-render existing videos.")] = False,
    every_frame: Annotated[
        bool,
        typer.Option(
            "--every-frame",
            metavar="",
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

    With --revision, renders the corrected clips with their corrections, into edits/videos/<number>/.
    """
    from sam3ray import verbs

    asked = [*(set_ or ()), *(["render.every_frame=true"] if every_frame else [])]
    options = _options(asked, ("storage", "render", "cluster"))
    given = options.model_fields_set  # options that are not given are those of the run's own configuration
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
            metavar="",
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
    facts = {
        "clips merged": result.clips or "0: there is nothing new to merge",
        "files written": result.parts or None,
        "size": byte_size(result.bytes) if result.parts else None,
        "per-clip files deleted": result.removed,
    }
    print_result(plain(result), facts_table(facts), as_json)
    return OK


def _load(config: str, overrides: list[str] | None) -> JobConfig:
    from sam3ray.config import load_config

    return load_config(config, overrides or ())


def _reasons(names: Iterable[str]) -> list[Reason] | None:
    known = [reason.value for reason in Reason]
    wrong = [name for name in names if name not in known]
    if wrong:
        raise UserError(
            f"--reason {name}: the nearest known one is {difflib.get_close_matches(name, known, 1, 0.0)[0]}; "
            f"allowed: {', '.join(known)}"
            for name in wrong
        )
    return [Reason(name) for name in names] or None
