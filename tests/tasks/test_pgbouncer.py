"""SHOW POOLS against a console that is as narrow as PgBouncer's: simple protocol, no options at the start."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from runbook import settings
from runbook.errors import OutsideError
from tasks.pgbouncer import read_pgbouncer

COLUMNS = ["database", "user", "cl_active", "cl_waiting", "maxwait", "maxwait_us", "pool_mode"]
ROWS = [
    ["shop", "app", "20", "3", "1", "500000", "transaction"],
    ["shop", "jobs", "2", "0", "0", "0", "transaction"],
    ["pgbouncer", "pgbouncer", "1", "0", "0", "0", "statement"],
]


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def error(text: str) -> bytes:
    return message(b"E", b"SERROR\0C08P01\0M" + text.encode() + b"\0\0")


def answer() -> bytes:
    names = b"".join(name.encode() + b"\0" + struct.pack("!ihihih", 0, 0, 25, -1, -1, 0) for name in COLUMNS)
    said = message(b"T", struct.pack("!h", len(COLUMNS)) + names)
    for row in ROWS:
        cells = b"".join(struct.pack("!i", len(cell)) + cell.encode() for cell in row)
        said += message(b"D", struct.pack("!h", len(row)) + cells)
    return said + message(b"C", b"SHOW\0")


async def console(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One client of the admin console, as PgBouncer 1.18 answers it."""
    while True:
        size, code = struct.unpack("!ii", await reader.readexactly(8))
        startup = await reader.readexactly(size - 8)
        if code == 196608:
            break
        writer.write(b"N")  # neither TLS nor GSSAPI
    if b"options\0" in startup:
        writer.write(error("unsupported startup parameter: options"))
        writer.close()
        return
    ready = message(b"Z", b"I")
    hello = message(b"S", b"client_encoding\0UTF8\0") + message(b"S", b"server_version\x001.18.0/bouncer\0")
    writer.write(message(b"R", struct.pack("!i", 0)) + hello + ready)
    while head := await reader.read(1):
        body = await reader.readexactly(struct.unpack("!i", await reader.readexactly(4))[0] - 4)
        if head == b"X":
            break
        simple = head == b"Q" and body == b"SHOW POOLS\0"
        writer.write((answer() if simple else error("extended query protocol not supported by admin console")) + ready)
    writer.close()


@asynccontextmanager
async def bouncer() -> AsyncIterator[int]:
    server = await asyncio.start_server(console, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_pools_with_waiting_clients_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bouncer() as port:
        monkeypatch.setenv("PGBOUNCER_URL", f"postgresql://stats@127.0.0.1:{port}/pgbouncer")
        settings.forget()
        (waiting,) = await read_pgbouncer()
    settings.forget()
    assert (waiting.database, waiting.user, waiting.clients, waiting.seconds) == ("shop", "app", 3, 1.5)


async def test_a_console_that_is_away_is_named_by_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGBOUNCER_URL", "postgresql://stats@127.0.0.1:1/pgbouncer")
    settings.forget()
    with pytest.raises(OutsideError, match=r"PGBOUNCER_URL: 127\.0\.0\.1:1 cannot be reached"):
        await read_pgbouncer()
    settings.forget()
