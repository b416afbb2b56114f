"""One runbook's broken world, small enough to be made anew for every crash, and what was really done to it.

Effects are counted where they happen: rows by triggers, sessions and DDL by PostgreSQL's own log, requests by the
servers that took them, mails by the SMTP server, starts by what keeps processes running.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import psycopg
from sqlalchemy import select

from demo.database_faults import wait_until, waited, youngest_idle
from demo.deploy_server import Vercel
from demo.faults import Broken
from demo.memory_fleet import Fleet
from demo.openai_server import OpenAIServer
from demo.postgres import Postgres
from demo.scene import Scene
from demo.seed import seed
from demo.serving import Served
from demo.site_faults import break_app, break_shut
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


class Asked(NamedTuple):
    """A runbook that acts by a person's word only, here by one who agrees; ``once``: after one run of it."""

    runbook: str
    breaks: Callable[[Stack], Scene]
    once: bool = False


ASKED: Mapping[str, Asked] = {
    "site-down by a person": Asked("site-down", break_app),
    "site-down at its end": Asked("site-down", break_shut, once=True),
}
"""Beside the scenes of the demo, in which nobody is asked."""


@dataclass
class World:
    """A stack in which the faults of ``runbook`` are; ``run`` starts it in a process of its own.

    ``name`` is the row of the matrix, ``more`` are settings beside the stack's, ``exit`` is closed after it.
    """

    name: str
    stack: Stack
    broken: Broken | Scene
    exit: ExitStack
    since: int = 0
    numbers: Iterator[int] = field(default_factory=count)
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def runbook(self) -> str:
        return ASKED[self.name].runbook if self.name in ASKED else self.name

    @property
    def env(self) -> dict[str, str]:
        kept = {
            name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH") if name in os.environ
        }
        return kept | self.stack.env() | dict(self.more)

    def start(self, life: Life) -> tuple[BaseProcess, Path]:
        """A run that goes on by itself, and the folder it writes to."""
        folder = self.stack.folder / f"run-{next(self.numbers)}"
        asks = self.name in ASKED and life.mode == "auto"
        return child.start(self.runbook, self.env, folder, life._replace(mode="approve") if asks else life), folder

    def run(self, life: Life = Life()) -> Ended:  # noqa: B008 - a frozen value
        return child.result(*self.start(life))

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
        found.update(f"turned {line}" for line in self.stack.standin(Vercel).turned.read_text().splitlines())
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


def peopled(postgres: Postgres) -> None:
    """A cluster with the people every world has."""
    seed(postgres.url(), USERS, USERS)


@contextmanager
def world(name: str) -> Iterator[World]:
    """A stack of its own, broken for this runbook."""
    # Three Node processes are much where nobody asks for them.
    makers = [one for one in STANDINS if one is not Fleet or name == "memory-pressure"]
    with ExitStack() as exits:
        stack = exits.enter_context(
            Stack(lambda _said: None, prefect=False, users=USERS, subscriptions=USERS, standins=makers)
        )
        with psycopg.connect(stack.postgres.url(), autocommit=True) as owner:
            owner.execute(TRIGGERS)
        asked = ASKED.get(name)
        broken = asked.breaks(stack) if asked else Broken(stack, only=name, with_payment=True, drifted=6, undelivered=3)
        exits.callback(broken.close)
        here = World(name, stack, broken, exits)
        assert here.not_mended(), f"{name} has no fault to be killed at: add its scene to demo.faults.SCENES"
        if ready := READY.get(name):
            wait_until(lambda: ready(stack.postgres), "the faults to be old enough")
        if asked and asked.once:
            assert here.run().code == 0, f"{name}: the run before did not end"
        here.since = len((stack.postgres.data / "server.log").read_text(errors="replace"))
        yield here
