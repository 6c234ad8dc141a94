"""Verbs for looking at a run: what to check first, and a report on one page."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from sam3ray.cli._app import (
    OK,
    AsJson,
    LogLevel,
    Output,
    Set,
    Workers,
    _example,
    _options,
    _place,
    _storage,
    _verb,
    app,
)
from sam3ray.display.console import complain, counter, facts_table, plain, print_result
from sam3ray.display.readable import byte_size, counted


@app.command(epilog=_example("sam3ray triage demo-output/run --top 20"))
@_verb
def triage(
    output: Output,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="RUN", help="Another run of the same clips: objects on which they differ rank higher."
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="FILE", help="Write to this new .parquet file. Default: replace OUTPUT/triage.parquet."
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, help="Print this many clips and objects.")] = 10,
    workers: Workers = None,
    set_: Set = None,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> int:
    """Rank clips and objects by how likely they are wrong, to show what to check first."""
    from sam3ray.screening import triage as rank

    with counter("clips looked at") as progress:
        found = rank(
            _place(output),
            _storage(set_),
            against=None if against is None else _place(against),
            to=None if to is None else _place(to),
            workers=workers or os.cpu_count() or 1,
            progress=progress,
        )
    print_result(found.as_json(top), found.table(top), as_json)
    if found.damaged:
        first = next(iter(found.damaged.items()))
        complain(
            [f"{counted(len(found.damaged), 'clip')} not ranked because of damage, such as {first[0]}: {first[1]}"]
        )
    return OK


@app.command(epilog=_example("sam3ray report demo-output/run --clips 20"))
@_verb
def report(
    output: Output,
    clips: Annotated[
        int, typer.Option("--clips", metavar="N", min=1, max=200, help="Show this many of the most doubtful clips.")
    ] = 12,
    stills: Annotated[
        bool, typer.Option("--stills/--no-stills", metavar="", help="Include stills from the videos.")
    ] = True,
    sample: Annotated[
        int | None,
        typer.Option("--sample", metavar="N", min=1, help="Read the rows of N clips instead of all."),
    ] = None,
    workers: Workers = None,
    set_: Set = None,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> int:
    """Write report.html into a run: totals, failures, what was found, and stills of the clips to check first."""
    from sam3ray.job.reporting import report as write_report

    options = _options(set_, ("storage", "cluster"))
    with counter("clips read") as progress:
        done = write_report(
            _place(output),
            options.storage,
            clips=clips,
            stills=stills,
            sample=sample,
            workers=workers or os.cpu_count() or 1,
            cluster=options.cluster,
            progress=progress,
        )
    facts = plain(done)
    print_result(facts, facts_table({**facts, "size_bytes": None, "size": byte_size(done.size_bytes)}), as_json)
    return OK
