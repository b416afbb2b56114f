"""Runs an ASGI app on a free loopback port in a thread, and ends it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
import threading
import time
from collections import Counter
from typing import Any

import uvicorn


class Prompt(uvicorn.Server):
    """Ends when it is told to; uvicorn's own looks ten times a second, and waits once more: too much for each test."""

    async def main_loop(self) -> None:
        """Until ``end``."""
        self._loop, self._told, tick = asyncio.get_running_loop(), asyncio.Event(), 0
        while not (self._told.is_set() or await self.on_tick(tick)):
            tick += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), 0.1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more, close what is idle, let what is being answered be answered."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections and not self.force_exit:
            await asyncio.sleep(0.01)
        await self.lifespan.shutdown()

    def end(self) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self._told.set)


class Served:
    """One uvicorn in one thread; ``url`` answers once ``start`` returned.

    ``acts`` counts, by method and path, what was asked for beside reading and answered with success.
    """

    def __init__(self, app: Any, port: int = 0) -> None:
        self._app, self.acts = app, Counter[str]()
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            self._counted, log_level="critical", access_log=False, lifespan="auto", http="h11", interface="asgi3"
        )
        self._server = Prompt(config)
        run = contextvars.copy_context().run  # Prefect keeps its settings in the context
        self._thread = threading.Thread(target=run, args=(self._server.run, [self._socket]), daemon=True)

    def start(self) -> None:
        """Return when the port answers."""
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError(f"{self.url} did not start")
            time.sleep(0.01)

    async def _counted(self, scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                self.acts[f"{scope['method']} {scope['path']}"] += 1
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Some answers reach the connection itself, which uvicorn tells nobody but its own ``send``.
        scope.setdefault("state", {})["transport"] = send.__self__.transport
        reads = scope["method"] in {"GET", "HEAD", "OPTIONS"}
        await self._app(scope, receive, send if reads else sent)

    def stop(self) -> None:
        """Close the port and end the thread."""
        self._server.end()
        self._thread.join(5)
        self._socket.close()
