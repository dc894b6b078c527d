"""What of the workspace goes into the prompt: definitions of what a document imports, and code that was looked at last.

The result stays the same, object for object, while somebody types. It is put together anew when another document is
asked about, when something came from another document, when the imports mean something else, or when the cursor is far
from where it was; and then what stays keeps its order at the front, so that a model has little to read again.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.request import ContextFile
from lsp_server.chunks import CHUNK_CHARACTERS, CHUNK_LINES, Chunk, cut_chunk, first_definition
from lsp_server.copied import find_lines, pasted_lines
from lsp_server.definitions import Definition, DefinitionFinder
from lsp_server.exclusions import Exclusions, text_reason
from lsp_server.ring import RING_CHUNKS, ChunkRing
from lsp_server.selection import Item, items_of, select
from lsp_server.source_text import SourceText

FAR = 32  # lines


@dataclass(frozen=True, slots=True)
class _Built:
    """A result and what it rests on. `line` is where the cursor was; `others`: changes of other documents so far."""

    line: int
    others: int
    definitions: tuple[Definition, ...]
    items: tuple[Item, ...]
    files: tuple[ContextFile, ...]
    documents: frozenset[tuple[str, Path | None]]


class ContextBuilder:
    """Told of what happens to documents, it says what else the model should see.

    All methods but `refresh` belong to one thread and take microseconds to a few milliseconds. `refresh` reads and
    parses files: run it in another thread after an edit or a pause; the next `build` uses what it found.
    `budget` is in characters.
    """

    def __init__(
        self,
        exclusions: Exclusions,
        budget: int = 6000,
        ring_chunks: int = RING_CHUNKS,
        chunk_lines: int = CHUNK_LINES,
    ) -> None:
        self._exclusions = exclusions
        self._budget = budget
        self._chunk_lines = chunk_lines
        self._ring = ChunkRing(ring_chunks)
        self._finder = DefinitionFinder(exclusions)
        self._open: dict[str, SourceText] = {}
        self._places: dict[str, int] = {}  # where in each document somebody was last
        self._moved: set[str] = set()  # where somebody was since a chunk was cut there
        self._edited: set[str] = set()  # and where they wrote: that place counts then
        self._handover = threading.Lock()
        self._active: str | None = None
        self._changes: Counter[str] = Counter()
        self._definitions: dict[str, tuple[Definition, ...]] = {}  # replaced as a whole, never changed
        self._built: dict[str, _Built] = {}

    def opened(self, source: SourceText) -> None:
        """A document was opened: its first definitions are worth knowing."""
        self._open[source.uri] = source
        self._add(source, first_definition(source))

    def edited(self, source: SourceText, line: int) -> None:
        """A document was edited at a line (from 0); `source` is what it is now."""
        before = self._open.get(source.uri)
        self._open[source.uri] = source
        self._places[source.uri] = line
        self._moved.add(source.uri)
        self._edited.add(source.uri)
        if before is not None:
            self._copied(before, source)

    def saved(self, source: SourceText) -> None:
        """A document was saved."""
        self._open[source.uri] = source
        self._remember(source.uri)

    def focused(self, source: SourceText, line: int) -> None:
        """The cursor is in this document now."""
        self._open[source.uri] = source
        if self._active is not None and self._active != source.uri:
            self._remember(self._active)
        self._active = source.uri
        self._moved.add(source.uri)
        if source.uri not in self._edited:
            self._places[source.uri] = line

    def closed(self, uri: str) -> None:
        """A document was closed. What was seen of it stays if it could be read from disk as well."""
        self._remember(uri)
        source = self._open.pop(uri, None)
        for known in (self._places, self._built):
            known.pop(uri, None)
        with self._handover:
            self._definitions = {key: found for key, found in self._definitions.items() if key != uri}
        if self._active == uri:
            self._active = None
        if source is None or source.path is None or self._exclusions.may_read(source.path):
            self._changed(self._ring.drop(lambda chunk: chunk.uri == uri))

    def reconfigure(self, exclusions: Exclusions) -> None:
        """Go on under other rules, e.g. when workspace folders came or went, or the workspace is trusted now."""
        self._exclusions = exclusions
        self._finder = DefinitionFinder(exclusions)
        self._built.clear()

    def refresh(self, source: SourceText) -> None:
        """Look up what the document's imports mean. Slow; safe in any thread."""
        documents = {other.path: other for other in list(self._open.values()) if other.path is not None}
        found = self._finder.find(source, documents)
        with self._handover:
            if source.uri in self._open and self._definitions.get(source.uri, ()) != found:
                self._definitions = {**self._definitions, source.uri: found}

    def build(self, source: SourceText, line: int) -> tuple[ContextFile, ...]:
        """Return the other files for a prompt whose cursor is at `line` (from 0), the most stable first."""
        same = self._active == source.uri
        self.focused(source, line)
        definitions = self._definitions.get(source.uri, ())
        others = self._changes.total() - self._changes[source.uri]
        built = self._built.get(source.uri)
        if (
            built is not None
            and same
            and built.others == others
            and built.definitions is definitions
            and abs(built.line - line) <= FAR
            and all(self._is_allowed(uri, path) for uri, path in built.documents)
        ):
            return built.files
        items = self._select(source, line, definitions, built.items if built else ())
        files = _files(items)
        if built is not None and files == built.files:
            files = built.files
        documents = frozenset((item.uri, item.path) for item in items)
        self._built[source.uri] = _Built(line, others, definitions, items, files, documents)
        return files

    def _select(
        self, source: SourceText, line: int, definitions: Iterable[Definition], before: Sequence[Item]
    ) -> tuple[Item, ...]:
        chunks = [chunk for chunk in self._ring.chunks if not _is_of(chunk, source)]
        items = items_of(definitions, chunks, self._exclusions)
        return select(
            [item for item in items if self._is_allowed(item.uri, item.path)],
            before,
            source.lines[max(0, line - self._chunk_lines) : line + self._chunk_lines],
            self._budget,
        )

    def _is_allowed(self, uri: str, path: Path | None) -> bool:
        """Say whether a document may still be shown."""
        if uri not in self._open and (path is None or not self._exclusions.trusted):
            return False
        return self._exclusions.may_show(path, uri) is None

    def _remember(self, uri: str) -> None:
        """Keep the place in a document where somebody was last."""
        source = self._open.get(uri)
        if source is not None and uri in self._moved:
            self._moved.discard(uri)
            self._edited.discard(uri)
            self._add(source, self._places.get(uri, 0))

    def _copied(self, before: SourceText, after: SourceText) -> None:
        """Keep the place in another document from which lines were pasted."""
        pasted = pasted_lines(before.lines, after.lines)
        if pasted:
            found = find_lines(pasted, (each for uri, each in self._open.items() if uri != after.uri))
            if found is not None:
                self._add(*found)

    def _add(self, source: SourceText, line: int) -> None:
        if self._exclusions.may_show(source.path, source.uri) or text_reason("\n".join(source.lines)):
            self._changed(self._ring.drop(lambda chunk: chunk.uri == source.uri))
            return
        chunk = cut_chunk(source, line, self._chunk_lines, min(CHUNK_CHARACTERS, self._budget // 2))
        if chunk is not None:
            self._changed(self._ring.add(chunk))

    def _changed(self, uris: Iterable[str]) -> None:
        self._changes.update(uris)


def _is_of(chunk: Chunk, source: SourceText) -> bool:
    """Say whether a chunk is of this document, or of another cell of the same notebook."""
    if chunk.path is not None and chunk.path == source.path:
        return True
    return chunk.uri.partition("#")[0] == source.uri.partition("#")[0]


def _files(items: Sequence[Item]) -> tuple[ContextFile, ...]:
    """Make files of items; definitions of one file that follow one another become one."""
    files: list[ContextFile] = []
    for position, item in enumerate(items):
        previous = items[position - 1] if position else None
        if previous is not None and item.is_definition and previous.is_definition and item.label == previous.label:
            files[-1] = ContextFile(item.label, files[-1].text + item.text)
        else:
            files.append(ContextFile(item.label, item.text))
    return tuple(files)
