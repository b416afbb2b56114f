"""What is new in the app's log reaches the ledger once: both forms, rotation, truncation, crashes, rubbish, secrets."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runbook import memory, settings
from runbook.errors import BadSetting, NotConfigured, OutsideError
from runbook.ledger import ledger, now_ms
from runbook.memory import LogEvent
from tasks import log_command, logs
from tasks.app_log import read_refusals
from tasks.log_forms import REFUSED
from tasks.logs import LogRead, read_log
from tasks.webhook_log import read_webhook_errors

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


def at(ago: timedelta = timedelta(0)) -> str:
    return (NOW - ago).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def line(name: str, level: str = "warn", ago: timedelta = timedelta(minutes=1), **more: object) -> str:
    return json.dumps({"level": level, "time": at(ago), "msg": name, **more}) + "\n"


def block(name: str, severity: str = "WARNING", ago: timedelta = timedelta(minutes=1), details: str = "") -> str:
    return (
        f"[AUDIT-{severity}] {name} {{\n  timestamp: '{at(ago)}',\n  action: '{name}',\n  userId: 'anonymous',\n"
        f"  details: {{ {details} }},\n  severity: '{severity.lower()}'\n}}\n"
    )


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "app.log"
    path.touch()
    monkeypatch.setenv("RUNBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("RUNBOOK_LEDGER_URL", f"sqlite:///{tmp_path}/ledger.db")
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_live_never_to_be_seen_0123")
    monkeypatch.setenv("APP_LOG", str(path))
    monkeypatch.delenv("APP_LOG_COMMAND", raising=False)
    settings.forget()
    yield path
    settings.forget()


def kept() -> list[LogEvent]:
    with ledger().read() as connection:
        from runbook.schema import log_event

        names = {row.name for row in connection.execute(log_event.select())}
    return memory.events(ledger(), names, 0)


def counts() -> dict[str, int]:
    return dict(Counter(one.name for one in kept()))


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


async def test_both_forms_in_one_stream(log: Path) -> None:
    append(log, line("sendgrid_notification_failed", code=550, to="a@example.com"))
    append(log, block("rate_limit_exceeded", details="ip: '203.0.113.7', endpoint: '/api/career', count: 31"))
    append(log, line("server listening", level="info"))
    read = await read_log()
    sent, limited = kept()
    assert (sent.name, sent.level, sent.fields["code"]) == ("sendgrid_notification_failed", "warning", 550)
    assert limited.fields == {"ip": "203.0.113.7", "endpoint": "/api/career", "count": 31, "userId": "anonymous"}
    assert (read.events, read.malformed, read.bytes) == (2, 0, log.stat().st_size)


async def test_a_second_run_reads_only_what_is_new(log: Path) -> None:
    append(log, line("payment_failed"))
    await read_log()
    before = log.stat().st_size
    append(log, line("ip_blocked"))
    read = await read_log()
    assert (read.bytes, read.events) == (log.stat().st_size - before, 1)
    assert (await read_log()) == LogRead()
    assert counts() == {"payment_failed": 1, "ip_blocked": 1}


async def test_a_line_that_is_still_being_written_waits(log: Path) -> None:
    text = line("payment_failed")
    append(log, text[:30])
    assert (await read_log()).events == 0
    append(log, text[30:])
    assert (await read_log()).events == 1


async def test_a_block_that_is_still_being_written_waits(log: Path) -> None:
    text = block("rate_limit_exceeded", details="ip: '203.0.113.7'")
    append(log, text[:60])
    await read_log()
    append(log, text[60:])
    await read_log()
    assert [one.fields["ip"] for one in kept()] == ["203.0.113.7"]


async def test_rotation_loses_nothing(log: Path) -> None:
    append(log, line("payment_failed"))
    await read_log()
    append(log, line("ip_blocked"))
    log.rename(log.with_name("app.log.1"))
    log.write_text(line("soft_throttle"))
    read = await read_log()
    assert counts() == {"payment_failed": 1, "ip_blocked": 1, "soft_throttle": 1}
    assert read.notes == (f"{log}: rotated",)


async def test_copy_and_truncate_loses_nothing(log: Path) -> None:
    append(log, line("payment_failed", note="x" * 400))
    await read_log()
    append(log, line("ip_blocked"))
    log.with_name("app.log.1").write_bytes(log.read_bytes())
    os.truncate(log, 0)
    append(log, line("soft_throttle"))
    await read_log()
    assert counts() == {"payment_failed": 1, "ip_blocked": 1, "soft_throttle": 1}


async def test_truncation_without_a_copy_is_told(log: Path) -> None:
    append(log, line("payment_failed", note="x" * 400))
    await read_log()
    os.truncate(log, 0)
    append(log, line("soft_throttle"))
    read = await read_log()
    assert counts() == {"payment_failed": 1, "soft_throttle": 1}
    assert any("truncated" in note for note in read.notes)


async def test_another_file_of_the_same_length_is_not_gone_on_with(log: Path) -> None:
    append(log, line("payment_failed"))
    await read_log()
    text = line("webhook_fails_")
    assert len(text) == log.stat().st_size
    log.write_text(text)
    await read_log()
    assert counts() == {"payment_failed": 1, "webhook_fails_": 1}


@pytest.mark.parametrize(
    ("rubbish", "malformed"),
    [
        ('{"level":"error","time":\n', 1),
        ("{}{}{}\n", 1),
        ("\x00\x01\x02\xff\n", 0),
        ('{"level":"error","msg":' + "[" * 50_000 + "\n", 1),
        ('{"level":"error","time":"9999-99-99T00:00:00Z","msg":["a"]}\n', 0),
        ("[AUDIT-ERROR] \n", 0),
        ("[AUDIT-ERROR] ip_blocked {\n" + line("soft_throttle"), 1),
    ],
    ids=range(7),
)
async def test_rubbish_is_counted_and_what_follows_it_is_read(log: Path, rubbish: str, malformed: int) -> None:
    append(log, rubbish)
    append(log, line("payment_failed"))
    read = await read_log()
    assert counts()["payment_failed"] == 1
    assert read.malformed == malformed


async def test_a_line_of_10_mb_is_skipped_and_told(log: Path) -> None:
    append(log, line("payment_failed") + '{"level":"error","msg":"' + "x" * 10_000_000 + '"}\n' + line("ip_blocked"))
    read = await read_log()
    assert counts() == {"payment_failed": 1, "ip_blocked": 1}
    assert "1 lines too long, skipped" in read.notes


async def test_one_failure_in_both_forms_is_one_event(log: Path) -> None:
    append(log, line("rate_limit_exceeded", ip="203.0.113.7") + block("rate_limit_exceeded", details="count: 31"))
    append(log, line("rate_limit_exceeded", ip="198.51.100.9"))
    read = await read_log()
    assert [one.fields["ip"] for one in kept()] == ["203.0.113.7", "198.51.100.9"]
    assert kept()[0].fields["count"] == 31
    assert "1 doubles collapsed" in read.notes


async def test_the_same_name_twice_in_one_form_is_two(log: Path) -> None:
    append(log, line("payment_failed") * 2)
    await read_log()
    assert counts() == {"payment_failed": 2}


async def test_secrets_do_not_reach_the_ledger(log: Path, tmp_path: Path) -> None:
    jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefghijkl"
    append(log, line("webhook_handler_error", level="error", error="key sk_live_never_to_be_seen_0123 refused"))
    append(log, line("webhook_handler_error", level="error", error=f"Authorization: Bearer {jwt} password=hunter22 x"))
    append(log, block("ai_attempt_failed", details="error: 'https://host/?token=tokenvalue1', path: '/a?key=value9'"))
    await read_log()
    everything = b"".join(path.read_bytes() for path in tmp_path.glob("ledger.db*"))
    for secret in (b"never_to_be_seen", jwt.encode(), b"hunter22", b"tokenvalue1", b"value9"):
        assert secret not in everything
    assert counts() == {"webhook_handler_error": 2, "ai_attempt_failed": 1}


async def test_old_lines_and_lines_from_the_future(log: Path) -> None:
    append(log, line("payment_failed", ago=timedelta(hours=memory.KEEP_HOURS + 1)))
    append(log, line("ip_blocked", ago=-HOUR))
    read = await read_log()
    assert counts() == {"ip_blocked": 1}
    assert kept()[0].at_ms <= now_ms()
    assert any("clock is ahead" in note for note in read.notes)


async def test_the_first_reading_of_a_large_file_takes_its_end(log: Path) -> None:
    append(log, line("payment_failed") * 20_000 + line("ip_blocked"))
    read = await read_log(1 << 20)
    assert read.bytes <= 1 << 20
    assert counts()["ip_blocked"] == 1
    assert any("its last 1 MiB" in note for note in read.notes)


async def test_a_crash_between_two_batches_doubles_and_loses_nothing(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(log, "".join(line("payment_failed", n=number) for number in range(60_000)))
    saved = logs.Batches.save

    def once(batches: logs.Batches, *what: object) -> None:
        saved(batches, *what)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(logs.Batches, "save", once)
    with pytest.raises(KeyboardInterrupt):
        logs._read((log,), "", logs.FIRST_BYTES)
    monkeypatch.setattr(logs.Batches, "save", saved)
    assert 0 < counts()["payment_failed"] < 60_000
    await read_log()
    assert counts() == {"payment_failed": 60_000}


async def test_two_readers_at_once_bring_everything_once(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(log, line("payment_failed") * 100)
    await read_log()
    append(log, line("ip_blocked") * 100)
    saved, first = logs.Batches.save, [True]

    def overtaken(batches: logs.Batches, *what: object) -> None:
        if first.pop() if first else False:
            logs._read((log,), "", logs.FIRST_BYTES)
        saved(batches, *what)  # type: ignore[arg-type]

    monkeypatch.setattr(logs.Batches, "save", overtaken)
    await read_log()
    assert counts() == {"payment_failed": 100, "ip_blocked": 100}


async def test_memory_is_flat(log: Path) -> None:
    text = "".join(line("server listening", level="info", n=number) for number in range(10_000))
    append(log, text)
    await read_log()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with log.open("a") as file:
        for _ in range(200):
            file.write(text)
    read = await read_log()
    assert read.bytes == 200 * len(text)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000


async def test_without_a_log_it_is_not_configured(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APP_LOG")
    settings.forget()
    with pytest.raises(NotConfigured, match="APP_LOG"):
        await read_log()


async def test_files_that_cannot_be_read_are_named_and_the_others_read(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(log, line("payment_failed"))
    pipe = log.with_name("pipe")
    os.mkfifo(pipe)
    monkeypatch.setenv("APP_LOG", f"{log.with_name('gone.log')},{pipe},{log}")
    settings.forget()
    read = await read_log()
    assert counts() == {"payment_failed": 1}
    assert len(read.notes) == 2
    monkeypatch.setenv("APP_LOG", str(log.with_name("gone.log")))
    settings.forget()
    with pytest.raises(OutsideError, match=r"gone\.log: No such file"):
        await read_log()


# -- a command in place of a file -----------------------------------------------------------------------------------

JOURNAL = """
import datetime, json, sys
since, until = map(int, sys.argv[1:3])
for second in map(int, open(sys.argv[3]).read().split()):
    if since <= second < until:
        time = datetime.datetime.fromtimestamp(second, datetime.timezone.utc).isoformat()
        print(json.dumps({"level": "error", "time": time, "msg": "payment_failed", "code": second}), flush=True)
