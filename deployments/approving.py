"""What waits for a person, and their answer from a terminal: the same form, filled in by a command."""

from __future__ import annotations

import asyncio
import getpass
import json
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateName
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import SetStateStatus
from prefect.settings import PREFECT_API_URL

from runbook.errors import BadSetting, OutsideError
from runbook.model import Frozen, Json

T = TypeVar("T")


class Question(Frozen):
    """A run that is suspended until a person answers: its id and name in Prefect, what it asks, the form's rows."""

    id: UUID
    name: str
    text: str
    rows: tuple[str, ...]
    plan: str

    def answers_to(self, word: str) -> bool:
        """True when ``word`` is an id this question shows: of the run in Prefect, of its ledger run, of the plan."""
        return len(word) >= 6 and (str(self.id).startswith(word) or f"`{word}`" in self.text)

    def as_json(self) -> dict[str, Json]:
        """The form of ``--json``."""
        return {
            "id": str(self.id),
            "name": self.name,
            "plan": self.plan,
            "rows": list(self.rows),
            "question": self.text,
        }


def questions() -> list[Question]:
    """Every runbook's run that waits for a person; raises where Prefect cannot be asked."""

    async def read() -> list[Question]:
        async with _prefect() as client:
            return await _questions(client)

    return asyncio.run(_told(read()))


def answer(word: str, *, approve: bool, only: Sequence[str], reason: str, by: str = "") -> Question:
    """Answer the one question that ``word`` names; ``only`` approves a part of it, see ``chosen``.

    Raises ``BadSetting`` where no question has that name, or several, or where a word of ``only`` names no fix of it.
    """

    async def write() -> Question:
        async with _prefect() as client:
            asked = await _questions(client)
            named = [one for one in asked if one.answers_to(word)]
            if len(named) != 1:
                known = ", ".join(str(one.id) for one in asked) or "nothing waits for a person"
                raise BadSetting(word, f"names {len(named)} runs that wait for a person", f"runbook approve: {known}")
            rows = chosen(named[0].rows, only) if approve else []
            said = {
                "decision": "approve" if approve else "refuse",
                "approved": rows,
                "by": by or getpass.getuser(),
                "reason": reason,
                "plan": named[0].plan,
            }
            resumed = await client.resume_flow_run(named[0].id, run_input=said)
            if resumed.status is not SetStateStatus.ACCEPT:
                raise OutsideError("PREFECT_API_URL", f"Prefect does not resume {named[0].name}", "runbook approve")
            return named[0]

    return asyncio.run(_told(write()))


def chosen(rows: Sequence[str], only: Sequence[str]) -> list[str]:
    """The form's rows that ``only`` names by their whole target, action or key; all where it names nothing.

    Never by a part of one: ``user_1`` is no ``user_12``. Raises ``BadSetting`` for a word that names none.
    """
    parts = {row: row.rsplit(" ", 2) for row in rows}  # target (which may hold spaces), action, key
    for word in only:
        if not any(word in named for named in parts.values()):
            choices = "; ".join(" | ".join(named) for named in parts.values())
            raise BadSetting(
                f"--only {word}", "is no whole target, action or key of a fix that waits", f"one of: {choices}"
            )
    return [row for row, named in parts.items() if not only or any(word in named for word in only)]


def _prefect() -> PrefectClient:
    if not PREFECT_API_URL.value():
        raise BadSetting(
            "PREFECT_API_URL", "is not set, and runs wait in Prefect", "prefect config set PREFECT_API_URL=…"
        )
    return get_client()


async def _told(asking: Awaitable[T]) -> T:
    try:
        return await asking
    except httpx.HTTPError as error:
        said = f"Prefect does not answer ({type(error).__name__})"
        raise OutsideError("PREFECT_API_URL", said, "prefect server start, or answer later") from None


async def _questions(client: PrefectClient) -> list[Question]:
    suspended = FlowRunFilterState(name=FlowRunFilterStateName(any_=["Suspended"]))
    runs = await client.read_flow_runs(flow_run_filter=FlowRunFilter(state=suspended))
    return [found for run in runs if (found := await _question(client, run)) is not None]


async def _question(client: PrefectClient, run: FlowRun) -> Question | None:
    keys = run.state.state_details.run_input_keyset if run.state else None
    if not keys or "description" not in keys:
        return None
    try:
        text, schema = [await _input(client, run.id, keys[key]) for key in ("description", "schema")]
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.NOT_FOUND:
            return None  # Prefect stores the question after the state: a moment later, or never where its process died
        raise
    defaults = {key: field.get("default") for key, field in schema.get("properties", {}).items()}
    if "plan" not in defaults:
        return None  # another flow's form
    return Question(id=run.id, name=run.name, text=str(text), rows=tuple(defaults["approved"]), plan=defaults["plan"])


async def _input(client: PrefectClient, run_id: UUID, key: str) -> Any:
    return json.loads(await client.read_flow_run_input(run_id, key))
