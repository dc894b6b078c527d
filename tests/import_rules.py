"""The rules of docs/architecture.md on who may import what, and who may name CUDA, checked on the syntax trees.

Imports in functions and under TYPE_CHECKING count as much as those at the top: a dependency is a dependency.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("engine", "lsp_server")

# (package or module, what none of its modules may reach, not even through others)
SEPARATIONS = (
    ("engine.errors", "engine.*"),
    ("engine.request", "engine.*"),
    ("engine.speculation", "engine.model"),
    ("engine.speculation", "engine.engine"),
    ("engine.model", "engine.speculation"),
    ("engine.model", "engine.engine"),
    ("engine.kernels", "engine.model"),
    ("engine.kernels", "engine.speculation"),
    ("engine.kernels", "engine.engine"),
    ("engine.engine", "engine.server"),
    ("engine.client", "engine.server"),
    ("engine.client", "engine.engine"),
    ("engine.async_client", "engine.server"),
    ("engine.async_client", "engine.engine"),
)
REACHABLE_ALL_THE_SAME = {("engine.request", "engine.errors")}

# The command line and the terminal: everything else in the engine runs where neither typer nor rich is installed.
SHELL = (
    "engine.__main__",
    "engine.cli",
    "engine.cli_bench",
    "engine.cli_chat",
    "engine.cli_complete",
    "engine.cli_doctor",
    "engine.cli_engine",
    "engine.cli_exit",
    "engine.cli_models",
    "engine.cli_offload",
    "engine.cli_options",
    "engine.cli_quantize",
    "engine.cli_serve",
    "engine.terminal",
    "engine.web",
)
CORE_THIRD_PARTY = {"torch", "numpy", "safetensors", "tokenizers", "triton"}
CORE_THIRD_PARTY_LATE = {"transformers", "huggingface_hub", "jinja2", "awq"}  # slow to import: inside functions only
SERVER = "engine.server"
SERVER_THIRD_PARTY = {"starlette", "uvicorn", "pydantic"}
CLIENTS = ("engine.client", "engine.async_client", "engine.remote")
CLIENT_THIRD_PARTY_LATE = {"httpx"}  # slow to import, and not always installed
STANDARD_LIBRARY_ONLY = ("engine", "engine.errors", "engine.request")
# Of the engine: what a client says and hears, how it is configured, and the clients themselves. None of it loads torch.
LANGUAGE_SERVER_MAY_USE = {
    "engine",
    "engine.client",
    "engine.config",
    "engine.errors",
    "engine.extras",
    "engine.remote",
    "engine.request",
}

MAY_NAME_CUDA = ("engine.kernels", "engine.offload")
# Modules whose strings may hold the bare word, because it is not the device that they mean by it.
CUDA_AS_A_WORD = {
    "engine.config": "a value that the user may set",
    "engine.cli_options": "the same value, in the help",
    "engine.comments": "the programming language",
}
_BARE_WORD = re.compile(r"(?<![\w:.-])cuda(?![\w:.])")


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module. `late`: inside a function or for type checkers only, so not paid for at start-up."""

    target: str
    line: int
    late: bool


@dataclass(frozen=True, slots=True)
class Module:
    """A source file and its place in the package."""

    name: str
    path: Path
    tree: ast.Module
    is_package: bool


def violations(root: Path) -> list[str]:
    """Check all rules on the packages under `root`; one line per violation."""
    modules = {module.name: module for module in _modules(root)}
    graph = {name: list(_imports(module, modules)) for name, module in modules.items()}
    found = [*_separations(graph), *_third_party(graph), *_language_server(graph), *_cuda(modules)]
    return sorted(found)


def stale_exceptions(root: Path) -> list[str]:
    """List the exceptions above that no code needs any more."""
    modules = {module.name: module for module in _modules(root)}
    stale = [f"{name} is listed as part of the shell but does not exist" for name in SHELL if name not in modules]
    for name in CUDA_AS_A_WORD:
        if name not in modules or not any(_BARE_WORD.search(text) for text, _, _ in _named(modules[name].tree)):
            stale.append(f"{name} does not say cuda")
    return stale


def _modules(root: Path) -> Iterator[Module]:
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            yield Module(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path)), is_package)


def _imports(module: Module, modules: dict[str, Module]) -> Iterator[Import]:
    late_nodes = {id(child) for node in ast.walk(module.tree) if _defers(node) for child in ast.walk(node)}
    for node in ast.walk(module.tree):
        for target in _targets(node, module, modules):
            yield Import(target, getattr(node, "lineno", 0), id(node) in late_nodes)


