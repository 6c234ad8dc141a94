"""Verbs for the labels of a run: evaluation, exports, corrections."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from sam3ray.cli._app import (
    OK,
    SOME_FAILED,
    AsJson,
    LogLevel,
    Output,
    Revision,
    Set,
    Workers,
    _example,
    _given_storage,
    _named_revision,
    _place,
    _show,
    _verb,
    app,
)
from sam3ray.display.console import complain, counter, facts_table, plain, print_json, print_result, say
from sam3ray.display.readable import counted
from sam3ray.failures import UserError


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
        float,
        typer.Option(
            "--iou", metavar="IOU", min=0.01, max=1.0, help="Minimum mask IoU for an object to count as found."
        ),
    ] = 0.5,
    ignore_prompts: Annotated[
        bool,
        typer.Option(
            "--ignore-prompts", metavar="", help="Ignore which phrase found an object, for truth without classes."
        ),
    ] = False,
    workers: Workers = None,
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
        raise UserError("--ignore-prompts: allowed only with --truth")
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
            "brush. Default: the first.",
        ),
    ] = None,
    clips: Annotated[
        list[str] | None, typer.Option("--clips", metavar="ID", help="Export only this clip. Repeatable.")
    ] = None,
    prompts: Annotated[
        list[str] | None, typer.Option("--prompts", metavar="P", help="Export only this label. Repeatable.")
    ] = None,
    min_score: Annotated[
        float, typer.Option("--min-score", metavar="S", help="Omit objects with a lower detection score, 0 to 1.")
    ] = 0.0,
    every: Annotated[
        int, typer.Option("--every", metavar="N", help="Export every N-th labelled frame. N is 1 or more.")
    ] = 1,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels", metavar="FILE", help="YAML or JSON file that renames labels, as in `person: pedestrian`."
        ),
    ] = None,
    images: Annotated[
        bool,
        typer.Option("--images", metavar="", help="Also extract the exported frames to where the tool expects them."),
    ] = False,
    revision: Revision = None,
    workers: Workers = None,
    set_: Set = None,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> int:
    """Export labels for another tool. Reports what the format cannot hold. Safe to repeat."""
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
    facts = {"clips": done.clips, "exported before": done.already or None, "frames": done.frames, "rows": done.rows}
    lost = {SENTENCES[kind]: count for kind, count in done.lost.items()}
    print_result(plain(done), facts_table({"exported to": to, **facts, **lost}), as_json)
    complain(f"--labels: the run has no label {label!r}; check its spelling" for label in done.unknown_names)
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
    offline: Annotated[bool, typer.Option("--offline", metavar="", help="Do not contact the hub.")] = False,
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
    say(f"{folder} contains {counted(done.weights, 'weight')}; use it as model.checkpoint")
    if done.from_base:
        say(f"taken from {base}, because {weights} lacks them: {', '.join(done.from_base)}")
    if done.unused:
        say(f"ignored, because the model does not use them: {counted(len(done.unused), 'weight')} of the file")
    return OK


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
            help="Any format of `export` except yolo; or run, for a run that `refine` made. "
            "With --as-truth: saco, ytvis, davis, mots or sav.",
        ),
    ],
    author: Annotated[
        str | None, typer.Option("--author", metavar="NAME", help="Author of the corrections. Default: your user name.")
    ] = None,
    as_truth: Annotated[
        bool,
        typer.Option(
            "--as-truth",
            metavar="",
            help="Convert the ground truth of a public dataset into OUTPUT, for `eval --truth`.",
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
            metavar="",
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
    facts = {
        "clips": made.clips,
        "imported before": made.already or None,
        "frames": made.frames,
        "objects": made.objects,
        "phrases": made.phrases,
    }
    print_result(plain(made), facts_table(facts), as_json)
    if run is not None and made.unmatched:
        complain(
            [f"{counted(len(made.unmatched), 'clip')} of the dataset not in {run}: {', '.join(made.unmatched[:5])}"]
        )
    return OK


@app.command(epilog=_example("sam3ray refine demo-output/run --to demo-output/refined"))
@_verb
def refine(
    output: Output,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="DEST", help="Folder of the new run. Default: OUTPUT-refined-R, where R is the revision."
        ),
    ] = None,
    revision: Annotated[
        str,
        typer.Option("--revision", metavar="R", help="Use the corrections up to this revision: latest, or a number."),
    ] = "latest",
    clips: Annotated[
        list[str] | None, typer.Option("--clips", metavar="ID", help="Refine only this corrected clip. Repeatable.")
    ] = None,
    set_: Set = None,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> int:
    """Track corrected objects again from their corrections, into a new run. Phrases do not run again; ids stay.

    Then `sam3ray import OUTPUT --from DEST --format run` imports the new rows as a revision.
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


def _revision(output: str, revision: str | None, set_: list[str] | None) -> int:
    """The number of a revision; 0 if none is given.

    Raises:
        UserError: there is no such revision.
    """
    from sam3ray.config import run_place
    from sam3ray.revisions import Edits
    from sam3ray.store import RunStore

    return Edits(RunStore(*run_place(output, _refine_storage(set_)))).number_of(_named_revision(revision))


def _refine_storage(set_: list[str] | None) -> dict[str, Any] | None:
    """fsspec options of a verb whose `--set` accepts every key."""
    return _given_storage([each for each in set_ or () if each.startswith("storage.")])
