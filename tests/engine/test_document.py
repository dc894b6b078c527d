"""Reading a file and finding the cursor in it."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.document import Document, Split, read_document, split_at_line, split_at_offset
from engine.errors import TreelineError

texts = st.lists(st.sampled_from(["a", "é", "𝒳", "\t", " ", "\n", "\r\n"])).map("".join)


@given(texts)
def test_every_offset_keeps_all_text(text: str) -> None:
    unix = io.StringIO(text, newline=None).read()
    for offset in range(len(text) + 1):
        split = split_at_offset(Document("x.py", text), offset)
        assert split.prefix + split.suffix == unix
        assert split.prefix == io.StringIO(text[:offset].removesuffix("\r"), newline=None).read()


@given(texts)
def test_every_line_and_column_is_where_an_editor_counts_it(text: str) -> None:
    document = Document("x.py", text)
    unix = io.StringIO(text, newline=None).read()
    lines = unix.split("\n")
    seen: list[str] = []
    for number, line in enumerate(lines, 1):
        for column in range(1, len(line) + 2):
            split = split_at_line(document, number, column)
            assert split.prefix + split.suffix == unix
            seen.append(split.prefix)
        assert split_at_line(document, number, None) == split_at_line(document, number, len(line) + 1)
    assert seen == [unix[:end] for end in range(len(unix) + 1)]
    assert split_at_line(document, None, None) == Split(unix, "")


def test_what_is_out_of_range_says_the_range() -> None:
    document = Document("a.py", "one\r\ntwo\r\n")
    for line, column, complaint in (
        (4, None, "--line is 4: a.py has lines 1 to 3"),
        (2, 5, "--column is 5: line 2 of a.py has columns 1 to 4"),
    ):
        with pytest.raises(TreelineError, match=complaint):
            split_at_line(document, line, column)
    with pytest.raises(TreelineError, match=r"--cursor is 11: a\.py has offsets 0 to 10"):
        split_at_offset(document, 11)


def test_line_ends_follow_the_majority() -> None:
    assert Document("", "a\r\nb\r\nc\n").line_end == "\r\n"
    assert Document("", "a\nb\r\n").line_end == "\n"
    assert Document("", "").line_end == "\n"


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "Bom.PY"
    path.write_bytes(b"\xef\xbb\xbfx = 1\n")
    document = read_document(str(path))
    assert (document.text, document.language) == ("x = 1\n", "python")


def test_a_pipe_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("x = 2"))
    writer.start()
    assert read_document(str(pipe)).text == "x = 2"
    writer.join()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\x7fELF\x00\x01", "is not text (a NUL byte at offset 4)"),
        ("x = 1".encode("utf-16"), "is not text (a NUL byte at offset 3)"),
        (b"caf\xe9 = 1", "is not UTF-8 (byte 0xe9 at offset 3)"),
        (b"\xef\xbb\xbfcaf\xe9", "is not UTF-8 (byte 0xe9 at offset 6)"),
        (b"\xed\xa0\x80", "is not UTF-8 (byte 0xed at offset 0)"),
    ],
)
def test_what_is_not_text_is_refused_with_its_place(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "file.py"
    path.write_bytes(content)
    with pytest.raises(TreelineError) as error:
        read_document(str(path))
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("/no/such/file.py", "/no/such/file.py does not exist"),
        ("/", "/ is a directory"),
        ("/dev/null", "/dev/null is neither a file nor a pipe"),
        ("a\0b", "cannot read"),
        (f"{__file__}/x", "Not a directory"),
        ("x" * 5000, "File name too long"),
    ],
)
def test_what_is_no_file_is_refused(path: str, complaint: str) -> None:
    with pytest.raises(TreelineError) as error:
        read_document(path)
    assert complaint in str(error.value)
