"""JavaScript and TypeScript: what a file imports and the signatures of what it defines, by regular expressions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lsp_server.outline import Import, Outline, shortened

SCRIPT_LANGUAGES = frozenset(("javascript", "javascriptreact", "typescript", "typescriptreact", "vue", "svelte"))
SCRIPT_SUFFIXES = (".ts", ".tsx", ".d.ts", ".js", ".jsx", ".mjs", ".cjs", ".mts", ".cts")
DEFAULT = "default"

_QUOTED = r"""\s*(?P<quote>['"])(?P<module>\.{1,2}(?:/[^'"\n]*)?)(?P=quote)"""
_IMPORT = re.compile(
    r"^[ \t]*(?:import|export)\s+(?:type\s+)?(?P<names>[^'\";]{1,2000}?)\s+from" + _QUOTED, re.MULTILINE
)
_REQUIRE = re.compile(
    r"^[ \t]*(?:const|let|var)\s+(?P<names>\{[^}]{1,2000}\}|\w+)\s*=\s*require\(" + _QUOTED, re.MULTILINE
)
_PAIR = re.compile(r"(?:type\s+)?([\w$]+)(?:\s*(?:\bas\b|:)\s*([\w$]+))?")
_NAMESPACE = re.compile(r"\*\s+as\s+([\w$]+)")
_EXPORT = re.compile(
    r"^(?P<head>export\s+(?P<default>default\s+)?(?:declare\s+)?(?:abstract\s+)?(?:async\s+)?"
    r"(?P<kind>function\*?|class|interface|type|enum|const\s+enum|const|let|var)\s+(?P<name>[\w$]+))",
    re.MULTILINE,
)
_LOCAL = re.compile(
    r"^(?P<head>(?:abstract\s+)?(?:async\s+)?(?P<kind>function\*?|class|interface|type|enum|const)\s+(?P<name>[\w$]+))",
    re.MULTILINE,
)
_DEFAULT_NAME = re.compile(r"^(?:export\s+default|module\.exports\s*=)\s+([\w$]+)\s*;?\s*$", re.MULTILINE)
_MEMBER = re.compile(
    r"[ \t]+(?:(?:public|static|async|readonly|abstract|override|get|set|declare)\s+|\*\s*)*"
    r"(?!(?:private|protected|if|for|while|switch|return|catch|function|constructor\s*\(\s*\)\s*\{\s*\})\b)"
    r"[\w$]+[?!]?\s*(?:<[^>]*>)?\s*(?:\(|:)"
)
_CLOSING = re.compile(r"[})]|\S*;\s*$")
_LONGEST_SIGNATURE = 600


def script_imports(text: str) -> tuple[Import, ...]:
    """Find relative imports; what comes from packages is not in the workspace."""
    found = [*_IMPORT.finditer(text), *_REQUIRE.finditer(text)]
    return tuple(each for match in sorted(found, key=lambda match: match.start()) for each in _bindings(match))


def script_outline(text: str) -> Outline:
    """Outline a module: signatures of functions, heads and members of classes, interfaces and types in full."""
    definitions: dict[str, str] = {}
    for match in (*_EXPORT.finditer(text), *_LOCAL.finditer(text)):
        shown = shortened(_definition(text, match))
        definitions.setdefault(match["name"], shown)
        if match.groupdict().get("default"):
            definitions.setdefault(DEFAULT, shown)
    for match in _DEFAULT_NAME.finditer(text):
        if match[1] in definitions:
            definitions.setdefault(DEFAULT, definitions[match[1]])
    return Outline(definitions, script_imports(text))


def _bindings(match: re.Match[str]) -> Iterator[Import]:
    names, module = match["names"], match["module"]
    namespace = _NAMESPACE.search(names)
    if namespace:
        yield Import(module, alias=namespace[1])
        names = names.replace(namespace[0], "")
    outside, brace, inside = names.partition("{")
    pairs = [(name, alias or name) for name, alias in _PAIR.findall(inside)] if brace else []
    if outside.strip() == "*":
        pairs.append(("*", "*"))
    default = re.match(r"\s*([\w$]+)", outside)
    if default and match.re is _REQUIRE:
        yield Import(module, alias=default[1])
    elif default:
        pairs.insert(0, (DEFAULT, default[1]))
    if pairs:
        yield Import(module, tuple(pairs))


def _definition(text: str, match: re.Match[str]) -> str:
    kind = match["kind"]
    if kind.startswith("function"):
        return _head(text, match) + ";"
    if kind in ("const", "let", "var"):
        return _value(text, match)
    block = _block(text, match.start())
    if kind == "type":
        end = next((number for number, line in enumerate(block) if line.rstrip().endswith(";")), len(block) - 1)
        return "\n".join(block if "{" in block[0] else block[: end + 1])
    if kind == "class":
        members = [_member(line) for line in block[1:] if _MEMBER.match(line) and _depth_of(line, block)]
        return "\n".join([block[0].rstrip(), *members, "}"])
    return "\n".join(block)


def _head(text: str, match: re.Match[str]) -> str:
    """Return a function's signature: up to the brace that opens its body, behind all of its brackets."""
    depth = 0
    piece = text[match.start() : match.start() + _LONGEST_SIGNATURE]
    start = match.end() - match.start()
    for at in range(start, len(piece)):
        character = piece[at]
        if character in "([<":
            depth += 1
        elif character in ")]" or (character == ">" and piece[at - 1] != "="):
            depth -= 1
        elif character in "{;" and depth <= 0 and not piece[:at].rstrip().endswith((":", "|", "&")):
            return " ".join(piece[:at].split())
    return piece.partition("\n")[0].rstrip(" {")


def _value(text: str, match: re.Match[str]) -> str:
    """Return a constant: an arrow function as its signature, anything else as its first line."""
    line = text[match.start() :].partition("\n")[0].rstrip()
    piece = text[match.start() : match.start() + _LONGEST_SIGNATURE]
    arrow = re.match(r"[^=]*=\s*(?:async\s*)?(?:\([^)]*\)|[\w$]+)\s*(?::[^=]+)?=>", piece)
    if arrow:
        return " ".join(arrow[0].split()) + " ...;"
    return line if len(line) <= 120 else line[: line.find("=") + 1] + " ...;"


def _block(text: str, start: int) -> Sequence[str]:
    """Return the lines from a definition's head to the line that closes it, which is indented like it."""
    lines = text[start : start + 20_000].split("\n")
    if "{" not in lines[0] and not lines[0].rstrip().endswith(("=", "|", ",", "(")):
        return lines[:1] if lines[0].rstrip().endswith(";") or len(lines) == 1 else lines[:2]
    if lines[0].count("{") <= lines[0].count("}") and lines[0].rstrip().endswith((";", "}")):
        return lines[:1]
    closing = (number for number, line in enumerate(lines[1:], 1) if _CLOSING.match(line))
    return lines[: next(closing, len(lines) - 1) + 1]


def _depth_of(line: str, block: Sequence[str]) -> bool:
    """Say whether a line is indented like the class's first member."""
    first = next((each for each in block[1:] if each.strip()), "")
    return len(line) - len(line.lstrip()) == len(first) - len(first.lstrip())


def _member(line: str) -> str:
    head = line.rstrip()
    return head.removesuffix("{").rstrip() + ";" if head.endswith("{") else head
