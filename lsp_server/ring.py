"""The pieces of code that were looked at last."""

from __future__ import annotations

from collections.abc import Callable

from lsp_server.chunks import Chunk

RING_CHUNKS = 16
_MOST_OF_ONE = 4  # chunks of one document, or a walk through a long one would push out all others


class ChunkRing:
    """At most `size` chunks, the oldest first; no two are the same code, none is twice the same place."""

    def __init__(self, size: int = RING_CHUNKS) -> None:
        self._size = size
        self.chunks: tuple[Chunk, ...] = ()

    def add(self, chunk: Chunk) -> set[str]:
        """Put a chunk in as the newest; it replaces what overlaps it and what is the same code.

        Returns the URIs of the documents of which something came or went: none if the very text is there already.
        """
        if any(known.uri == chunk.uri and known.text == chunk.text for known in self.chunks):
            return set()
        kept = [known for known in self.chunks if not known.overlaps(chunk) and not known.is_same_code(chunk)]
        own = [known for known in kept if known.uri == chunk.uri]
        if len(own) >= _MOST_OF_ONE:
            kept.remove(own[0])
        return self._set((*kept[max(0, len(kept) - self._size + 1) :], chunk))

    def drop(self, unwanted: Callable[[Chunk], bool]) -> set[str]:
        """Remove chunks; returns the URIs of their documents."""
        return self._set(tuple(chunk for chunk in self.chunks if not unwanted(chunk)))

    def _set(self, chunks: tuple[Chunk, ...]) -> set[str]:
        changed = {id(chunk): chunk.uri for chunk in (*self.chunks, *chunks)}
        for chunk in self.chunks:
            if any(chunk is other for other in chunks):
                del changed[id(chunk)]
        self.chunks = chunks
        return set(changed.values())
