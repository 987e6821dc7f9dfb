"""A network of some milliseconds between sender and receiver: bytes are passed on as they are, later."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

PIECE, WAITING = 1 << 18, 64  # bytes read at once, pieces on their way


@contextlib.contextmanager
def delayed(address: tuple[str, int], seconds: float) -> Iterator[tuple[str, int]]:
    """An address whose bytes reach ``address``, and whose answers come back, half of ``seconds`` later."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other = await asyncio.open_connection(*address)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(
                _pass_on(reader, other[1], seconds / 2), _pass_on(other[0], writer, seconds / 2)
            )

    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(serve, "127.0.0.1", 0), loop).result()
    try:
        yield server.sockets[0].getsockname()
    finally:
        asyncio.run_coroutine_threadsafe(_end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _end() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING)
    clock = asyncio.get_running_loop().time

    async def read() -> None:
        while piece := await reader.read(PIECE):
            await pieces.put((clock() + delay, piece))
        await pieces.put((clock() + delay, b""))

    reading = asyncio.create_task(read())
    with contextlib.suppress(ConnectionError):
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(due - clock())
            if not piece:
                break
            writer.write(piece)
            await writer.drain()
    reading.cancel()
    writer.close()
