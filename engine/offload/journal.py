"""How far the making of a store has come, so that it can go on after an interruption."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from engine.offload.header import FORMAT, Source


@dataclass(slots=True)
class Journal:
    """Which parts are finished: one line of JSON each, after a first one that says what they were made from."""

    path: Path
    kernel: str
    source: Source
    embedding_type: str
    finished: dict[str, list[int]] = field(default_factory=dict[str, list[int]])  # checksums by part

    @classmethod
    def read(cls, path: Path, kernel: str) -> Journal | None:
        """Read what an interrupted run for `kernel` left, or None; a torn last line is as good as none."""
        try:
            lines = path.read_bytes().split(b"\n")[:-1]
        except OSError:
            return None
        facts: list[dict[str, Any]] = []
        for line in lines:
            try:
                facts.append(cast("dict[str, Any]", json.loads(line)))
            except ValueError:
                break
        if not facts or (facts[0].get("format"), facts[0].get("kernel")) != (FORMAT, kernel):
            return None
        journal = cls(path, kernel, Source.parse(facts[0]["source"]), str(facts[0]["embedding_type"]))
        journal.finished = {str(each["part"]): list(each["checksums"]) for each in facts[1:]}
        return journal

    def begin(self) -> None:
        """Start the file anew."""
        self.path.unlink(missing_ok=True)
        facts = {"format": FORMAT, "kernel": self.kernel, "embedding_type": self.embedding_type}
        self._append({**facts, "source": self.source.facts()})

    def finish(self, part: str, checksums: list[int]) -> None:
        """Note, for good, that `part` is on disk."""
        self._append({"part": part, "checksums": checksums})
        self.finished[part] = checksums

    def _append(self, facts: dict[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(json.dumps(facts).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
