"""Comment syntax of programming languages, for prompts that show other text as comments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True, slots=True)
class CommentSyntax:
    """What stands before and after a comment on one line, and which languages (LSP ids) and extensions use it."""

    before: str
    after: str
    languages: frozenset[str]


def _row(before: str, after: str, languages: str) -> CommentSyntax:
    return CommentSyntax(before, after, frozenset(languages.split()))


_HASH = _row("# ", "", "python py pyi")  # what an unknown language gets too
_ROWS = (
    _HASH,
    _row(
        "// ",
        "",
        "c h cpp cc cxx hpp hh csharp cs java javascript js mjs cjs jsx javascriptreact typescript ts tsx "
        "typescriptreact go rust rs swift kotlin kt kts scala dart php groovy gradle proto protobuf proto3 objective-c "
        "objective-cpp m mm zig solidity sol verilog v systemverilog sv cuda cuda-cpp cu fsharp fs jsonc json5 scss "
        "less",
    ),
    _row("-- ", "", "sql lua haskell hs ada adb ads elm vhdl vhd"),
    _row("; ", "", "clojure clj lisp scheme scm asm s ini racket rkt emacs-lisp el"),
    _row("% ", "", "latex tex erlang erl prolog matlab bibtex bib"),
    _row("! ", "", "fortran f90 f95"),
    _row('" ', "", "vim viml"),
    _row("' ", "", "vb vbnet bas"),
    _row("REM ", "", "bat cmd"),
    _row("<!-- ", " -->", "html htm xml markdown md vue svelte xhtml svg"),
    _row("/* ", " */", "css"),
    _row("(* ", " *)", "ocaml ml mli pascal pas"),
)


def comment_syntax(language: str, path: str) -> CommentSyntax:
    """Return the row for a language id or, failing that, for the path's extension; `#` for unknown ones."""
    extension = PurePath(path).suffix.lstrip(".").lower()
    for name in (language.lower(), extension):
        for row in _ROWS:
            if name in row.languages:
                return row
    return _HASH


def commented(text: str, syntax: CommentSyntax) -> str:
    """Return `text` with every line made a comment, each ended by a line break; blank lines are left out."""
    lines = (line.rstrip() for line in text.splitlines())
    return "".join(f"{syntax.before}{line}{syntax.after}\n" for line in lines if line)
