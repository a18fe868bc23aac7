from __future__ import annotations

import pytest

from drmad_client.http.protocol.server_sent_events import EventReader, Message


def read(*chunks: bytes) -> list[Message]:
    reader = EventReader()
    return [message for chunk in chunks for message in reader.feed(chunk)]


WHOLE = (
    ": hello\r\n\r\n"
    'id: 1\r\nevent: status\r\ndata: {"name": "é\u2028\u0085"}\r\n\r\n'
    "event: iteration\ndata: first\ndata:second\n\n"
    "data\n\n"
).encode()
MESSAGES = [
    Message(type="status", data='{"name": "é\u2028\u0085"}'),
    Message(type="iteration", data="first\nsecond"),
    Message(type="message", data=""),
]


def test_messages_are_read_from_one_chunk() -> None:
    assert read(WHOLE) == MESSAGES


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_chunks_may_break_anywhere(size: int) -> None:
    assert read(*(WHOLE[i : i + size] for i in range(0, len(WHOLE), size))) == MESSAGES


def test_bare_carriage_returns_end_lines_too() -> None:
    assert read(b"data: a\r\rdata: b\r\rdata") == [Message("message", "a"), Message("message", "b")]


def test_what_is_unfinished_or_without_data_is_no_message() -> None:
    assert read(b"event: status\n\n: comment\n\ndata: torn\n") == []
