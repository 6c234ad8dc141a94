"""`python -m tools.training`: trains the embedded checkpoint, evaluates one, draws a contact sheet."""

from __future__ import annotations

import json
import sys
from importlib import resources
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

from sam3ray.display.console import complain, counter, print_result
from sam3ray.failures import JobStopped, UserError

from .evaluation import FIRST_SEED

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
_EMBEDDED = str(resources.files("sam3ray") / "embedded")


@app.command()
def train(
    folder: Annotated[Path, typer.Argument(help="Folder for state, logs and the checkpoint.")],
    minutes: Annotated[float, typer.Option(min=0.01, help="Wall time of all stages together.")] = 180.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights and of the drawn clips.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda; auto uses a GPU if there is one.")] = "auto",
) -> None:
    """Train from scratch, or continue a training in FOLDER. The result is FOLDER/checkpoint."""
    from .stages import train as train_stages

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"--device is {device!r}; allowed: auto, cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("--device is 'cuda', but torch finds no GPU here; allowed: auto, cpu")
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # sharp attention produces many, and they are slow
    print(train_stages(folder, minutes, seed, device))


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a checkpoint.")] = _EMBEDDED,
    through: Annotated[
        str, typer.Option(help="transformers, engine, or untrained (a tracker without training).")
    ] = "engine",
    clips: Annotated[int, typer.Option(min=1, help="Number of clips of each kind.")] = 24,
    frames: Annotated[int, typer.Option(min=1, help="Frames of each clip.")] = 48,
    first_seed: Annotated[
        int, typer.Option(min=0, help="First seed; training has those from 10,000,000.")
    ] = FIRST_SEED,
    kind: Annotated[list[str] | None, typer.Option(help="Only this kind; repeatable.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="File to which a JSON line is added for each kind.")] = False,
) -> None:
    """Print a checkpoint's figures on drawn clips that were not used for training."""
    from .evaluation import KINDS, table_line, through_engine, through_transformers

    torch.set_num_threads(threads)
    if through not in ("transformers", "engine", "untrained"):
        raise typer.BadParameter(f"--through is {through!r}; allowed: transformers, engine, untrained")
    wrong = [k for k in kind or () if k not in KINDS]
    if wrong:
        raise typer.BadParameter(f"--kind is {wrong[0]!r}; allowed: {', '.join(KINDS)}")
    if through == "engine":
        predict = through_engine(checkpoint)
    else:
        predict = through_transformers(checkpoint, untrained_tracker=through == "untrained")
    table = Table(box=None, pad_edge=False)
    wanted = kind or list(KINDS)
    with counter("kinds evaluated") as progress:
        for done, each in enumerate(wanted, 1):
            line = table_line(each, clips, predict, frames, first_seed)
            if as_json:
                print(json.dumps({"through": through, **line}), flush=True)
            if not table.columns:
                for name in line:
                    table.add_column(name, justify="left" if name == "prompts" else "right")
            table.add_row(*("" if v is None else str(v) for v in line.values()))
            progress(done, len(wanted))
    if not as_json:
        print_result(None, table, as_json=False)


@app.command()
def sheet(
    output: Annotated[Path, typer.Argument(help="PNG to write.")],
    checkpoint: Annotated[str, typer.Option(help="Folder of a checkpoint.")] = _EMBEDDED,
    clips: Annotated[
        int, typer.Option(min=0, help="Clips with several phrases; one of another look and a mask follow.")
    ] = 6,
) -> None:
    """Draw a contact sheet of what the engine finds."""
    from PIL import Image

    from .evaluation import cases, sheet, through_engine

    picked = [*cases("several prompts", clips), *cases("other look", 1), *cases("mask", 1)]
    Image.fromarray(sheet(through_engine(checkpoint), picked)).save(output)


def main() -> None:
    try:
        app(prog_name="python -m tools.training")
    except (UserError, JobStopped, OSError) as error:
        complain(error.problems if isinstance(error, UserError) else [str(error)])
        sys.exit(2)


if __name__ == "__main__":
    main()