def _defers(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def _targets(node: ast.AST, module: Module, modules: dict[str, Module]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _absolute(node, module)
        members = [f"{base}.{alias.name}" for alias in node.names]
        return [base, *(member for member in members if member in modules)]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = ast.unparse(node.func).rpartition(".")[2]
        if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
            return [node.args[0].value]
    return []


def _absolute(node: ast.ImportFrom, module: Module) -> str:
    if not node.level:
        return node.module or ""
    package = module.name.split(".") if module.is_package else module.name.split(".")[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def _separations(graph: dict[str, list[Import]]) -> Iterator[str]:
    for inside, forbidden in SEPARATIONS:
        for start in (name for name in graph if _within(name, inside)):
            for path in _paths(graph, start):
                if _forbidden(path[-1], inside, forbidden):
                    yield f"{inside} must not depend on {forbidden}: {' -> '.join(path)}"
    for name, imports in graph.items():
        for each in imports:
            if name not in SHELL and not name.startswith("lsp_server") and each.target in SHELL:
                yield f"{name}:{each.line} imports {each.target}: the core must not know the command line"


def _forbidden(target: str, inside: str, forbidden: str) -> bool:
    if (inside, target) in REACHABLE_ALL_THE_SAME:
        return False
    if forbidden == "engine.*":
        return target.startswith("engine.") and not _within(target, inside)
    return _within(target, forbidden)


def _paths(graph: dict[str, list[Import]], start: str) -> Iterator[tuple[str, ...]]:
    """One shortest path of imports from `start` to everything that it reaches inside the packages."""
    seen = {start}
    queue: list[tuple[str, ...]] = [(start,)]
    for path in queue:
        for each in graph[path[-1]]:
            if each.target in graph and each.target not in seen:
                seen.add(each.target)
                queue.append((*path, each.target))
                yield queue[-1]


def _third_party(graph: dict[str, list[Import]]) -> Iterator[str]:
    for name, imports in graph.items():
        if name in SHELL or not _within(name, "engine"):
            continue
        for each in imports:
            root = each.target.split(".")[0]
            if root in PACKAGES or root in sys.stdlib_module_names:
                continue
            where = f"{name}:{each.line} imports {each.target}"
            if name in STANDARD_LIBRARY_ONLY:
                yield f"{where}: this module uses the standard library only"
            elif root in CORE_THIRD_PARTY_LATE | CLIENT_THIRD_PARTY_LATE and not each.late:
                yield f"{where}: slow to import, so only inside functions"
            elif root not in CORE_THIRD_PARTY | CORE_THIRD_PARTY_LATE | _granted(name):
                yield f"{where}: the engine's core does not depend on {root}"


def _granted(name: str) -> set[str]:
    if name in CLIENTS:
        return CLIENT_THIRD_PARTY_LATE
    return SERVER_THIRD_PARTY if _within(name, SERVER) else set()


def _language_server(graph: dict[str, list[Import]]) -> Iterator[str]:
    for name, imports in graph.items():
        for each in imports:
            root = each.target.split(".")[0]
            where = f"{name}:{each.line} imports {each.target}"
            if _within(name, "engine") and root == "lsp_server":
                yield f"{where}: the engine knows nothing of editors"
            elif not _within(name, "lsp_server"):
                continue
            elif root == "engine" and each.target not in LANGUAGE_SERVER_MAY_USE:
                yield f"{where}: the language server may import the engine's clients alone"
            elif root in CORE_THIRD_PARTY | CORE_THIRD_PARTY_LATE:
                yield f"{where}: the language server runs no model"


def _cuda(modules: dict[str, Module]) -> Iterator[str]:
    for name, module in modules.items():
        if any(_within(name, package) for package in MAY_NAME_CUDA):
            continue
        for text, line, is_string in _named(module.tree):
            rest = _BARE_WORD.sub("", text) if is_string and name in CUDA_AS_A_WORD else text
            if "cuda" in rest.lower():
                yield f"{name}:{line} names CUDA ({text[:40]!r}): only engine.kernels and engine.offload may"


def _named(tree: ast.Module) -> Iterator[tuple[str, int, bool]]:
    """Names, attributes and strings of a module, less its docstrings: text, line, whether it is a string."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id, node.lineno, False
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno, False
        elif isinstance(node, ast.alias):
            yield node.name, node.lineno, False
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value, node.lineno, True


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")
