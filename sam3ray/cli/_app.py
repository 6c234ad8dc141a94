"""The `sam3ray` command: what all verbs share.

The verbs are in `_jobs`, `_labels`, `_watching` and `_looking`: arguments in, calls to the modules, tables or JSON out.
Results go to stdout, everything else to stderr. Each verb imports the modules that it needs, so that `--help` is quick.
"""

from __future__ import annotations

from sam3ray.cli import _interrupts  # isort: skip - first: a signal may come during the imports below

import functools
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer
from typer.core import TyperGroup

from sam3ray.cli._streams import hold_standard_streams, lost_result
from sam3ray.display.console import complain, facts_table, plain, print_result
from sam3ray.failures import ClipError, JobStopped, UserError
from sam3ray.guard.printable import printable_lines
from sam3ray.guard.redact import redact

if TYPE_CHECKING:
    from sam3ray.config import JobConfig
    from sam3ray.job import JobSummary

OK, SOME_FAILED, WRONG_INPUT, STOPPED, INTERRUPTED = 0, 1, 2, 3, 130

# Their results are on storage, even if the summary cannot be printed.
_WORK = frozenset(
    {"demo", "run", "retry", "render", "compact", "export_labels", "import_corrections", "refine", "watch_live"}
)


class _Verbs(TyperGroup):
    """The verbs. Says what is wrong with an option's value in our own words."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = _value_problem(error.__cause__) or error.message
            raise


app = typer.Typer(
    name="sam3ray",
    cls=_Verbs,
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
    typer.Option("--revision", metavar="R", help="Apply corrections up to this revision: latest, or a number."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", metavar="N", min=1, help="Number of processes. Default: one per CPU.")
]
# A flag takes no value. Without `metavar`, `--help` would show one: <bool>.
AsJson = Annotated[bool, typer.Option("--json", metavar="", help="Print the result as JSON.")]
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
        bool, typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Print the version.")
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
    """The message for an error, and the exit code."""
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


def _value_problem(cause: BaseException | None) -> str:
    """What is wrong with an option's value, and what is allowed; empty if typer did not check it with pydantic."""
    from pydantic import ValidationError

    if not isinstance(cause, ValidationError):
        return ""
    first = cause.errors()[0]
    limits = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    allowed = [f"{words} {first['ctx'][key]:g}" for key, words in limits.items() if key in first.get("ctx", {})]
    if not allowed:
        allowed = [{"int_parsing": "a whole number", "float_parsing": "a number"}.get(first["type"], "")]
    return f"{first['input']}; allowed: {allowed[0]}" if allowed[0] else ""


def _example(text: str) -> str:
    return f"Example: {text}"


def run_arguments(arguments: list[str]) -> tuple[str, list[str]] | None:
    """CONFIG and the `--set` values among the arguments of `run`, in whatever order; None where there is no CONFIG."""
    command = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    found = command.make_context("run", list(arguments), resilient_parsing=True).params
    return None if found.get("config") is None else (found["config"], list(found.get("set_") or ()))


def _show(summary: JobSummary, output: str, as_json: bool) -> None:
    """The summary of a job; its closing message goes to stderr."""
    print_result(plain(summary), facts_table({"output": output, **summary.facts()}), as_json)
    if summary.message:
        complain([summary.message])


def _options(overrides: list[str] | None, sections: tuple[str, ...]) -> JobConfig:
    """Configuration for a verb that is no job: only some sections, given with `--set`."""
    from sam3ray.config import config_from_text

    given = [o.partition("=")[0].partition(".")[0].strip() for o in overrides or ()]
    wrong = [o for o, section in zip(overrides or (), given, strict=True) if section not in sections]
    if wrong:
        raise UserError(f"--set {o}: allowed here: keys of {', '.join(sections)}" for o in wrong)
    # Without a cluster, there is no actor whose GPU a device of the model could contradict.
    actor = "" if "cluster" in given or not _is_for_cpu(overrides) else ", cluster: {gpus_per_actor: 0}"
    return config_from_text(f"{{manifest: none, output: /none{actor}}}", "--set", overrides or ())


def _is_for_cpu(overrides: list[str] | None) -> bool:
    pairs = [o.partition("=") for o in overrides or ()]
    return [value.strip() for key, _, value in pairs if key.strip() == "model.device"][-1:] == ["cpu"]


def _storage(overrides: list[str] | None) -> dict[str, Any]:
    return _options(overrides, ("storage",)).storage


def _given_storage(overrides: list[str] | None) -> dict[str, Any] | None:
    """fsspec options; None if none are given: then those of the configuration apply, if OUTPUT is one."""
    return _storage(overrides) or None


def _named_revision(revision: str | None) -> int | str | None:
    """As `Edits.number_of` takes it."""
    return int(revision) if revision is not None and revision.isascii() and revision.isdigit() else revision


def _place(output: str) -> str:
    from sam3ray.files import resolve

    return resolve(output)


def _set_up_logging(level: str) -> None:
    from sam3ray.job.logs import LEVELS, set_up_logging

    if level not in LEVELS:
        raise UserError(f"--log-level is {level!r}; allowed: {', '.join(LEVELS)}")
    set_up_logging(level)
