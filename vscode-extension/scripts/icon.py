"""Draws icon.png: a tree of guesses, one path of which is kept. Standard library only."""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise
from pathlib import Path

SIDE = 256
SAMPLES = 3  # per pixel and direction
BACKGROUND, FAINT, BRIGHT = (22, 32, 46), (76, 104, 132), (112, 214, 156)
Point = tuple[float, float]
KEPT: list[Point] = [(44, 128), (108, 92), (164, 128), (220, 92)]
GUESSED: list[tuple[Point, Point]] = [
    ((44, 128), (108, 164)),
    ((108, 164), (164, 200)),
    ((108, 92), (164, 56)),
    ((164, 128), (220, 164)),
]


def distance(point: Point, start: Point, end: Point) -> float:
    """Return how far `point` is from a line between two others."""
    (x, y), (x0, y0), (x1, y1) = point, start, end
    length = (x1 - x0) ** 2 + (y1 - y0) ** 2
    along = max(0.0, min(1.0, ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length)) if length else 0.0
    return ((x - x0 - along * (x1 - x0)) ** 2 + (y - y0 - along * (y1 - y0)) ** 2) ** 0.5


def colour(point: Point) -> tuple[int, int, int, int]:
    """Return what is drawn at `point`, red to alpha."""
    x, y = (min(max(each, 44.0), SIDE - 44.0) for each in point)
    if distance(point, (x, y), (x, y)) > 44:
        return (0, 0, 0, 0)
    if any(distance(point, each, each) < 15 for each in KEPT):
        return (*BRIGHT, 255)
    if any(distance(point, start, end) < 5 for start, end in pairwise(KEPT)):
        return (*BRIGHT, 255)
    if any(distance(point, end, end) < 11 or distance(point, start, end) < 4 for start, end in GUESSED):
        return (*FAINT, 255)
    return (*BACKGROUND, 255)


def pixel(column: int, row: int) -> bytes:
    """Return the mean of a pixel's samples."""
    places = [(each + 0.5) / SAMPLES for each in range(SAMPLES)]
    samples = [colour((column + x, row + y)) for x in places for y in places]
    alpha = sum(each[3] for each in samples)
    parts = [round(sum(each[i] * each[3] for each in samples) / alpha) if alpha else 0 for i in range(3)]
    return bytes([*parts, round(alpha / len(samples))])


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def main() -> None:
    """Write the file."""
    rows = b"".join(b"\0" + b"".join(pixel(column, row) for column in range(SIDE)) for row in range(SIDE))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 6, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    (Path(__file__).parents[1] / "media" / "icon.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)


if __name__ == "__main__":
    main()
