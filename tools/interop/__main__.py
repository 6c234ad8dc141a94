"""`python -m tools.interop [NAME...]`: runs the checks, prints their tables, writes them into the documentation."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.interop import CHECKS
from tools.interop._environment import environment
from tools.interop._place import Place, ToolFailed
from tools.interop._result import EXPORTS, INSTALLATION, Outcome, Result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.interop", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(CHECKS)}; all by default")
    parser.add_argument("--list", action="store_true", help="list the checks, and what each installs")
    parser.add_argument("--dry", action="store_true", help="do not change the documentation")
    parser.add_argument("--keep", metavar="DIR", help="work in this folder, and keep its files")
    given = parser.parse_args()
    unknown = sorted(set(given.names) - set(CHECKS))
    if unknown:
        parser.error(f"there is no check {unknown[0]!r}; there are {', '.join(CHECKS)}")
    names = given.names or list(CHECKS)
    modules = {name: importlib.import_module(f"tools.interop.{name}") for name in names}
    if given.list:
        for name, module in modules.items():
            print(f"{name}: {', '.join(module.REQUIREMENTS) or 'the project itself'}")
        return 0
    results: list[Result | Outcome] = []
    broken = []
    for name, module in modules.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix=f"interop-{name}-") as folder:
            work = Path(given.keep, name) if given.keep else Path(folder)
            work.mkdir(parents=True, exist_ok=True)
            try:
                python = environment(module.REQUIREMENTS)
                results += module.check(Place(python, work))
            except (subprocess.CalledProcessError, ToolFailed) as error:
                broken.append(f"{name}: {error}")
                print(broken[-1], file=sys.stderr)
    for sheet, kind in ((EXPORTS, Result), (INSTALLATION, Outcome)):
        found = [each for each in results if isinstance(each, kind)]
        if not found:
            continue
        print("\n".join([f"| {' | '.join(sheet.columns)} |", *sheet.table(found, "now").values()]))
        if not given.dry:
            sheet.write(found)
    return 1 if broken or not all(each.ok for each in results) else 0


if __name__ == "__main__":
    sys.exit(main())