"""


@pytest.fixture
def journal(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of Unix seconds at which something was logged; the command prints those of a span."""
    (tmp_path / "journal.py").write_text(JOURNAL)
    written = tmp_path / "journal.txt"
    monkeypatch.delenv("APP_LOG")
    monkeypatch.setenv("APP_LOG_COMMAND", f"{sys.executable} {tmp_path}/journal.py {{since}} {{until}} {written}")
    settings.forget()
    return written


async def test_a_command_is_read_once_span_by_span(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = now_ms() // 1000
    journal.write_text(" ".join(str(begin + delta) for delta in range(-600, 600, 10)))
    for later in (0, 60, 60, 300):
        monkeypatch.setattr(logs, "now_ms", lambda later=later: (begin + later) * 1000)
        await read_log()
    monkeypatch.undo()
    seen = [int(str(one.fields["code"])) - begin for one in kept()]
    assert seen == list(range(-600, 300 - log_command.SETTLE_SECONDS, 10))


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("journalctl -u app", BadSetting),
        ("journalctl '{since} {until}", BadSetting),
        ("journalctl {since} {until} {other}", BadSetting),
        ("no-such-program {since} {until}", OutsideError),
        ("false {since} {until}", OutsideError),
    ],
)
async def test_a_command_that_does_not_do_it_is_named(
    journal: Path, monkeypatch: pytest.MonkeyPatch, command: str, error: type[Exception]
) -> None:
    monkeypatch.setenv("APP_LOG_COMMAND", command)
    settings.forget()
    with pytest.raises(error, match="APP_LOG_COMMAND"):
        await read_log()
    assert kept() == []


