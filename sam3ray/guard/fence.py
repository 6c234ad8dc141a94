"""Processes untrusted bytes in a helper process, whose memory and processor time the system limits.

A few kilobytes can make a demuxer allocate gigabytes, a page of a Parquet file can unpack to gigabytes, and a decoder
can hang or crash. No library offers limits for this, so a process without a model and without torch does such work. It
is started once and reused: a call costs a fraction of a millisecond.

If the helper dies, its caller gets an exception, and the next call gets a new helper. If the caller dies, the helper
sees the end of its input, or its own timers end it.
"""

from __future__ import annotations

import atexit
import errno
import inspect
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

_MAX_IDLE = 2
_YOUNG_S = 2.0
_RETIRE_BYTES = 512 * 2**20  # a helper that keeps more memory is not used again
_WALL = 10  # seconds of waiting allowed for each second of processor time

# Threads and their memory pools count as address space, even if unused.
_FEW_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}

_in_helper = False
_caller: tuple[BinaryIO, BinaryIO] | None = None  # of a helper: its requests, its answers


class HelperDied(Exception):
    """The helper ended before it answered, by a native crash. The message ends a sentence: "crashed (SIGSEGV)"."""


class HelperTimedOut(Exception):
    """The helper used up its processor time, or waited too long, and was ended."""


def fenced(
    call: Callable[..., Any],
    *args: Any,
    memory_bytes: int,
    cpu_s: float,
    answer: Callable[[Any], Any] | None = None,
) -> Any:
    """Runs `call(*args)` in a helper process.

    Args:
        call: a function of a module. It, its arguments and its result are sent through a pipe.
        memory_bytes: limit on its allocations; beyond it, they fail.
        cpu_s: seconds of processor time; it may wait ten times as long.
        answer: called in this process with each question that the call asks with `ask`. An exception of it ends the
            call.

    Raises:
        HelperDied, HelperTimedOut: see the classes.
        OSError: no helper can be started, or it was killed: ENOMEM, because the machine is short of resources.
        Exception: any error of the call, including MemoryError.
    """
    return next(_call(call, args, memory_bytes, cpu_s, answer))


def fenced_items(call: Callable[..., Any], *args: Any, memory_bytes: int, cpu_s: float) -> Iterator[Any]:
    """The same for a generator function, item by item. Exhaust or close it."""
    return _call(call, args, memory_bytes, cpu_s, None)


def ask(question: Any) -> Any:
    """Called within a helper: returns the result of the caller's `answer`. A helper needs no network and no keys."""
    assert _caller is not None, "`ask` can only be called within a helper"
    requests, answers = _caller
    _answer(answers, "ask", question)
    return pickle.load(requests)  # noqa: S301 - from the caller


def allow_memory(more_bytes: int) -> None:
    """Called within a helper: from here on, this many more bytes may be allocated. Does nothing elsewhere."""
    if _in_helper:
        _limit_memory(more_bytes)


def limit_this_process(more_bytes: int) -> None:
    """For processes that may crash anyway: makes allocations beyond this many more bytes fail."""
    _limit_memory(more_bytes)


