"""Messages between driver and worker on a stream socket: a JSON header and, where there is one, a table.

A frame is the lengths of both parts (4 and 8 bytes, big-endian), the header, and the table as an Arrow IPC stream.
Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

Header = dict[str, str | int | bool]
_LENGTHS = struct.Struct(">IQ")


@dataclass(frozen=True)
class Message:
    """`header["kind"]` says what it is; the other keys depend on it."""

    header: Header
    table: pa.Table | None = None

    @property
    def kind(self) -> str:
        return str(self.header["kind"])

    def text(self, key: str) -> str:
        """A text of the header; "" if it is not there."""
        return str(self.header.get(key, ""))

    def number(self, key: str) -> int:
        """A whole number of the header; 0 if it is not there."""
        return int(self.header.get(key, 0))


def pack(header: Mapping[str, str | int | bool], table: pa.Table | None = None) -> list[memoryview]:
    """The bytes of a message, in pieces, so that a large table is not copied once more."""
    head = json.dumps(header, ensure_ascii=False).encode()
    if table is None:
        return [memoryview(_LENGTHS.pack(len(head), 0) + head)]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    body = memoryview(sink.getvalue()).cast("B")
    return [memoryview(_LENGTHS.pack(len(head), len(body)) + head), body]


def readdress(message: bytes, change: Callable[[str], str]) -> bytes:
    """A packed message with its header's `payload` changed."""
    length, body = _LENGTHS.unpack_from(message)
    header = json.loads(message[_LENGTHS.size : _LENGTHS.size + length])
    head = json.dumps({**header, "payload": change(header["payload"])}, ensure_ascii=False).encode()
    return _LENGTHS.pack(len(head), body) + head + message[_LENGTHS.size + length :]


class MessageReader:
    """Takes messages off a socket, blocking or not, however they were cut up on the way."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.closed = False
        """Whether the other end has closed; nothing will come any more."""
        self.received = 0
        """Bytes so far."""
        self._header: Header | None = None
        self._body_length = 0
        self._expect(_LENGTHS.size)
        self._part = "lengths"

    def messages(self) -> Iterator[Message]:
        """Whole messages, until the other end closes or, on a non-blocking socket, nothing more is there for now."""
        while not self.closed:
            try:
                count = self._channel.recv_into(self._buffer[self._filled :])
            except BlockingIOError:
                return
            except ConnectionResetError:
                count = 0  # the other end was killed with bytes of ours unread
            if not count:
                self.closed = True
                return
            self._filled += count
            self.received += count
            if self._filled == len(self._buffer):
                message = self._finish_part()
                if message is not None:
                    yield message

    def _expect(self, length: int) -> None:
        self._buffer = memoryview(bytearray(length))
        self._filled = 0

    def _finish_part(self) -> Message | None:
        """Go on to the next part of the frame; gives the message at its end."""
        part, data = self._part, self._buffer
        if part == "lengths":
            header_length, self._body_length = _LENGTHS.unpack(data)
            self._part = "header"
            self._expect(header_length)
            return None
        if part == "header":
            self._header = json.loads(bytes(data))
            if self._body_length:
                self._part = "body"
                self._expect(self._body_length)
                return None
        assert self._header is not None
        table = pa.ipc.open_stream(pa.py_buffer(data)).read_all() if part == "body" else None
        message = Message(self._header, table)
        self._part = "lengths"
        self._expect(_LENGTHS.size)
        return message
