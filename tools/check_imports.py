"""Finds what import-linter cannot see: private names used across packages, and imports inside functions.

A function may import one of our modules only if this brings a heavy library (`HEAVY`) that the caller may never need,
or if the import is listed in `LAZY` with its reason. Avoiding a circle is no reason: the layers in pyproject.toml leave
none.

python -m tools.check_imports    # prints every such import, exit code 1 if there is one
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE = "sam3ray"
HEAVY = frozenset({"torch", "torchvision", "transformers", "ray"})  # seconds to import, gigabytes with a GPU
LAZY = {
    "sam3ray.cli": "each verb imports what it needs, so that `--help` is quick",
    "sam3ray.demo": "is a verb, too",
    "sam3ray.verbs": "the verbs as functions: what reads a run does not import what runs a job",
    "sam3ray.job": "results and progress are imported without the driver, which comes when `run_job` is asked for",
}


class Import(NamedTuple):
    """One name that a module imports. `name` is None if the module itself is imported."""

    line: int
    module: str
    name: str | None
    in_function: bool


def main(root: Path = ROOT) -> int:
    """Prints the problems of the package below `root`. Returns 1 if there are any."""
    modules = _modules(root)
    homes = _homes(modules)
    imports = {
        module: [
            item._replace(module=homes.get((item.module, item.name), item.module))
            for item in _imports(path, module, modules)
        ]
        for module, path in modules.items()
    }
    heavy = _heavy(imports)
    problems = []
    for module, found in imports.items():
        where = modules[module].relative_to(root)
        for item in found:
            if not item.module.startswith(PACKAGE):
                continue
            if _package(item.module) != _package(module) and (private := _private(item)):
                problems.append(f"{where}:{item.line}: {private} is private to {_package(item.module)}")
            lazy = module in LAZY or _package(module) == "sam3ray.cli"
            if item.in_function and not lazy and item.module not in heavy:
                problems.append(
                    f"{where}:{item.line}: imports {item.module} inside a function, although it brings no heavy library"
                )
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def _modules(root: Path) -> dict[str, Path]:
    """Our modules, with their files."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _homes(modules: dict[str, Path]) -> dict[tuple[str, str | None], str]:
    """The modules of the names that a package imports on first use, taken from its `TYPE_CHECKING` block."""
    found: dict[tuple[str, str | None], str] = {}
    for module, path in modules.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body):
            continue
        for block in filter(_is_for_checkers, tree.body):
            for node in ast.walk(block):
                if isinstance(node, ast.ImportFrom) and node.module:
                    found |= {(module, alias.name): node.module for alias in node.names}
    return found


def _is_for_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _imports(path: Path, module: str, modules: dict[str, Path]) -> Iterator[Import]:
    """What a module imports at run time. Imports for type checkers are left to the layers."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def visit(node: ast.AST, in_function: bool) -> Iterator[Import]:
        if _is_for_checkers(node):
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, None, in_function)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, base] if base else parent)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                if full in modules:
                    yield Import(node.lineno, full, None, in_function)
                else:
                    yield Import(node.lineno, base, alias.name, in_function)
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), False)


def _heavy(imports: dict[str, list[Import]]) -> set[str]:
    """Our modules that import a heavy library on import, directly or through others."""
    found: set[str] = set()
    grew = True
    while grew:
        grew = False
        for module, items in imports.items():
            if module in found:
                continue
            now = [item.module for item in items if not item.in_function]
            if any(name.partition(".")[0] in HEAVY or name in found for name in now):
                found.add(module)
                grew = True
    return found


def _package(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _private(item: Import) -> str:
    """The private part of an import; empty if there is none."""
    names = [*item.module.split(".")[1:], *([item.name] if item.name else [])]
    return next((name for name in names if name.startswith("_") and not name.startswith("__")), "")


if __name__ == "__main__":
    sys.exit(main())
