"""One runbook's broken world, small enough to be made anew for every crash, and what was really done to it.

Effects are counted where they happen: rows by triggers, sessions and DDL by PostgreSQL's own log, requests by the
servers that took them, mails by the SMTP server, starts by what keeps processes running.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg
from sqlalchemy import select

from demo.database_faults import wait_until, waited, youngest_idle
from demo.faults import Broken
from demo.memory_fleet import Fleet
from demo.openai_server import OpenAIServer
from demo.postgres import Postgres
from demo.serving import Served
from demo.smtp_server import SmtpServer
from demo.stack import STANDINS, Stack
from runbook import chain
from runbook.errors import NotPermitted
from runbook.ledger import Ledger, as_fix
from runbook.model import Fix, FixState
from runbook.permit import Permit
from runbook.schema import entry
from runbook.schema import fix as table
from tests.chaos import child
from tests.chaos.child import Ended, Life

USERS = 3_000
"""As few as every scene does with."""

# What a runbook asks for by POST only to see something, or to tell a person, who may well hear it twice.
NO_EFFECT = re.compile(
    r"/v3/mail/send|/chat/completions|/api/auth/|/api/subscription/webhook|chat\.postMessage|/v2/enqueue|/services/"
)
SETTLES = (FixState.intended.value, FixState.applied.value)
DDL = re.compile(r"\[\d+\] LOG:  (?:statement|execute [^:]*): (?P<said>(?:CREATE|DROP|ALTER)\b.*)")
ENDED = re.compile(r"\[(?P<pid>\d+)\] (?:FATAL|ERROR):  (?P<said>terminating connection due to administrator command|"
                   r"canceling statement due to user request)")  # fmt: skip
TRIGGERS = """
CREATE SCHEMA chaos;
CREATE TABLE chaos.effect (id bigserial PRIMARY KEY, said text NOT NULL);
CREATE FUNCTION chaos.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF session_user LIKE 'runbook%' THEN
    INSERT INTO chaos.effect (said) SELECT format('%s %s %s', TG_OP, TG_TABLE_NAME,
      coalesce(CASE WHEN TG_OP = 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END ->> 'id', '?'));
  END IF;
  RETURN NULL;