# -- what runbooks ask of it ----------------------------------------------------------------------------------------

MESSAGE = "timeout exceeded when trying to connect"
JUST, BEFORE = timedelta(minutes=1), timedelta(minutes=10)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (f'{{"level":"error","time":"{at(JUST)}","msg":"{MESSAGE}"}}\n', {MESSAGE: 1}),
        (f'{{"level":"error","time":"{at(BEFORE)}","msg":"{MESSAGE}"}}\n', {}),
        (f"{at(JUST)} prisma:error\nToo many database connections opened\n", {"too many database connections": 1}),
        (f"{at(BEFORE)} prisma:error\nToo many database connections opened\n", {}),
        (f"{at(JUST)} code: 'P2024'\n{at(JUST)} code: 'P2024'\n", {"p2024": 2}),
        (f"{at(JUST)} request P20245 took 2024 ms, 5 connections\n", {}),
    ],
    ids=range(6),
)
async def test_which_lines_are_a_refused_connection(log: Path, text: str, refused: dict[str, int]) -> None:
    append(log, text)
    assert await read_refusals(NOW - timedelta(minutes=5)) == refused


async def test_a_log_without_any_time_is_as_old_as_its_last_write(log: Path) -> None:
    append(log, "prisma:error P2024\n")
    os.utime(log, (NOW.timestamp() - 600,) * 2)
    assert await read_refusals(NOW - timedelta(minutes=5)) == {}
    assert [one.name for one in kept()] == [REFUSED]


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        (line("webhook_handler_error"), {"webhook_handler_error": 1}),
        (line("webhook_handler_error", ago=2 * HOUR), {}),
        (block("webhook_verification_failed"), {"webhook_verification_failed": 1}),
        (line("webhook_handler_error") + block("webhook_handler_error"), {"webhook_handler_error": 1}),
        (line("sendgrid_notification_failed") + block("rate_limit_exceeded"), {}),
        ("{broken webhook_handler_error\n", {}),
        (f"prose about webhook_handler_error at {at()}\n", {}),
    ],
    ids=range(7),
)
async def test_which_lines_are_a_webhook_error(log: Path, text: str, counted: dict[str, int]) -> None:
    append(log, text)
    assert await read_webhook_errors((NOW - HOUR).timestamp()) == counted
