"""Production pointed at another deployment: what keeps it from being, the act, and the proof.

Vercel's API where ``VERCEL_TOKEN`` is set, else ``RUNBOOK_ROLLBACK_COMMAND``.
"""

from __future__ import annotations

import asyncio
import time
from typing import LiteralString
from urllib.parse import quote

from psycopg import errors, sql

from runbook.errors import BadSetting, OutsideError
from runbook.model import Fix, Frozen, Proof, Risk
from runbook.permit import Permit
from runbook.settings import profile, settings
from runbook.step import hand, reader
from tasks import commands
from tasks.database import connect, identifier
from tasks.deploys import Deploys, current, vercel

POINT = "RUNBOOK_ROLLBACK_COMMAND"
TARGET = "production deployment"
ROLL_BACK, PROMOTE = "roll_back", "promote_deployment"
PROVE_SECONDS = 90.0
STEP_SECONDS = 1.0


class Migrations(Frozen):
    """The migrations that lie between two deployments by name; ``unread`` is why nobody can say."""

    names: tuple[str, ...] = ()
    unread: str = ""


# -- migrations -------------------------------------------------------------------------------------------------------

BETWEEN: LiteralString = """
SELECT {name} AS name FROM {table} WHERE {rolled_back} IS NULL
   AND ({finished} IS NULL OR {finished} > to_timestamp(%s) OR {started} > to_timestamp(%s))
 ORDER BY {started}"""


@reader("read the migrations since the deployment before")
async def read_migrations(since_ms: int) -> Migrations:
    """Those begun or ended after ``since_ms``, or not ended at all: the older code does not know their schema.

    Source: Prisma's ``_prisma_migrations``. Never raises for a database that cannot be read: it says so.
    """
    return await _migrations(since_ms)


async def _migrations(since_ms: int) -> Migrations:
    tables = profile().tables
    query = sql.SQL(BETWEEN).format(
        table=identifier(tables.db_schema, tables.migration),
        name=identifier(tables.migration_name),
        started=identifier(tables.migration_started),
        finished=identifier(tables.migration_finished),
        rolled_back=identifier(tables.migration_rolled_back),
    )
    moment = since_ms / 1000
    try:
        async with connect() as connection:
            try:
                rows = await connection.execute(query, (moment, moment))
            except (errors.UndefinedTable, errors.InsufficientPrivilege) as error:
                return Migrations(unread=str(error).splitlines()[0])
            return Migrations(names=tuple(row["name"] for row in await rows.fetchall()))
    except (OutsideError, BadSetting) as error:
        return Migrations(unread=str(error))


# -- pointing production ----------------------------------------------------------------------------------------------


def why_not(found: Deploys, migrations: Migrations) -> str:
    """What keeps production from being pointed back, or ''."""
    if found.rolled_back:
        return f"production was pointed back to {found.live.id} already"
    if found.before is None:
        return "there is no deployment before it"
    if migrations.names:
        names = ", ".join(migrations.names)
        return f"migrations lie between it and {found.before.id}, whose code does not know them: {names}"
    if found.pending:
        return f"deployment {found.pending} is on its way"
    if settings().vercel_token or settings().runbook_rollback_command:
        return ""
    return f"not configured: VERCEL_TOKEN or {POINT}"


def roll_back_fix(found: Deploys, migrations: Migrations, why: str) -> Fix | None:
    """Point production at what was live before; None where something keeps it from being.

    Where nobody can say whether migrations lie between, a person decides.
    """
    if found.before is None or why_not(found, migrations):
        return None
    return Fix(
        action=ROLL_BACK,
        target=TARGET,
        risk=Risk.person if migrations.unread else Risk.guarded,
        why=f"{why}; migrations could not be read ({migrations.unread})" if migrations.unread else why,
        undo=f"promote {found.live.id} again",
        expect={"deployment": found.live.id, "since_ms": found.before.at_ms},
        want={"deployment": found.before.id},
    )


def undo_point(fix: Fix) -> Fix:
    """Production pointed at the deployment it had."""
    back = {"action": PROMOTE, "expect": {"deployment": fix.want["deployment"]}, "why": f"undo of {fix.id}"}
    return fix.model_copy(update=back | {"want": {"deployment": fix.expect["deployment"]}})


@hand("point production at {fix.want[deployment]}")
async def point_production(fix: Fix, permit: Permit) -> None:
    """Roll back or promote, if production is still where it was read and nothing has come between."""
    wanted = str(fix.want["deployment"])
    with permit.attempt(fix) as attempt:
        now = await current()
        if now.live.id != fix.expect["deployment"] or now.pending:
            on_its_way = f"deployment {now.pending} is on its way" if now.pending else f"{now.live.id} is live by now"
            attempt.moved_on(on_its_way)
            return
        if fix.action == ROLL_BACK and (between := (await _migrations(int(fix.expect["since_ms"]))).names):
            attempt.moved_on(f"migrations lie between: {', '.join(between)}")
            return
        try:
            attempt.did(said=await _point(fix.action, wanted))
        except BadSetting as no:
            attempt.failed(str(no))


async def _point(action: str, wanted: str) -> str:
    if settings().vercel_token:
        project = quote(str(settings().vercel_project_id), safe="")
        way = f"/v1/projects/{project}/rollback" if action == ROLL_BACK else f"/v10/projects/{project}/promote"
        answer = await vercel("POST", f"{way}/{quote(wanted, safe='')}")
        return f"Vercel took it ({answer.status})"
    ran = await commands.run(POINT, deployment=wanted)
    if ran.code:  # it may have done its work all the same: what is live is read again
        raise OutsideError(POINT, f"ended with {ran.code}: {ran.said[-200:]}", f"run {POINT} by hand")
    return ran.said[-200:]


@reader("look which deployment is live")
async def look_up_live(fix: Fix) -> Proof:
    """Whether production is where the fix wanted it; waits for as long as an alias takes to move."""
    deadline = time.monotonic() + PROVE_SECONDS
    while True:
        live = (await current()).live.id
        if live == fix.want["deployment"] or time.monotonic() > deadline:
            return Proof(held=live == fix.want["deployment"], seen=f"{live} is live")
        await asyncio.sleep(STEP_SECONDS)
