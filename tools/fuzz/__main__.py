"""Damages files and reads them, one after another, in processes that may crash.

    python -m tools.fuzz                          # 200,000 inputs, 20,000 of them videos; continues where it stopped
    python -m tools.fuzz --total 5000 --work DIR
    python -m tools.fuzz --kind video --seed 17   # one input again, in this process, with its traceback

Each child has a memory limit, a limit on processor time per input, and no torch. The report (`DIR/report.json`) counts
outcomes by kind and lists every finding: a crash, a hang, an exception other than a `UserError` or a `ClipError` with a
fitting reason, or an error without a printable sentence.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from tools.fuzz import mutations, originals

# Of 200,000. The most common kinds of input get the most.
SHARES = {"video": 20, "image": 50, "csv": 25, "jsonl": 30, "parquet": 25, "yaml": 25, "prompts": 25}
BATCH = 500  # inputs per process
MEMORY_BYTES = 2 * 2**30
CPU_S = 60.0  # processor time for one input, many times that of the slowest
WALL_S = 1800.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--total", type=int, default=200_000, help="inputs of all kinds")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "sam3ray-fuzz", metavar="DIR")
    parser.add_argument("--also", type=Path, nargs="*", default=[], metavar="VIDEO", help="more videos to damage")
    parser.add_argument("--kind", choices=originals.KINDS, help="this kind alone")
    parser.add_argument("--seed", type=int, help="this input alone, in this process")
    parser.add_argument("--child", type=int, nargs=2, metavar=("FIRST", "LAST"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.child:
        first, last = options.child
        read_many(options.kind, first, last, options.work, options.also)
        return 0
    if options.seed is not None:
        return read_one(options.kind, options.seed, options.work, options.also)
    report = fuzz(options.total, options.work, options.also, [options.kind] if options.kind else list(SHARES))
    print(json.dumps(report, indent=2))
    return 1 if report["findings"] else 0


def fuzz(total: int, work: Path, also: list[Path], kinds: list[str]) -> dict[str, Any]:
    """Tries all inputs up to `total`, after those of earlier calls; returns the report."""
    state = work / "report.json"
    report: dict[str, Any] = {"done": {}, "endings": {}, "findings": [], "cpu_s": 0}
    if state.exists():
        report = json.loads(state.read_text())
    for kind in kinds:
        originals.write(kind, work / "originals")
    wanted = {kind: total * SHARES[kind] // sum(SHARES.values()) for kind in kinds}
    while left := [kind for kind in kinds if report["done"].get(kind, 0) < wanted[kind]]:
        kind = min(left, key=lambda kind: report["done"].get(kind, 0) / wanted[kind])
        first = report["done"].get(kind, 0)
        last = min(first + BATCH, wanted[kind])
        before_s = _children_s()
        done, endings, findings = _batch(kind, first, last, work, also)
        report["done"][kind] = first + done
        report["endings"][kind] = dict(Counter(report["endings"].get(kind, {})) + endings)
        report["findings"] += findings
        report["cpu_s"] = round(report["cpu_s"] + _children_s() - before_s, 1)
        part = state.with_suffix(".part")
        part.write_text(json.dumps(report, indent=2))
        part.replace(state)
        print(f"{kind}: {report['done'][kind]} of {wanted[kind]}, {len(report['findings'])} findings", file=sys.stderr)
    return report


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _batch(
    kind: str, first: int, last: int, work: Path, also: list[Path]
) -> tuple[int, Counter[str], list[dict[str, object]]]:
    """Runs one child. Returns (inputs done, outcomes, findings). If the child dies, the batch ends with the input that
    killed it.
    """
    command = [
        sys.executable,
        "-m",
        "tools.fuzz",
        "--kind",
        kind,
        "--work",
        str(work),
        "--child",
        str(first),
        str(last),
    ]
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        child = subprocess.run(
            [*command, "--also", *map(str, also)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        errors.seek(0)
        said = errors.read()[-1500:]
    endings: Counter[str] = Counter()
    findings: list[dict[str, object]] = []
    done = 0
    for line in child.stdout.splitlines():
        entry = json.loads(line)
        done = entry["seed"] - first + 1
        endings[entry["ending"]] += 1
        if entry["ending"] in ("exception", "wrong"):
            findings.append({"kind": kind, **entry})
    if done < last - first:
        code = child.returncode
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        ending = "hang" if code in (-signal.SIGPROF, -signal.SIGALRM) else "crash"
        findings.append({"kind": kind, "seed": first + done, "ending": ending, "what": f"{name}: {said}"})
        endings[ending] += 1
        done += 1
    return done, endings, findings


def read_many(kind: str, first: int, last: int, work: Path, also: list[Path]) -> None:
    """Runs in the child: prints each input's outcome, one JSON object per line."""
    from tools.fuzz import targets

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    data = _originals(kind, work, also)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for seed in range(first, last):
            # The system kills a process that exceeds this, whatever it is doing.
            signal.setitimer(signal.ITIMER_PROF, CPU_S)
            signal.setitimer(signal.ITIMER_REAL, WALL_S)
            entry: dict[str, object] = {"seed": seed}
            try:
                entry["ending"] = targets.run(kind, mutations.mutate(kind, data, seed), seed, Path(folder))
            except targets.Wrong as error:
                entry |= {"ending": "wrong", "what": str(error)[:500]}
            except Exception:  # noqa: BLE001 - every other exception is a finding
                entry |= {"ending": "exception", "what": traceback.format_exc()[-1500:]}
            print(json.dumps(entry), flush=True)
    assert "torch" not in sys.modules


def read_one(kind: str, seed: int, work: Path, also: list[Path]) -> int:
    """Tries one input again, and keeps it in the working folder."""
    from tools.fuzz import targets

    damaged = mutations.mutate(kind, _originals(kind, work, also), seed)
    (work / f"{kind}-{seed}").write_bytes(damaged)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        ending = targets.run(kind, damaged, seed, Path(folder))
    print(
        f"{kind} {seed}: {len(damaged)} bytes, {ending}, {time.monotonic() - began:.2f} s; kept as {work}/{kind}-{seed}"
    )
    return 0


def _originals(kind: str, work: Path, also: list[Path]) -> list[bytes]:
    more = [path.read_bytes() for path in also] if kind == "video" else []
    return originals.write(kind, work / "originals") + more


if __name__ == "__main__":
    sys.exit(main())
