"""Which of the stored hooks Prefect hears of, where ``[cooldown.NAME]`` of runbook.toml bounds them for each target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, RowMapping, or_, select, update

from runbook import memory
from runbook.cooldown import Rule, decide, rule_of
from runbook.ledger import Ledger, now_ms
from runbook.schema import hook, memo

AT_ONCE = 20_000
"""Hooks one look takes in; a longer storm is worked off in several."""


class Cooled(NamedTuple):
    """The hooks to tell, by number; how many were dropped, how many wait; when to look again, in Unix ms."""

    tell: Sequence[int]
    dropped: int
    held: int
    again_at_ms: int | None


def settle(ledger: Ledger, rules: Mapping[str, Rule]) -> Cooled:
    """Choose, for each target with a rule, the hook to tell, and drop those it stands for.

    The choice is written before anything is told, so that whoever dies in between tells the same one again.
    """
    names = [*rules, *(f"runbook.{name}" for name in rules)]
    ours = or_(hook.c.event.in_(names), hook.c.resource.in_(names))
    rule = select(hook.c.seq, hook.c.event, hook.c.resource, hook.c.received_at_ms)
    rule = rule.where(hook.c.handled_at_ms.is_(None), ours).order_by(hook.c.seq).limit(AT_ONCE)
    chosen, dropped, held, again = list[int](), 0, 0, list[int]()
    with ledger.write() as connection:
        groups: dict[tuple[str, str], list[RowMapping]] = {}
        for row in connection.execute(rule).mappings():
            groups.setdefault((row["event"], row["resource"]), []).append(row)
        for (event, resource), rows in groups.items():
            bound = rule_of(dict(rules), event, resource)
            if bound is None:
                chosen += [row["seq"] for row in rows]
                continue
            picked, gone, at = _one(connection, f"cooldown {event} {resource}"[:255], bound, rows)
            chosen, dropped, again = chosen + picked, dropped + gone, again + at
            held += 0 if picked else len(rows) - gone
    return Cooled(chosen, dropped, held, min(again, default=None))


def _one(connection: Connection, key: str, bound: Rule, rows: Sequence[RowMapping]) -> tuple[list[int], int, list[int]]:
    last = connection.execute(select(memo.c.body).where(memo.c.key == key)).scalar_one_or_none() or {}
    if any(row["seq"] == last.get("seq") for row in rows):
        return [last["seq"]], 0, []  # chosen before, and not told yet
    now = now_ms()
    said = decide(bound, [row["received_at_ms"] for row in rows], last.get("at_ms"), now)
    if said.drop:
        gone = hook.c.seq.in_([row["seq"] for row in rows[: said.drop]])
        connection.execute(
            update(hook).where(gone).values(handled_at_ms=hook.c.received_at_ms)
        )  # not told: see Store.drop
    if said.tell:
        memory.put(connection, key, {"at_ms": now, "seq": rows[-1]["seq"]})
    return (
        [rows[-1]["seq"]] if said.tell else [],
        said.drop,
        [said.again_at_ms] if said.again_at_ms is not None else [],
    )
