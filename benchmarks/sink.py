#!/usr/bin/env python3
"""What the machine takes for one object: bytes from a socket to the disk, durable, and next to no DICOM.

    benchmarks/sink.py FOLDER PORT

Accepts every presentation context, checks nothing, keeps neither sender nor time, and answers Success to each
last fragment of a data set. A receiver that makes each object durable by itself cannot be cheaper in Python.
"""

import itertools
import os
import socket
import struct
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.sender import command_set, elements_of

PDU = 131072
_NUMBERS = itertools.count()


def main(folder: Path, port: int) -> None:
    """Accept associations at ``port`` for ever, and write received objects into ``folder``."""
    with socket.create_server(("127.0.0.1", port), backlog=64) as server:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_serve, args=(connection, folder, directory), daemon=True).start()


def _serve(connection: socket.socket, folder: Path, directory: int) -> None:
    """Serve one association: write the PDVs of each data set to a file as they come, sync file and folder,
    and answer Success.
    """
    with connection:
        head, body = bytearray(6), memoryview(bytearray(2 * PDU))
        command = b""
        while _read(connection, memoryview(head)):
            length = int.from_bytes(head[2:], "big")
            view = body[:length]
            _read(connection, view)
            if head[0] == 1:
                connection.sendall(_accept(bytes(view)))
            elif head[0] == 5:
                connection.sendall(bytes((6, 0, 0, 0, 0, 4, 0, 0, 0, 0)))
            elif head[0] != 4:
                return
            elif view[5] & 1:
                command = bytes(view[6:])
                path = folder / f"{next(_NUMBERS):08d}"
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
            else:
                os.write(file, view[6:])
                if view[5] & 2:
                    os.fdatasync(file)
                    path.rename(path.with_suffix(".dcm"))
                    os.close(file)
                    os.fsync(directory)
                    connection.sendall(_success(view[4], command))


def _read(connection: socket.socket, view: memoryview) -> bool:
    """Fill ``view`` from the connection; False if it is closed before."""
    return connection.recv_into(view, len(view), socket.MSG_WAITALL) == len(view)


def _success(context_id: int, command: bytes) -> bytes:
    """The P-DATA-TF with the Success response to a C-STORE command set."""
    asked = elements_of(command)
    number = struct.pack("<H", 0x8001)
    answer = command_set(
        {0x0002: asked[0x0002], 0x0100: number, 0x0120: asked[0x0110], 0x0800: b"\1\1", 0x0900: b"\0\0"}
    )
    return struct.pack(">BxIIBB", 4, len(answer) + 6, len(answer) + 2, context_id, 3) + answer


def _accept(request: bytes) -> bytes:
    """A-ASSOCIATE-AC (PS3.8 9.3.3): each context with its first transfer syntax."""
    items, offset = b"", 68
    while offset < len(request):
        kind, length = struct.unpack_from(">BxH", request, offset)
        value = request[offset + 4 : offset + 4 + length]
        if kind == 0x10:
            items += _item(kind, value)
        elif kind == 0x20:
            (abstract,) = struct.unpack_from(">H", value, 6)
            first = 8 + abstract
            (syntax,) = struct.unpack_from(">H", value, first + 2)
            items += _item(0x21, bytes((value[0], 0, 0, 0)) + value[first : first + 4 + syntax])
        offset += 4 + length
    items += _item(0x50, _item(0x51, struct.pack(">I", PDU)) + _item(0x52, b"1.2.3"))
    body = request[:68] + items
    return struct.pack(">BxI", 2, len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    """Encode an item of A-ASSOCIATE-AC (PS3.8 9.3.3)."""
    return struct.pack(">BxH", kind, len(value)) + value


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
