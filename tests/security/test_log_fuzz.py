"""The app's log may hold any bytes at all: it is read to its end, in bounded room, and what is kept is plain text."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator

from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from demo.prefect_server import ROOT
from runbook.memory import LogEvent
from tasks.log_forms import from_audit, from_json, from_text, moment, starts_block
from tasks.log_scan import LONGEST, Scan

PIECES = (
    b'{"level":"error","time":"2026-01-01T00:00:00Z","msg":"x","error":"',
    b'{"level":50,"time":1e999,"msg":"',
    b'{"time":-1e308,"level":"warn","msg":"login_failed","count":NaN}',
    b'"}',
    b"[AUDIT-ERROR] auth_failed {\n  timestamp: '2026-01-01T00:00:00Z',\n",
    b"  details: { error: '",
    b"' +\n    '",
    b"}\n",
    b"[AUDIT] ip_unblocked {",
    b"prisma:error \n",
    b"Too many database connections",
    b"<--- JavaScript heap out of memory --->",
    b"[next-auth][error][JWT_SESSION_ERROR]",
    b"550 5.7.1 no",
    b"TypeError: x\n    at y (z:1:2)",
    b"2026-01-01T00:00:00.000Z ",
    b"\n",
    b"\r\n",
    b"\x1b[31m",
    b"\xff\xfe\x00",
    b"\\u0000\\ud800",
    b"\\",
    b"'",
    b'"',
    b"{" * 60,
    b"9" * 400,
    b"password=hunter22 ",
)
LOGS = st.lists(st.sampled_from(PIECES) | st.binary(max_size=12), max_size=20).map(b"".join)
CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
WIDEST = 1_000
SIZE = 400_000
HOSTILE = (
    b"[AUDIT-ERROR] x {\n",
    b"[AUDIT] x {\n  a: '",
    b"prisma:error ",
    b"a: '",
    b"a: 'b' +\n '",
    b"'\\",
    b"Error",
    b"Error: ",
    b"{",
    b'{"a":',
    b"550 5.",
    b"password",
    b"token:",
    b"a@",
    b"eyJ",
    b"?a=",
    b"\x1b[",
    b"2026-01-01T",
    b"' +\n ",
)
SLOW = f"""
from tasks.log_forms import from_audit, from_json, from_text
from tasks.log_scan import Scan
for piece in {HOSTILE!r}:
    for end in (b"", b"\\n", b"}}\\n"):
        data = b"\\n" + (piece * {SIZE})[:{SIZE}] + end
        Scan(0, 0).take(bytearray(data), len(data), final=True)
        for head in (b"", b"[AUDIT-ERROR] x {{\\n  a: '"):
            for read in (from_audit, from_text, from_json):
                try:
                    list(read(head + data[1:{LONGEST}]))
                except ValueError:
                    pass
"""


def flat(event: LogEvent) -> Iterator[object]:
    yield event.name
    yield event.level
    yield from event.fields.values()


@given(LOGS, st.integers(1, 400), st.booleans())
@bounds(max_examples=1_000, deadline=None)
def test_any_bytes_are_read_to_their_end_in_any_pieces(data: bytes, size: int, split: bool) -> None:
    now = time.time_ns() // 1_000_000
    scan, kept = Scan(now, now), bytearray(b"\n")
    for at in range(0, len(data), size if split else max(1, len(data))):
        kept += data[at : at + (size if split else len(data))]
        done = scan.take(kept, len(kept), final=False)
        assert 0 <= done <= len(kept)
        del kept[: max(0, done - 1)]
    before = len(kept)
    assert scan.take(kept, len(kept), final=True) <= before
    assert len(scan.events) <= data.count(b"\n") + len(data) // 4 + 2
    for event in scan.events:
        assert event.at_ms <= now
        for value in flat(event):
            assert not isinstance(value, str) or (len(value) < WIDEST and not CONTROL.search(value)), event
        assert "hunter22" not in str(event.fields)


@given(st.binary(max_size=400) | LOGS)
@bounds(max_examples=1_000, deadline=None)
def test_no_form_raises_but_a_value_error(block: bytes) -> None:
    starts_block(block)
    list(from_text(block))
    list(from_audit(block))
    with contextlib.suppress(ValueError):
        list(from_json(block))


@given(st.text() | st.integers() | st.floats() | st.booleans() | st.none() | st.binary())
def test_a_moment_is_a_number_or_nothing(value: object) -> None:
    assert isinstance(moment(value), int | None)


def test_no_log_makes_it_slow() -> None:
    """Quadratic time in any pattern is minutes for one of these; the bound only ends a test that would never end."""
    done = subprocess.run([sys.executable, "-c", SLOW], cwd=ROOT, timeout=240, check=False)
    assert done.returncode == 0
