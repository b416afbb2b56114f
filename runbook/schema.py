"""The ledger's tables, the same on SQLite and PostgreSQL, and how an older ledger is brought up to date."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    delete,
    insert,
    inspect,
    select,
    text,
)

from runbook.errors import LedgerError
from runbook.model import FixState

VERSION = 5
OPEN_STATES = (FixState.granted.value, FixState.intended.value)

meta = MetaData()
Serial = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up by itself only on INTEGER keys

version = Table("runbook_version", meta, Column("version", Integer, nullable=False))
run = Table(
    "run",
    meta,
    Column("id", String(32), primary_key=True),
    Column("runbook", String(64), nullable=False, index=True),
    Column("mode", String(16), nullable=False),
    Column("started_at_ms", BigInteger, nullable=False, index=True),
    Column("ended_at_ms", BigInteger),
    Column("outcome", String(16)),
    Column("owner", String(128), nullable=False),
    Column("report", JSON),
)
finding = Table(
    "finding",
    meta,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("run_id", ForeignKey("run.id"), nullable=False, index=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("evidence", JSON, nullable=False),
)
fix = Table(
    "fix",
    meta,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("run_id", ForeignKey("run.id"), nullable=False, index=True),
    Column("runbook", String(64), nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", Text, nullable=False),
    Column("risk", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("why", Text, nullable=False),
    Column("undo", Text, nullable=False),
    Column("expect", JSON, nullable=False),
    Column("want", JSON, nullable=False),
    Column("plan_hash", String(16), nullable=False),
    Column("owner", String(128), nullable=False),
    Column("decided_at_ms", BigInteger, nullable=False, index=True),
    Column("granted_until_ms", BigInteger),
    Column("intended_at_ms", BigInteger),
    # The lock on a target: at most one fix of it is granted or under way, whoever asks.
    Index(
        "fix_open_target",
        "target",
        unique=True,
        sqlite_where=text("state IN ('granted', 'intended')"),
        postgresql_where=text("state IN ('granted', 'intended')"),
    ),
)
entry = Table(
    "entry",
    meta,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("at_ms", BigInteger, nullable=False, index=True),
    Column("kind", String(32), nullable=False, index=True),
    Column("run_id", String(32)),
    Column("fix_id", String(32), index=True),
    Column("actor", String(128), nullable=False),
    Column("body", JSON, nullable=False),
)
# The chain of hashes over the entries; a table of its own, so that older ledgers only gain a table.
link = Table(
    "link",
    meta,
    Column("seq", ForeignKey("entry.seq"), primary_key=True),
    Column("hash", String(64), nullable=False),
)


# What runbooks remember between runs. None of it is evidence: it may be pruned by age.
memo = Table(
    "memo",
    meta,
    Column("key", String(255), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("body", JSON, nullable=False),
)
reading = Table(
    "reading",
    meta,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("name", String(128), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("value", Float, nullable=False),
    Index("reading_name_at", "name", "at_ms"),
)
# What a run read, so that today's rules can be tried on it; the one place where readings are kept whole.
snapshot = Table(
    "snapshot",
    meta,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("run_id", String(32), nullable=False, index=True),
    Column("runbook", String(64), nullable=False),
    Column("stage", String(64), nullable=False),
    Column("at_ms", BigInteger, nullable=False, index=True),
    Column("parameters", JSON, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("snapshot_runbook_at", "runbook", "at_ms"),
)
log_event = Table(
    "log_event",
    meta,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("name", String(128), nullable=False),
    Column("at_ms", BigInteger, nullable=False, index=True),
    Column("level", String(16), nullable=False),
    Column("fields", JSON, nullable=False),
    Index("log_event_name_at", "name", "at_ms"),
)

# Webhooks as they came: received, then handled once Prefect has taken them as events.
hook = Table(
    "hook",
    meta,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("id", String(200), nullable=False, unique=True),
    Column("event", String(200), nullable=False),
    Column("resource", String(200), nullable=False),
    Column("payload", JSON, nullable=False),
    Column("received_at_ms", BigInteger, nullable=False),
    Column("handled_at_ms", BigInteger, index=True),
)

# Pages to people: written here first, delivered from here as often as it takes.
page = Table(
    "page",
    meta,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("key", String(200), nullable=False, index=True),
    Column("source", String(64), nullable=False),
    Column("run_id", String(32)),
    Column("severity", String(16), nullable=False),
    Column("title", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("times", Integer, nullable=False),
    Column("missed", Integer, nullable=False),
    Column("opened_at_ms", BigInteger, nullable=False, index=True),
    Column("seen_at_ms", BigInteger, nullable=False),
    Column("acked_at_ms", BigInteger),
    Column("acked_by", String(128)),
    Column("resolved_at_ms", BigInteger, index=True),
    Column("sent", JSON, nullable=False),
    # One incident is one page, however often and by whomever it is raised.
    Index(
        "page_open_key",
        "key",
        unique=True,
        sqlite_where=text("resolved_at_ms IS NULL"),
        postgresql_where=text("resolved_at_ms IS NULL"),
    ),
)

# Incidents: what was found in one burst, and what belongs to it. A page's own row knows nothing of it.
incident = Table(
    "incident",
    meta,
    Column("id", String(32), primary_key=True),
    Column("title", Text, nullable=False),
    Column("opened_at_ms", BigInteger, nullable=False, index=True),
    Column("news_ms", BigInteger, nullable=False),
    Column("closed_at_ms", BigInteger, index=True),
    Column("closed_by", String(128)),
    Column("postmortem", Text),
    Column("symptoms", JSON, nullable=False),
)
incident_item = Table(
    "incident_item",
    meta,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("incident_id", ForeignKey("incident.id"), nullable=False, index=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("ref", String(200), nullable=False, index=True),
    Column("page_seq", BigInteger, unique=True),
    Column("body", JSON, nullable=False),
)


def migrate(engine: Engine) -> None:
    """Bring the ledger to this version's tables; refuse one that a newer version of this product wrote."""
    if _found(engine) < VERSION:
        with engine.connect().execution_options(runbook_write=True) as connection, connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(4726734)"))
            meta.create_all(connection)  # every version so far only added tables
            _adopt(connection)
            connection.execute(delete(version))
            connection.execute(insert(version).values(version=VERSION))
    found = _found(engine)
    if found > VERSION:
        raise LedgerError(
            "RUNBOOK_LEDGER_URL",
            f"has schema {found}, this version knows {VERSION}",
            "upgrade this installation",
        )


def _adopt(connection: Connection) -> None:
    from runbook import chain, ledger  # both are made of these tables

    was = connection.execute(select(version.c.version)).scalar_one_or_none() or 0
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ledger.WRITE_LOCK})
    chain.adopt(connection, was, ledger.now_ms())


def _found(engine: Engine) -> int:
    if not inspect(engine).has_table("runbook_version"):
        return 0
    with engine.connect() as connection:
        return connection.execute(select(version.c.version)).scalar_one_or_none() or 0
