"""Text of strangers never reaches a terminal, a log or a picture raw."""

from __future__ import annotations

import ast
import io
import json
import logging
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sam3ray.display import console
from sam3ray.failures import ClipError, Failure, Reason, UserError
from sam3ray.guard.printable import json_text, printable, printable_lines
from sam3ray.job.logs import JsonFormatter
from sam3ray.job.observe import Snapshot
from sam3ray.job.progress import LineProgress, LiveProgress
from sam3ray.rendering._overlay import label_patch
from sam3ray.store import failure_records
from sam3ray.store.storage import Storage
from sam3ray.video import VideoCache
from tests.files.test_web import send, server

EVIL = "\x1b]0;owned\x07\x1b[2J\r[red]a[/red] :warning: \u202egnp.exe\u2066\x9b31m\x00\x7f\ud800\u2028\n\u200b"
ESCAPED = printable(EVIL)


def is_plain(text: str) -> bool:
    """Whether a terminal would show the text as it is: line feeds, and nothing hidden."""
    return all(c == "\n" or c.isprintable() for c in text)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(st.text())
def test_nothing_hidden_is_left_and_nothing_visible_is_lost(text: str) -> None:
    shown = printable(text)
    assert all(unicodedata.category(c) not in ("Cc", "Cs", "Co", "Cn") for c in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
    assert [c for c in text if c.isprintable()] == [c for c in text if c.isprintable() and c in shown]
    assert is_plain(printable_lines(text).replace("\u200c", "").replace("\u200d", ""))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(
    st.recursive(st.one_of(st.text(), st.integers(), st.none()), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_json_stands_for_the_same_data(data: object) -> None:
    for indent in (None, 2):
        assert json.loads(json_text(data, indent)) == data
        assert is_plain(json_text(data, indent))


def test_words_that_need_joiners_keep_them() -> None:
    assert printable("می‌خواهم") == "می‌خواهم"
    assert printable("👩‍🚒") == "👩‍🚒"
    assert printable("evil\u200d.mp4") == "evil\\u200d.mp4"
    assert printable("\u202e") == "\\u202e"


def test_results_sentences_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    console.complain([EVIL])
    console.say(EVIL)
    console.print_json({EVIL: [EVIL]})
    console.print_result({}, console.facts_table({EVIL: EVIL, "x": {EVIL: 1}}), False)
    table = Table("clip", "what is wrong")
    console.add_row(table, EVIL, "[red]x[/red] :warning:")
    console.print_result({}, [table, "[bold]b[/bold] " + EVIL], False)
    out, err = capsys.readouterr()
    assert is_plain(out)
    assert is_plain(err)
    assert "[red]x[/red] :warning:" in out
    assert "[bold]b[/bold]" in out
    assert "\\x1b[2J" in out


def test_progress_on_a_terminal_and_elsewhere() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    failure = Failure("a", Reason.INTERNAL, EVIL, final=True)
    for kind in (LineProgress, LiveProgress):
        stream = Terminal()
        progress = kind(stream)
        progress.clip_failed(failure)
        progress.update(Snapshot(1, notice=EVIL))
        progress.close()
        shown = stream.getvalue()
        assert "\\x1b" in shown
        assert "owned\x07" not in shown
        assert "\x1b[2J" not in shown.replace("\\x1b[2J", "")
        assert "\u202e" not in shown


def test_logs_and_records(tmp_path: Path) -> None:
    record = logging.LogRecord("sam3ray", logging.INFO, "f", 1, "%s", (EVIL,), None)
    record.data = {"clip_id": EVIL}
    line = JsonFormatter().format(record)
    assert is_plain(line)
    assert "\n" not in line
    assert json.loads(line)["message"] == EVIL

    storage = Storage(str(tmp_path))
    failure_records.write(storage, Failure("a", Reason.INTERNAL, EVIL, where=EVIL, traceback=f"x\n  {EVIL}\ny"))
    text = (tmp_path / "failures" / "a" / "1.json").read_text()
    assert is_plain(text)
    read = failure_records.read(storage, "a", 1)
    assert read is not None
    assert (read.message, read.where) == (printable(" ".join(EVIL.split())), ESCAPED)
    assert read.traceback.count("\n") == 3


def test_errors_hold_no_more_than_a_sentence() -> None:
    for text in (EVIL, EVIL * 10_000, "x" * 10**6):
        (problem,) = UserError(text).problems
        message = ClipError(Reason.STORAGE, text).message
        assert max(len(problem), len(message)) < 5_000
        assert is_plain(problem)
        assert is_plain(message)


def test_what_a_server_says(tmp_path: Path) -> None:
    status = "HTTP/1.1 503 \x1b[31mno\x9b2J\u202e".encode("latin-1", "replace")

    def answer(request: object) -> None:
        request.wfile.write(status + b"\r\nContent-Length: 0\r\n\r\n")  # type: ignore[attr-defined]

    with server(answer) as url, pytest.raises(ClipError) as caught, VideoCache(tmp_path, 1000).open(f"{url}/a.mp4"):
        pass
    assert is_plain(str(caught.value))
    with server(lambda request: send(request, b"", 302, Location="http://\x1b[2J/")) as url:
        with pytest.raises(ClipError) as caught, VideoCache(tmp_path, 1000).open(f"{url}/a.mp4"):
            pass
        assert is_plain(str(caught.value))


def test_labels_in_pictures() -> None:
    assert label_patch("a" * 10**6, 1, 12, 300).shape[1] <= 300
    assert (label_patch("a\x1b[1m", 1, 12, 300) == label_patch("a\\x1b[1m", 1, 12, 300)).all()


@pytest.mark.parametrize("arguments", [["plan"], ["status"], ["verify"], ["plan", "--json"]])
def test_names_on_the_command_line(tmp_path: Path, arguments: list[str]) -> None:
    name = str(tmp_path / "\x1b[31mred\u202e\x9bx")
    ran = subprocess.run(
        [sys.executable, "-m", "sam3ray", *arguments, name], capture_output=True, check=False, env={"LC_ALL": "C"}
    )
    assert ran.returncode == 2
    assert is_plain(ran.stderr.decode())
    assert b"\\x1b[31mred" in ran.stderr


def test_nothing_is_printed_but_through_the_console() -> None:
    package = Path(console.__file__).parents[1]
    found: dict[str, int] = {}
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                name = path.relative_to(package).as_posix()
                found[name] = found.get(name, 0) + 1
    del found["display/console.py"]
    assert found == {"cli/_app.py": 2, "job/progress.py": 1}  # the version, a traceback; one line, made printable