END $$;
DO $$ DECLARE one record; BEGIN
  FOR one IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
    EXECUTE format('CREATE TRIGGER chaos AFTER INSERT OR UPDATE OR DELETE ON public.%I
      FOR EACH ROW EXECUTE FUNCTION chaos.note()', one.tablename);
  END LOOP;
END $$;
ALTER DATABASE app SET log_statement = 'ddl';
"""


def _pool_is_old(postgres: Postgres) -> bool:
    return youngest_idle(postgres) > 1 and waited(postgres) > 1


READY: Mapping[str, Callable[[Postgres], bool]] = {"pool-exhaustion": _pool_is_old}
"""What a fault must come to before it counts as one."""


@dataclass
class World:
    """A stack in which the faults of ``runbook`` are; ``run`` starts it in a process of its own."""

    runbook: str
    stack: Stack
    broken: Broken
    since: int
    numbers: Iterator[int]
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        kept = {
            name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH") if name in os.environ
        }
        return kept | self.stack.env() | dict(self.more)

    def folder(self) -> Path:
        return self.stack.folder / f"run-{next(self.numbers)}"

    def run(self, life: Life = Life()) -> Ended:  # noqa: B008 - a frozen value
        folder = self.folder()
        return child.result(child.start(self.runbook, self.env, folder, life), folder)

    def ledger(self) -> Ledger:
        return Ledger(self.env["RUNBOOK_LEDGER_URL"])

    # -- what it came to ------------------------------------------------------------------------------------------

    def not_mended(self) -> list[str]:
        return [one.name for one in self.broken.faults if one.runbook == self.runbook and not one.mended()]

    def effects(self) -> Counter[str]:
        """How often each thing was done to each target."""
        found = self._in_the_log()
        with psycopg.connect(self.stack.postgres.url(), autocommit=True) as owner:
            found.update(said for (said,) in owner.execute("SELECT said FROM chaos.effect").fetchall())
        for one in (self.stack.stripe, self.stack.app, *self.stack.standins):
            served = getattr(one, "_served", None)
            acts = served.acts if isinstance(served, Served) else {}
            found.update({what: times for what, times in acts.items() if not NO_EFFECT.search(what)})
        found.update(f"webhook {one}" for one in self.stack.app.received)
        found.update({f"charge {bill}": times for bill, times in self.stack.stripe.store.tries.items()})
        found.update(f"mail to {', '.join(to)}" for to in self.stack.standin(SmtpServer).mails)
        found.update(f"queued {name}" for name in self.stack.standin(OpenAIServer).queue.read_text().split())
        found.update(f"packed {path.name}" for path in self.stack.logs.glob("*.gz"))
        for fleet in (one for one in self.stack.standins if isinstance(one, Fleet) and one.there):
            for one in (*fleet.instances, fleet.stranger):
                found[f"restart of the instance on {one.port}"] += one.starts - 1
        return found

    def _in_the_log(self) -> Counter[str]:
        text = (self.stack.postgres.data / "server.log").read_text(errors="replace")[self.since :]
        found = Counter(match["said"].strip() for match in DDL.finditer(text) if "chaos" not in match["said"])
        found.update(f"{match['said']} [{match['pid']}]" for match in ENDED.finditer(text))
        return found

    def wrong(self) -> list[str]:
        """All that must not be, after a crash and the next run: see the module and ``make chaos``."""
        problems = [f"{what}: {times} times" for what, times in self.effects().items() if times > 1]
        problems += [f"touched: {one.name}" for one in self.broken.lookalikes if not one.untouched()]
        book = self.ledger()
        try:
            return problems + _of_ledger(book)
        finally:
            book.engine.dispose()

    def unseen(self) -> list[str]:
        """Fixes that were looked for and could not be seen, in words."""
        book = self.ledger()
        looked = select(entry.c.fix_id).where(entry.c.kind == "unseen")
        rule = select(table.c.action, table.c.target).where(table.c.state.in_(SETTLES), table.c.id.in_(looked))
        try:
            with book.read() as connection:
                return [f"{one.action} {one.target}" for one in connection.execute(rule)]
        finally:
            book.engine.dispose()


def _of_ledger(book: Ledger) -> list[str]:
    with book.read() as connection:
        checked = chain.verify(connection)
        rows = connection.execute(select(table).order_by(table.c.seq)).mappings().all()
    open_ones = {FixState.granted.value, *SETTLES}
    problems = [f"the chain is broken at {checked.broken}"] if checked.broken else []
    problems += [f"left {one['state']}: {one['action']} {one['target']}" for one in rows if one["state"] in open_ones]
    problems += [f"usable again: {one.id} {one.action}" for one in map(as_fix, rows) if _opens(book, one)]
    return problems


def _opens(book: Ledger, one: Fix) -> bool:
    try:
        with Permit(book, [one]).attempt(one):
            return True
    except NotPermitted:
        return False


@contextmanager
def world(runbook: str) -> Iterator[World]:
    """A stack of its own, broken for this runbook."""
    # Three Node processes are much where nobody asks for them.
    makers = [one for one in STANDINS if one is not Fleet or runbook == "memory-pressure"]
    with Stack(lambda _said: None, prefect=False, users=USERS, subscriptions=USERS, standins=makers) as stack:
        with psycopg.connect(stack.postgres.url(), autocommit=True) as owner:
            owner.execute(TRIGGERS)
        broken = Broken(stack, only=runbook, with_payment=True, drifted=6, undelivered=3)
        try:
            mine = any(one.runbook == runbook for one in broken.faults)
            assert mine, f"{runbook} has no fault to be killed at: add its scene to demo.faults.SCENES"
            if ready := READY.get(runbook):
                wait_until(lambda: ready(stack.postgres), "the faults to be old enough")
            since = len((stack.postgres.data / "server.log").read_text(errors="replace"))
            yield World(runbook, stack, broken, since, count())
        finally:
            broken.close()
