"""What stands at the head of a store: what it was made from and for, and the checksum of every block."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from engine.errors import TreelineError
from engine.offload.blob import SECTOR, align

MAGIC = b"treeline"
FORMAT = 2
Kind = Literal["cpu", "cuda"]
KERNELS: dict[Kind, str] = {  # of the layouts in csrc/gemm.h and gpu/layout.py: another number for another layout
    "cpu": "cpu-blocks-1",
    "cuda": "gpu-planes-1",
}
_PREAMBLE = struct.Struct("<8sIIII")  # magic, format, bytes of the header, bytes of its JSON, CRC-32 of the rest


class Unusable(Exception):  # noqa: N818 - a reason to make the store again, not an error that a user meets
    """A store that does not belong to the checkpoint, to these kernels, or is damaged; says why."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a checkpoint looked like: the digest of config.json, and the weight files' names, sizes and times (ns)."""

    config: str
    files: tuple[tuple[str, int, int], ...]

    @classmethod
    def of(cls, directory: Path) -> Source:
        """Look at `directory` now. Raises TreelineError where config.json cannot be read."""
        try:
            config = hashlib.sha256((directory / "config.json").read_bytes()).hexdigest()
            paths = sorted((*directory.glob("*.safetensors"), *directory.glob("*.safetensors.index.json")))
            stats = [(path.name, path.stat()) for path in paths]
        except OSError as error:
            raise TreelineError(f"cannot read {error.filename}: {error.strerror}") from None
        return cls(config, tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))

    @classmethod
    def parse(cls, facts: dict[str, Any]) -> Source:
        """From what `facts` returned."""
        files = tuple((str(name), int(size), int(time)) for name, size, time in facts["files"])
        return cls(str(facts["config"]), files)

    def facts(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"config": self.config, "files": [list(file) for file in self.files]}

    def differs(self, recorded: Source) -> str | None:
        """Why this is not the checkpoint of `recorded`, or None. Files that are gone since then say nothing."""
        if self.config != recorded.config:
            return "config.json has changed"
        known = {name: (size, time) for name, size, time in recorded.files}
        return next((f"{name} has changed" for name, size, time in self.files if known.get(name) != (size, time)), None)


@dataclass(frozen=True, slots=True)
class Header:
    """`kernel`: of KERNELS. `checksums`: of every block of every part, in the order of the file."""

    kernel: str
    source: Source
    embedding_type: str
    checksums: tuple[int, ...]

    def encode(self) -> bytes:
        """As bytes, a multiple of SECTOR of them; how many depends on the number of checksums, not on their values."""
        facts = {
            "kernel": self.kernel,
            "embedding_type": self.embedding_type,
            "source": self.source.facts(),
            "blocks": len(self.checksums),
        }
        text = json.dumps(facts).encode()
        table = struct.pack(f"<{len(self.checksums)}I", *self.checksums)
        size = align(_PREAMBLE.size + len(text) + len(table), SECTOR)
        body = (text + table).ljust(size - _PREAMBLE.size, b"\0")
        return _PREAMBLE.pack(MAGIC, FORMAT, size, len(text), _crc(size, len(text), body)) + body

    @classmethod
    def read(cls, path: Path, kernel: str) -> Header:
        """Read the head of the file `path`. Raises Unusable, also if there is none or it is for another `kernel`."""
        try:
            with path.open("rb") as file:
                preamble = file.read(_PREAMBLE.size)
                if len(preamble) < _PREAMBLE.size:
                    raise Unusable("it is truncated")
                magic, version, size, text_size, crc = _PREAMBLE.unpack(preamble)
                if magic != MAGIC:
                    raise Unusable("its header is damaged")
                if version != FORMAT:
                    raise Unusable(f"it has format {version}, this version of Treeline reads {FORMAT}")
                body = file.read(max(0, size - _PREAMBLE.size))
        except OSError as error:
            raise Unusable(f"it cannot be read: {error.strerror}") from None
        if _crc(size, text_size, body) != crc:
            raise Unusable("its header is damaged")
        facts = cast("dict[str, Any]", json.loads(body[:text_size]))
        if facts["kernel"] != kernel:
            raise Unusable(f"it was made for other kernels: {facts['kernel']}")
        table = struct.unpack_from(f"<{facts['blocks']}I", body, text_size)
        return cls(kernel, Source.parse(facts["source"]), str(facts["embedding_type"]), table)


def _crc(size: int, text_size: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(struct.pack("<II", size, text_size)))
