"""The definitions, in files of the workspace, of the names that a document imports."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lsp_server.exclusions import Exclusions, text_reason
from lsp_server.module_files import python_file, script_file
from lsp_server.outline import Import, Outline
from lsp_server.python_outline import python_imports, python_outline
from lsp_server.script_outline import SCRIPT_LANGUAGES, SCRIPT_SUFFIXES, script_imports, script_outline
from lsp_server.similarity import words
from lsp_server.source_text import SourceText

_MOST_BYTES = 256 << 10  # of a file that is read for its definitions
_MOST_FILES = 32  # that one document may have looked at
_MOST_NAMES = 64
_MOST_OUTLINES = 256  # kept from one time to the next
_MOST_HOPS = 3  # from a package that passes a name on to the file that defines it
_EMPTY = Outline()

OpenDocuments = Mapping[Path, SourceText]
OutlineOf = Callable[[Path, SourceText | None], Outline]


@dataclass(frozen=True, slots=True)
class Definition:
    """A few lines that show what `name` is; `uri` and `path` are those of the file that they come from."""

    uri: str
    path: Path
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class _Known:
    """An outline and what it was made from: a document, or a file's time and size."""

    made_from: object
    outline: Outline


class DefinitionFinder:
    """Reads and outlines imported files, each once until it changes. Safe to call from several threads.

    Text comes from `Exclusions.read` or from an open document that may be shown, and from nowhere else.
    """

    def __init__(self, exclusions: Exclusions) -> None:
        self._exclusions = exclusions
        self._known: dict[Path, _Known] = {}
        self._lock = threading.Lock()

    def find(self, source: SourceText, open_documents: OpenDocuments) -> tuple[Definition, ...]:
        """Return what the document's imports mean, in the order of the imports; nothing for other languages."""
        with self._lock:
            search = _Search(source, open_documents, self._exclusions, self._outline)
            found: dict[tuple[Path, str], Definition] = {}
            for definition in search.run():
                found.setdefault((definition.path, definition.name), definition)
                if len(found) == _MOST_NAMES:
                    break
            return tuple(found.values())

    def _outline(self, path: Path, document: SourceText | None) -> Outline:
        if document is not None:
            reason = self._exclusions.may_show(path, document.uri)
            made_from: object = document
        else:
            reason = self._exclusions.may_read(path)
            made_from = _stamp(path)
        if reason is not None or made_from is None:
            self._known.pop(path, None)
            return _EMPTY
        known = self._known.get(path)
        if known is not None and (known.made_from is made_from or (document is None and known.made_from == made_from)):
            return known.outline
        text = self._exclusions.read(path, _MOST_BYTES) if document is None else _joined(document)
        outline = _EMPTY
        if text is not None and not text_reason(text):
            outline = script_outline(text) if path.suffix in SCRIPT_SUFFIXES else python_outline(text)
        if len(self._known) >= _MOST_OUTLINES:
            self._known.clear()
        self._known[path] = _Known(made_from, outline)
        return outline


class _Search:
    """One document's imports, followed to their definitions."""

    def __init__(
        self,
        source: SourceText,
        open_documents: OpenDocuments,
        exclusions: Exclusions,
        outline: OutlineOf,
    ) -> None:
        self._source = source
        self._open = open_documents
        self._folders = exclusions.folders
        self._outline_of = outline
        self._is_script = source.language in SCRIPT_LANGUAGES
        self._seen: set[Path] = set()

    def run(self) -> Iterator[Definition]:
        if self._is_script:
            imports = script_imports(_joined(self._source))
        elif self._source.language == "python":
            imports = python_imports(self._source.lines)
        else:
            return
        for wanted in imports:
            if wanted.names:
                yield from self._names(wanted, self._source.path, _MOST_HOPS)
            else:
                yield from self._attributes(self._file(wanted, self._source.path), wanted.alias)

    def _names(self, wanted: Import, importer: Path | None, hops: int) -> Iterator[Definition]:
        path = self._file(wanted, importer)
        for name, alias in wanted.names:
            if name == "*":
                if path is not None:
                    used = words(self._source.lines)
                    for each in sorted(used & self._outline(path).definitions.keys()):
                        yield from self._named(path, each, hops)
                continue
            found = list(self._named(path, name, hops)) if path is not None else []
            if not found and not self._is_script:
                inner = f"{wanted.module}.{name}" if wanted.module else name
                submodule = self._file(replace(wanted, module=inner, names=()), importer)
                if submodule is not None:
                    found = list(self._attributes(submodule, alias))
            yield from found

    def _named(self, path: Path, name: str, hops: int) -> Iterator[Definition]:
        """Yield a file's definition of a name, or that of the file from which it passes the name on."""
        if path == self._source.path:
            return
        outline = self._outline(path)
        if name in outline.definitions:
            document = self._open.get(path)
            yield Definition(document.uri if document else path.as_uri(), path, name, outline.definitions[name])
            return
        for passed in outline.imports if hops else ():
            original = next((there for there, here in passed.names if here in (name, "*")), None)
            if original is None:
                continue
            further = self._file(passed, path)
            found = list(self._named(further, name if original == "*" else original, hops - 1)) if further else []
            if found:
                yield from found
                return

    def _attributes(self, path: Path | None, alias: str) -> Iterator[Definition]:
        """Yield the definitions in a module that the document uses as `alias.name`."""
        if path is None or path == self._source.path:
            return
        use = re.compile(rf"(?<![\w.]){re.escape(alias)}\s*\.\s*([A-Za-z_$][\w$]*)")
        used = dict.fromkeys(name for line in self._source.lines if alias in line for name in use.findall(line))
        for name in used:
            yield from self._named(path, name, _MOST_HOPS)

    def _file(self, wanted: Import, importer: Path | None) -> Path | None:
        return script_file(wanted, importer) if self._is_script else python_file(wanted, importer, self._folders)

    def _outline(self, path: Path) -> Outline:
        if path not in self._seen and len(self._seen) >= _MOST_FILES:
            return _EMPTY
        self._seen.add(path)
        return self._outline_of(path, self._open.get(path))


def _joined(source: SourceText) -> str:
    return "\n".join(line.rstrip("\r\n") for line in source.lines)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size