class _Unanswered(Exception):
    """An exception of the caller's own `answer`: the helper is fine."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class _Helper:
    is_young = True  # until its first call is done, whose imports take a hundred times longer than the call

    def __init__(self) -> None:
        paths = [path or os.getcwd() for path in sys.path]
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from sam3ray.guard.fence import _serve; _serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries print untrusted text
            env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), **_FEW_THREADS},
        )
        try:
            self.receive()
        except (EOFError, OSError, pickle.UnpicklingError):
            # Whatever the cause, it is not the helper's work, which had not begun.
            raise OSError(errno.ENOMEM, f"a helper process {_how_it_ended(self.end())} when it was started") from None
        except BaseException:
            self.end()
            raise

    def send(self, request: Any) -> None:
        assert self.process.stdin is not None
        pickle.dump(request, self.process.stdin)
        self.process.stdin.flush()

    def receive(self) -> tuple[str, Any]:
        assert self.process.stdout is not None
        kind, value = pickle.load(self.process.stdout)  # noqa: S301 - our own process on the other end
        return kind, value

    def result(self, answer: Callable[[Any], Any] | None) -> tuple[str, Any]:
        """The next result, after answering the helper's questions."""
        while True:
            kind, value = self.receive()
            if kind != "ask":
                return kind, value
            assert answer is not None, "a call that asks needs an `answer`"
            try:
                reply = answer(value)
            except Exception as error:  # noqa: BLE001 - raised again by `_call`
                raise _Unanswered(error) from None
            self.send(reply)

    def end(self) -> int:
        """Ends the helper and returns its exit status; if it has died already, that of its death."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(1)
        self.process.kill()
        return self.process.wait()


_idle: list[_Helper] = []
_young = 0
_owner = os.getpid()
_lock = threading.Lock()
_changed = threading.Condition(_lock)  # a helper is idle, or no longer young


def _take() -> tuple[_Helper, bool]:
    """A helper, and whether it is new.

    Waits for one that is just being started, since another one would take longer.
    """
    global _owner, _young
    with _changed:
        if _owner != os.getpid():  # after a fork, the helpers belong to the parent
            _idle.clear()
            _owner, _young = os.getpid(), 0
        _changed.wait_for(lambda: _idle or not _young, _YOUNG_S)
        if _idle:
            return _idle.pop(), False
        _young += 1
    try:
        return _Helper(), True
    except BaseException:
        with _changed:
            _one_less_young()
        raise


def _one_less_young() -> None:
    global _young
    _young -= 1
    _changed.notify_all()


def _grown(helper: _Helper) -> None:
    if helper.is_young:
        with _changed:
            helper.is_young = False
            _one_less_young()


def _give_back(helper: _Helper) -> None:
    with _changed:
        is_kept = _owner == os.getpid() and len(_idle) < _MAX_IDLE
        if is_kept:
            _idle.append(helper)
            _changed.notify()
    if is_kept:
        _grown(helper)
    else:
        _end(helper)


def _end(helper: _Helper) -> int:
    _grown(helper)
    return helper.end()


@atexit.register
def _end_all() -> None:
    with _lock:
        while _idle and _owner == os.getpid():
            _idle.pop().process.kill()


def _call(
    call: Callable[..., Any],
    args: tuple[Any, ...],
    memory_bytes: int,
    cpu_s: float,
    answer: Callable[[Any], Any] | None,
) -> Iterator[Any]:
    while True:
        helper, is_new = _take()
        try:
            helper.send((call, args, memory_bytes, cpu_s))
            kind, value = helper.result(answer)
            break
        except (EOFError, OSError, pickle.UnpicklingError):
            status = _end(helper)
            if not is_new and status != -signal.SIGPROF and status != -signal.SIGALRM:
                continue  # it may have died for another reason while idle
            raise _death(status) from None
        except _Unanswered as unanswered:
            _end(helper)
            raise unanswered.error from None
        except BaseException:
            _end(helper)
            raise
    is_at_rest = False
    try:
        while kind == "item":
            _grown(helper)  # its caller may keep it for any time
            yield value
            try:
                kind, value = helper.receive()
            except (EOFError, OSError, pickle.UnpicklingError):
                raise _death(_end(helper)) from None
        is_at_rest = kind != "last"
    finally:
        if is_at_rest:
            _give_back(helper)
        else:
            _end(helper)
    if kind == "error":
        raise value
    if kind == "last":
        outcome, value = value
        if outcome == "error":
            raise value
        if outcome == "value":
            yield value
    elif kind == "value":
        yield value


def _death(status: int) -> Exception:
    if status in (-signal.SIGPROF, -signal.SIGALRM):
        return HelperTimedOut()
    if status in (-signal.SIGKILL, -signal.SIGTERM):  # by the system, because of a lack of memory, or by a person
        return OSError(errno.ENOMEM, f"a helper process {_how_it_ended(status)}")
    return HelperDied(_how_it_ended(status))


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended (exit status {status})"
    name = signal.Signals(-status).name
    return f"was killed ({name})" if status in (-signal.SIGKILL, -signal.SIGTERM) else f"crashed ({name})"


# Within the helper


def _serve() -> None:
    """The helper's loop. Its limits are set before each call and lifted after it."""
    global _caller, _in_helper
    _in_helper = True
    requests: BinaryIO = os.fdopen(os.dup(0), "rb")
    answers: BinaryIO = os.fdopen(os.dup(1), "wb")
    _caller = requests, answers
    os.dup2(2, 1)  # output of a library must not be taken for an answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller decides when to end
    for timer in (signal.SIGPROF, signal.SIGALRM):  # signals that the caller ignores or blocks are inherited
        signal.signal(timer, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGPROF, signal.SIGALRM))
    _answer(answers, "ready", None)
    while True:
        try:
            call, args, memory_bytes, cpu_s = pickle.load(requests)  # noqa: S301 - from the caller
        except EOFError:
            return
        # Without a handler the system ends the process at once, also in the middle of native code.
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        signal.setitimer(signal.ITIMER_REAL, _WALL * cpu_s)
        _limit_memory(memory_bytes)
        try:
            value = call(*args)
            if inspect.isgenerator(value):
                for item in value:
                    _answer(answers, "item", item)
                outcome: tuple[str, Any] = ("end", None)
            else:
                outcome = ("value", value)
        except Exception as error:  # noqa: BLE001 - passed to the caller, which raises it
            error.__traceback__ = None
            outcome = ("error", error)
        _limit_memory(None)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        is_last = _memory_bytes(_RESIDENT) > _RETIRE_BYTES
        _answer(answers, *(("last", outcome) if is_last else outcome))


def _answer(answers: BinaryIO, kind: str, value: Any) -> None:
    try:
        data = pickle.dumps((kind, value), protocol=5)
        if kind == "error":
            pickle.loads(data)  # noqa: S301 - whether it can be read back
    except Exception:  # noqa: BLE001 - the exception cannot be pickled, but its text can
        data = pickle.dumps(("error", RuntimeError(f"{type(value).__name__}: {value}")))
    answers.write(data)
    answers.flush()


def _limit_memory(more_bytes: int | None) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = hard if more_bytes is None else _memory_bytes() + more_bytes
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


_RESIDENT = 1


def _memory_bytes(kind: int = 0) -> int:
    """Address space or memory in use; 0 if the system does not report it."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[kind]) * resource.getpagesize()
    except OSError:
        return 0
