"""Messages between driver and worker: whole, whatever the pieces they come in."""

from __future__ import annotations

import socket
import threading

import pyarrow as pa
import pytest

from icr.work.messages import Message, MessageReader, pack


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_messages_come_whole_from_pieces_of_any_size(size: int) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    table = pa.table({"number": [1, 2, 3], "text": ["a", "ü", None]})
    data = b"".join(
        bytes(piece)
        for message in (pack({"kind": "note", "text": "çé"}), pack({"kind": "done", "ticket": 7}, table))
        for piece in message
    )
    reader = MessageReader(theirs)
    got: list[Message] = []
    for start in range(0, len(data), size):
        ours.sendall(data[start : start + size])
        got += reader.messages()
    assert [message.kind for message in got] == ["note", "done"]
    assert got[0].text("text") == "çé" and got[0].table is None
    assert got[1].number("ticket") == 7 and got[1].table == table
    assert reader.received == len(data) and not reader.closed
    ours.close()
    assert list(reader.messages()) == [] and reader.closed
    theirs.close()


def test_an_empty_table_keeps_its_columns() -> None:
    ours, theirs = socket.socketpair()
    table = pa.table({"number": pa.array([], pa.int64()), "ids": pa.array([], pa.list_(pa.int32()))})
    for piece in pack({"kind": "work"}, table):
        ours.sendall(piece)
    message = next(MessageReader(theirs).messages())
    assert message.table is not None
    assert message.table.schema == table.schema and message.table.num_rows == 0
    ours.close()
    theirs.close()


def test_a_blocking_reader_ends_where_the_other_end_closes_in_the_middle_of_a_message() -> None:
    ours, theirs = socket.socketpair()
    reader = MessageReader(theirs)
    got: list[Message] = []
    thread = threading.Thread(target=lambda: got.extend(reader.messages()))
    thread.start()
    ours.sendall(bytes(pack({"kind": "alive"})[0]) + bytes(pack({"kind": "alive"})[0])[:-1])
    ours.close()
    thread.join(5)
    assert not thread.is_alive() and len(got) == 1 and reader.closed
    theirs.close()
