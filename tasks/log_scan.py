"""Finds what is worth keeping in the bytes of a log, without looking at each line, and collapses doubles. Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator

from runbook.memory import KEEP_HOURS, LogEvent
from tasks.log_forms import (
    IDENTIFYING,
    KEPT_INFO,
    TIME,
    Record,
    from_audit,
    from_json,
    from_text,
    moment,
    starts_block,
)

LONGEST = 256 * 1024
"""A longer line is skipped, a longer audit block is cut short, in bytes."""

RAW_BLOCK = 8 * 1024
NEAR = 4 * 1024
DOUBLE_MS = 1000
FUTURE_MS = 60_000

_kept = "|".join(sorted(KEPT_INFO)).encode()
CANDIDATE = re.compile(
    rb"\n(?!"
    # what nobody counts: an info line in its usual order, the inside of a block, an audit block of no interest
    rb'\{"level": ?"(?:info|debug|trace)", ?"time": ?"[^"\n]*", ?"msg": ?"(?!(?:' + _kept + rb')")|'
    rb"  |[\t}\r\n]|\[AUDIT\] (?!(?:" + _kept + rb") )\w+ \{\r?\n)"
)
BLOCK_END = re.compile(rb'\n(?:\}(?=\r?\n)|(?=\{"|\[AUDIT))')
RAW_END = re.compile(rb'\n(?=\{"|\[AUDIT|prisma:error|\[next-auth\]|\d{4}-\d\d-\d\d[T ]|[A-Z]\w*Error\b|<---)')


class Scan:
    """One pass over one stream; ``events`` grows until the caller takes them out.

    ``now`` is when it is read, ``written_ms`` when it was last written: what has no time and nothing later behind it is
    that old.
    """

    def __init__(self, now_ms: int, written_ms: int) -> None:
        self.now_ms, self.written_ms = now_ms, min(written_ms, now_ms)
        self.events: list[LogEvent] = []
        self.counts = Counter[str]()
        self._recent: dict[str, deque[_Group]] = defaultdict(lambda: deque(maxlen=16))

    def take(self, data: bytearray, size: int, *, final: bool) -> int:
        """Keep what is new in ``data[:size]``, whose first byte is the line feed before it; the bytes done with.

        A block that does not end in it is left for the next time, unless this is the ``final`` piece of its file.
        """
        last = data.rfind(b"\n", 0, size)
        done = 0
        for hit in CANDIDATE.finditer(data, 0, last):
            start = hit.end()
            if start < done:
                continue
            end, read = _extent(data, start, last, final)
            if end < 0:
                return start
            self._keep(read, data, start, end, last)
            done = end
        return last + 1

    def _keep(
        self, read: Callable[[bytes], Iterator[Record]], data: bytearray, start: int, end: int, last: int
    ) -> None:
        if end - start > LONGEST:
            self.counts["huge"] += 1
            return
        try:
            for record in read(bytes(data[start:end])):
                self._add(record, record.at_ms if record.at_ms is not None else self._near(data, start, end, last))
        except ValueError:
            self.counts["malformed"] += 1

    def _near(self, data: bytearray, start: int, end: int, last: int) -> int:
        after = TIME.search(data, end, min(last, end + NEAR))
        if after is None:
            return self.written_ms
        before = TIME.findall(data, max(0, start - NEAR), start)
        at = moment((before[-1] if before else after[0]).decode())
        return self.written_ms if at is None else at

    def _add(self, record: Record, at_ms: int) -> None:
        if at_ms > self.now_ms:
            self.counts["ahead"] += at_ms > self.now_ms + FUTURE_MS
            at_ms = self.now_ms
        if at_ms < self.now_ms - KEEP_HOURS * 3_600_000:
            return
        groups = self._recent[record.name]
        for group in groups:
            if group.joins(record, at_ms):
                self.counts["doubles"] += 1
                return
        groups.append(_Group(record, at_ms))
        # Not validated, which would copy: a double that follows adds to these very fields.
        self.events.append(
            LogEvent.model_construct(name=record.name, at_ms=at_ms, level=record.level, fields=record.fields)
        )


class _Group:
    """One failure, in at most one record of each form."""

    __slots__ = ("at_ms", "fields", "forms")

    def __init__(self, record: Record, at_ms: int) -> None:
        self.at_ms, self.forms, self.fields = at_ms, {record.form}, record.fields

    def joins(self, record: Record, at_ms: int) -> bool:
        """True when ``record`` says the same once more; what only it says is kept too."""
        if record.form in self.forms or abs(at_ms - self.at_ms) > DOUBLE_MS:
            return False
        ours, theirs = self.fields, record.fields
        for key in IDENTIFYING:
            if (
                key in ours
                and key in theirs
                and ours[key] != theirs[key]
                and "anonymous" not in (ours[key], theirs[key])
            ):
                return False
        self.forms.add(record.form)
        for key, value in theirs.items():
            if ours.get(key) in (None, "anonymous"):
                ours[key] = value
        return True


def _extent(data: bytearray, start: int, last: int, final: bool) -> tuple[int, Callable[[bytes], Iterator[Record]]]:
    """Where the record that starts here ends, or -1 where its end is still to be written, and who reads it."""
    line = data.find(b"\n", start, last + 1)
    if data[start] == 0x7B:
        return line, from_json
    if data.startswith(b"[AUDIT", start):
        if not data[start:line].rstrip().endswith(b"{"):
            return line, from_audit
        found = BLOCK_END.search(data, line, min(last + 1, start + LONGEST))
        if found:
            return found.end(), from_audit if found.end() > found.start() + 1 else _cut_short
        waits = not final and last - start < LONGEST
        return (-1 if waits else line), _cut_short
    if line - start <= NEAR and starts_block(bytes(data[start:line])):
        found = RAW_END.search(data, line, min(last, start + RAW_BLOCK))
        return (found.start() if found else min(last, start + RAW_BLOCK)), from_text
    return line, _line


def _line(text: bytes) -> Iterator[Record]:
    return from_text(text)


def _cut_short(block: bytes) -> Iterator[Record]:
    yield from from_audit(block)
    raise ValueError("its end is missing")
