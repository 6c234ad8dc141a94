"""Verbs that open the page or watch live video."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sam3ray.cli._app import (
    OK,
    LogLevel,
    Set,
    _example,
    _options,
    _place,
    _verb,
    app,
)
from sam3ray.cli._streams import is_read
from sam3ray.display.console import complain, say
from sam3ray.failures import ClipError, JobStopped, UserError
from sam3ray.guard.printable import json_text
from sam3ray.guard.redact import redact
from sam3ray.values.phrases import as_phrases

if TYPE_CHECKING:
    from sam3ray.app import AppOptions
    from sam3ray.cameras import LiveFrame


@app.command("app", epilog=_example("sam3ray app demo-output/run"))
@_verb
def page(
    source: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE", help="Runs, videos, folders, globs or manifests. Default: drawn clips."),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            metavar="ID",
            help="Hub id, folder or address of the checkpoint. Short for --set model.checkpoint=ID.",
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="A",
            help="Run the model on a GPU of a Ray cluster: auto, or host:port. Short for --set cluster.address=A.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option("--host", metavar="H", help="Address to listen on. By default only this machine can reach it."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="P", min=0, max=65535, help="Port to listen on; 0 picks a free one.")
    ] = 0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", metavar="", help="Print the address without opening a browser.")
    ] = False,
    author: Annotated[
        str | None, typer.Option("--author", metavar="NAME", help="Author of corrections. Default: your user name.")
    ] = None,
    set_: Set = None,
    log_level: LogLevel = "warning",
) -> int:
    """Open the page in your browser: try prompts on clips, review and correct runs, watch live video."""
    options_of_page, serve = _page()
    if not source and checkpoint is None and not any(each.startswith("model.") for each in set_ or ()):
        checkpoint = "embedded"  # it only knows drawn clips
    of_cluster = [] if address is None else [f"cluster.address={address}"]
    asked = [*of_cluster, *_with_checkpoint(checkpoint, set_)]
    options = _options(asked, ("storage", "model", "tracking", "video", "cluster"))
    serve(
        options_of_page(
            sources=tuple(source or ()),
            model=options.model,
            cluster=None if options.cluster.address is None else options.cluster,
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
        list[str] | None, typer.Option("--prompt", metavar="P", help="Phrase to look for. Repeatable.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="DIR", help="Record into a run folder, a clip every 10 minutes."),
    ] = None,
    no_video: Annotated[
        bool, typer.Option("--no-video", metavar="", help="With --output: write rows, but do not record the video.")
    ] = False,
    listen: Annotated[
        bool,
        typer.Option(
            "--listen", metavar="", help="Wait at SOURCE for a camera that pushes, as in rtsp://0.0.0.0:8554/door."
        ),
    ] = False,
    every_frame: Annotated[
        bool,
        typer.Option(
            "--every-frame", metavar="", help="Process every frame of a file instead of playing it at its own pace."
        ),
    ] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            metavar="ID",
            help="Hub id, folder or address of the checkpoint. Short for --set model.checkpoint=ID.",
        ),
    ] = None,
    set_: Set = None,
    display: Annotated[
        bool, typer.Option("--display", metavar="", help="Show the result on the page instead of printing it.")
    ] = False,
    no_browser: Annotated[
        bool,
        typer.Option(
            "--no-browser", metavar="", help="With --display: print the page's address without opening a browser."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print one line of JSON per frame.")] = False,
    log_level: LogLevel = "warning",
) -> int:
    """Find phrases in live video until it ends or you stop it. Prints what is visible now, once a second."""
    from sam3ray.cameras import check_output, check_source, live

    options = _options(_with_checkpoint(checkpoint, set_), ("storage", "model", "tracking", "video", "live"))
    place = None if output is None else _place(output)
    _check_options(display=display, no_browser=no_browser, as_json=as_json, output=output, no_video=no_video)
    try:
        check_source(source, listen, every_frame, options.video)
    except ClipError as error:
        raise UserError(
            f"SOURCE: {error}; allowed: rtsp://..., a device such as /dev/video0, or a video file"
        ) from None
    phrases = as_phrases(prompts or (), "--prompt")
    if place is not None:
        if place.startswith("memory://"):
            raise UserError(f"--output {place} ends with this process; allowed: a path, s3://, gs:// or az://")
        check_output(place, options.storage)
    if display:
        options_of_page, serve = _page()
        shown = options_of_page(
            model=options.model,
            tracking=options.tracking,
            browser=not no_browser,
            video=options.video,
            camera=source,
            listen=listen,
            every_frame=every_frame,
            phrases=phrases,
            record=place,
            record_video=not no_video,
            storage=options.storage,
            live=options.live,
        )
        with _saying_what_is_recorded(place, options.storage):
            serve(shown, say, lambda sentence: complain([sentence]))
        return OK
    if not phrases:
        raise UserError("there is nothing to look for: give at least one phrase, as in --prompt person")
    complain([f"loading {redact(options.model.checkpoint)}"])
    frames = live(
        source,
        phrases,
        model=options.model,
        tracking=options.tracking,
        output=place,
        record_video=not no_video,
        every_frame=every_frame,
        settings=options.live,
        storage_options=options.storage,
        limits=options.video,
        listen=listen,
    )
    complain([f"watching {redact(source)}; Ctrl-C ends it"])
    with _saying_what_is_recorded(place, options.storage):
        _tell(frames, as_json, records=place is not None)
    return OK


def _check_options(*, display: bool, no_browser: bool, as_json: bool, output: str | None, no_video: bool) -> None:
    """Raises UserError for options that would have no effect."""
    wrong = []
    if display and as_json:
        wrong.append("--json prints results, --display shows them instead: give one of the two")
    if no_browser and not display:
        wrong.append("--no-browser is for --display, which is not given")
    if no_video and output is None:
        wrong.append("--no-video is for --output, which is not given")
    if wrong:
        raise UserError(wrong)


@contextlib.contextmanager
def _saying_what_is_recorded(place: str | None, storage: Mapping[str, Any]) -> Iterator[None]:
    """At the end, however it comes."""
    from sam3ray.display.readable import counted
    from sam3ray.store import RunStore

    try:
        yield
    finally:
        with contextlib.suppress(UserError, ClipError, JobStopped):  # there is no recording, or it was said already
            if place is not None and (clips := len(RunStore(place, storage).clip_ids())):
                shown = redact(place)
                complain([f"the recording in {shown} has {counted(clips, 'clip')}; sam3ray app {shown} shows it"])


def _tell(frames: Iterable[LiveFrame], as_json: bool, *, records: bool) -> None:
    """Frames as lines on stdout. Ends when nobody reads them, unless they are recorded, too."""
    from time import monotonic

    told, count = 0.0, 0
    with contextlib.closing(frames) as each:  # type: ignore[type-var]
        for frame in each:
            count += 1
            now = monotonic()
            told = told or now
            if as_json:
                say(json_text(frame.as_json()))
            elif now - told >= 1:
                names: dict[str, int] = {}
                for item in frame.annotations.objects:
                    names[item.prompt] = names.get(item.prompt, 0) + 1
                seen = ", ".join(f"{n} {name}" for name, n in sorted(names.items())) or "nothing"
                rate = count / (now - told)
                say(f"{seen}; {rate:.1f} frames/s, {frame.age_s:.2f} s old, {frame.dropped} dropped")
                told, count = now, 0
            if not is_read() and not records:
                return


def _page() -> tuple[type[AppOptions], Callable[..., None]]:
    """The page's options and server. Raises UserError if the extra `app` is not installed."""
    try:
        from sam3ray.app import AppOptions, serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("uvicorn", "fastapi", "starlette", "websockets", "rjsmin"):
            raise
        raise UserError(f"the page needs {error.name}: pip install 'sam3ray[app]'") from None
    return AppOptions, serve


def _with_checkpoint(checkpoint: str | None, set_: list[str] | None) -> list[str]:
    return [*([] if checkpoint is None else [f"model.checkpoint={checkpoint}"]), *(set_ or ())]
