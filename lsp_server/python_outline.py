"""Python: what a file imports and the signatures of what it defines."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence

from lsp_server.outline import Import, Outline, shortened

_MOST_STATEMENT_LINES = 80
_FROM = re.compile(r"from\s+(\.*)\s*([\w.]*)\s+import\s+(.+)", re.DOTALL)
_AS = re.compile(r"([\w.]+|\*)(?:\s+as\s+(\w+))?")
_BROKEN = re.compile(r"(?:async\s+)?(?:def|class)\s+(\w+)")
_BROKEN_METHOD = re.compile(r"\s+(?:async\s+)?def\s+(\w+)")
_BROKEN_CONSTANT = re.compile(r"([A-Za-z_]\w*)\s*(?::[^=]+)?=[^=]")
_LONGEST_VALUE = 80
_LONGEST_PARAMETERS = 400  # longer ones are shown as names alone
_MOST_PARAMETERS = 40


def python_imports(lines: Sequence[str]) -> tuple[Import, ...]:
    """Find the imports line by line, so that code that is being written is no obstacle."""
    found: list[Import] = []
    for number, line in enumerate(lines):
        if "import" in line and line.lstrip().startswith(("import ", "from ")):
            found += _parse_import(_whole_statement(lines, number))
    return tuple(found)


def python_outline(text: str) -> Outline:
    """Outline a module: of functions the signature, of classes also their fields, and the first line of docstrings."""
    lines = text.split("\n")
    imports = python_imports(lines)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Outline(_broken_definitions(lines), imports)
    definitions: dict[str, str] = {}
    for node in _top_level(tree.body):
        for name, shown in _shown(node):
            definitions.setdefault(name, shortened(shown))
    return Outline(definitions, imports)


def _whole_statement(lines: Sequence[str], number: int) -> str:
    parts: list[str] = []
    for line in lines[number : number + _MOST_STATEMENT_LINES]:
        plain = line.partition("#")[0].strip()
        parts.append(plain.removesuffix("\\"))
        joined = " ".join(parts)
        if not plain.endswith("\\") and joined.count("(") <= joined.count(")"):
            break
        if len(parts) > 1 and plain.startswith(("import ", "from ", "def ", "class ")):
            parts.pop()  # a bracket that is still open
            break
    return " ".join(parts)


def _parse_import(statement: str) -> Iterator[Import]:
    statement = statement.partition(";")[0]
    match = _FROM.match(statement)
    if match:
        pairs = _AS.findall(match[3].strip("() "))
        names = tuple((name, alias or name) for name, alias in pairs)
        if names and (match[1] or match[2]):
            yield Import(match[2], names, level=len(match[1]))
    elif statement.startswith("import "):
        for name, alias in _AS.findall(statement.removeprefix("import ")):
            yield Import(name, alias=alias or name)


def _top_level(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield a module's statements, also those under `if` and `try`."""
    for node in body:
        if isinstance(node, ast.If):
            yield from _top_level([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from _top_level([*node.body, *(each for handler in node.handlers for each in handler.body)])
        else:
            yield node


def _shown(node: ast.stmt) -> Iterator[tuple[str, str]]:
    """Yield the names that a statement defines, with the lines that show each."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.name, _function(node)
    elif isinstance(node, ast.ClassDef):
        yield node.name, _class(node)
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if isinstance(target, ast.Name):
                yield target.id, _assignment(node)


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, indent: str = "", documented: bool = True) -> str:
    """Return a function as a stub file shows it."""
    keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    head = [f"{indent}@{ast.unparse(each)}\n" for each in node.decorator_list]
    head.append(f"{indent}{keyword} {node.name}({_parameters(node.args)}){returns}:")
    documentation = _first_sentence(node) if documented else ""
    if documentation:
        return "".join(head) + f'\n{indent}    """{documentation}"""\n{indent}    ...'
    return "".join(head) + " ..."


def _parameters(arguments: ast.arguments) -> str:
    text = ast.unparse(arguments)
    if len(text) <= _LONGEST_PARAMETERS:
        return text
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return ", ".join(each.arg for each in every[:_MOST_PARAMETERS])


def _class(node: ast.ClassDef) -> str:
    bases = [*map(ast.unparse, node.bases)]
    bases += [f"{each.arg}={ast.unparse(each.value)}" for each in node.keywords if each.arg]
    lines = [f"@{ast.unparse(each)}" for each in node.decorator_list]
    lines.append(f"class {node.name}{'(' + ', '.join(bases) + ')' if bases else ''}:")
    head = len(lines)
    documentation = _first_sentence(node)
    if documentation:
        lines.append(f'    """{documentation}"""')
    for item in node.body:
        if isinstance(item, ast.Assign | ast.AnnAssign):
            lines.append("    " + _assignment(item))
        elif isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and _is_public(item.name):
            lines.append(_function(item, "    ", documented=False))
    return "\n".join(lines) if len(lines) > head else "\n".join(lines) + " ..."


def _is_public(name: str) -> bool:
    return not name.startswith("_") or name in ("__init__", "__call__", "__enter__", "__getitem__", "__iter__")


def _assignment(node: ast.Assign | ast.AnnAssign) -> str:
    text = ast.unparse(node)
    if len(text) <= _LONGEST_VALUE:
        return text
    return text.partition(" = ")[0] + " = ..."


def _first_sentence(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    first = (ast.get_docstring(node) or "").strip().partition("\n")[0].rstrip()
    return "" if '"""' in first or first.endswith(("\\", '"')) else first


def _broken_definitions(lines: Sequence[str]) -> dict[str, str]:
    """Find definitions of a file that is no valid Python at the moment, by what its lines begin with."""
    found: dict[str, str] = {}
    for number, line in enumerate(lines):
        if match := _BROKEN.match(line):
            text = _signature(lines, number)
            if line.startswith("class"):
                text += "".join("\n" + method for method in _methods(lines, number + 1))
            found.setdefault(match[1], shortened(text))
        elif match := _BROKEN_CONSTANT.match(line):
            found.setdefault(match[1], shortened(line if len(line) <= _LONGEST_VALUE else f"{match[1]} = ..."))
    return found


def _methods(lines: Sequence[str], start: int) -> Iterator[str]:
    for number in range(start, len(lines)):
        line = lines[number]
        if line.strip() and not line.startswith((" ", "\t", "#", ")")):
            return
        match = _BROKEN_METHOD.match(line)
        if match and _is_public(match[1]):
            yield _signature(lines, number)


def _signature(lines: Sequence[str], number: int) -> str:
    """Return a header up to its colon, over as many lines as its brackets span."""
    depth = 0
    for end in range(number, min(len(lines), number + _MOST_STATEMENT_LINES)):
        line = lines[end].partition("#")[0]
        depth += sum(map(line.count, "([{")) - sum(map(line.count, ")]}"))
        if depth <= 0:
            break
    else:
        return lines[number]
    header = "\n".join(lines[number : end + 1]).rstrip()
    return header if not header.endswith(":") or "class " in lines[number] else header + " ..."
