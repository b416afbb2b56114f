"""What is remembered between runs, on both databases."""

from __future__ import annotations

from runbook import memory
from runbook.ledger import Ledger, now_ms
from runbook.memory import LogEvent


def test_a_state_is_replaced_and_seen_by_others(book: Ledger, ledger_url: str) -> None:
    assert memory.recall(book, "alert/disk") is None
    memory.remember(book, "alert/disk", {"firing": True})
    memory.remember(book, "alert/disk", {"firing": False})
    assert memory.recall(Ledger(ledger_url), "alert/disk") == {"firing": False}


def test_old_memories_under_one_prefix_are_dropped(book: Ledger) -> None:
    for key in ("kept_rows/1", "keptxrows/2", "other"):
        memory.remember(book, key, {})
    memory.drop_old(book, "kept_rows/", 1)
    assert memory.recall(book, "kept_rows/1") == {}
    memory.drop_old(book, "kept_rows/", -1)
    assert memory.recall(book, "kept_rows/1") is None
    assert memory.recall(book, "keptxrows/2") == memory.recall(book, "other") == {}


def test_a_series_is_in_order_and_bounded_by_time(book: Ledger) -> None:
    for value in (0.2, 0.4):
        memory.measure(book, {"pool_used_share": value, "drift_rows": 0})
    assert [value for _at, value in memory.series(book, "pool_used_share", 0)] == [0.2, 0.4]
    assert memory.series(book, "pool_used_share", now_ms() + 60_000) == []


def test_events_come_back_by_name_and_age_and_old_ones_are_pruned(book: Ledger) -> None:
    now = now_ms()
    old = now - (memory.KEEP_HOURS + 1) * 3_600_000
    made = [
        LogEvent(name=name, at_ms=at, level="warning", fields={"ip": "203.0.113.7"})
        for name, at in (("ip_blocked", now - 10), ("ip_blocked", now - 20), ("other", now), ("ip_blocked", old))
    ]
    with book.write() as connection:
        memory.keep(connection, made)
    assert [one.at_ms for one in memory.events(book, {"ip_blocked"}, 0)] == [now - 20, now - 10]
    assert memory.events(book, {"ip_blocked"}, now - 15) == [made[0]]
    assert memory.events(book, set(), 0) == []


def test_a_crash_keeps_neither_events_nor_cursor(book: Ledger) -> None:
    event = LogEvent(name="ip_blocked", at_ms=now_ms(), level="warning", fields={})
    try:
        with book.write() as connection:
            memory.keep(connection, [event])
            memory.put(connection, "log/app.log", {"offset": 10})
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert memory.events(book, {"ip_blocked"}, 0) == []
    assert memory.recall(book, "log/app.log") is None
