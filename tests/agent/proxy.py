"""A TCP proxy that can be cut: between an agent and its service."""

import asyncio
import threading
from contextlib import contextmanager, suppress

PASS, NO_ANSWERS, NOTHING, REFUSE = "pass", "no answers", "nothing", "refuse"


class Proxy:
    """``mode``: what gets through. What is dropped is lost, and what was open then is cut when it passes again."""

    def __init__(self, port):
        self._target, self._mode = port, PASS
        self._writers = set()
        self.num_bytes_dropped = 0

    @property
    def mode(self):
        return self._mode

    @mode.setter
    def mode(self, mode):
        self._mode = mode
        if mode in (PASS, REFUSE):
            self._loop.call_soon_threadsafe(self._cut)

    def _cut(self):
        for writer in self._writers:
            writer.transport.abort()

    @contextmanager
    def running(self):
        is_up = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._run(is_up)))
        thread.start()
        is_up.wait(10)
        try:
            yield f"http://127.0.0.1:{self.port}"
        finally:
            self._loop.call_soon_threadsafe(self._done.set)
            thread.join()

    async def _run(self, is_up):
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        is_up.set()
        await self._done.wait()
        server.close()
        self._cut()
        await asyncio.sleep(0.05)

    async def _connected(self, reader, writer):
        if self._mode == REFUSE:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._writers |= both
        await asyncio.gather(self._pump(reader, far_writer, (NOTHING,)), self._pump(far_reader, writer, (NOTHING, NO_ANSWERS)))
        self._writers -= both

    async def _pump(self, reader, writer, dropping):
        with suppress(OSError):
            while piece := await reader.read(65536):
                if self._mode in dropping:
                    self.num_bytes_dropped += len(piece)
                    continue
                writer.write(piece)
                await writer.drain()
        writer.close()
