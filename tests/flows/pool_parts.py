"""The look-alikes of pool-exhaustion as data, and the sessions they stand for."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import psycopg

from demo import database_faults as faults
from demo.database_faults import Sessions
from demo.postgres import Postgres

Case = dict[str, Any]
CASES: list[Case] = tomllib.loads((Path(__file__).parents[1] / "corpus" / "pool_exhaustion.toml").read_text("utf-8"))[
    "case"
]


def lookalike(server: Postgres, case: Case) -> Sessions:
    """Backends that are what the case says."""
    if "make" in case:
        made: Sessions = getattr(faults, case["make"])(server)
        return made
    made = Sessions(case["name"], server)
    if "process" in case:
        with psycopg.connect(server.url(), autocommit=True) as owner:
            query = "SELECT pid FROM pg_stat_activity WHERE backend_type = %s"
            made.remember(*(pid for (pid,) in owner.execute(query, [case["process"]]).fetchall()))
        return made
    url = server.url(case.get("database", "app"), case.get("user", "app"))
    connection = psycopg.connect(url, application_name=case.get("application", "web"))
    connection.execute(case.get("sql", "SELECT 1"))
    made.connections.append(connection)
    made.remember()
    return made
