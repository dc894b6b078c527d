"""Where messages begin and end, however their bytes arrive."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lsp_server.framing import LONGEST_HEADER, Framing

HEADERS = [b"Content-Length: %d\r\n", b"content-length:%d\r\nContent-Type: a; b\r\n", b"X: y\r\nCONTENT-LENGTH:  %d \n"]
messages = st.lists(st.tuples(st.sampled_from(HEADERS), st.binary(max_size=40)), max_size=6)


@given(messages, st.lists(st.integers(0, 400), max_size=12))
def test_bodies_come_out_however_the_bytes_arrive(sent: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    data = b"".join(header % len(body) + b"\r\n" + body for header, body in sent)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    framing = Framing()
    found = [body for start, end in pairwise(places) for body in framing.feed(data[start:end])]
    assert found == [body for _, body in sent]


def test_what_is_no_header_does_not_end_a_session() -> None:
    framing = Framing()
    assert not list(framing.feed(b"\r\n\r\nContent-Length: -1\r\n\r\nContent-Length: x\r\n\r\n"))
    assert not list(framing.feed(b"x" * (LONGEST_HEADER + 1)))
    assert list(framing.feed(b"\r\nContent-Length: 2\r\n\r\n{}")) == [b"{}"]
