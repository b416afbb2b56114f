"""The fast path: a warm process that runs what an event has started, at once, in place of a worker's cold one.

An event makes its run by the deployment's own trigger, whether this process is there or not. Whoever moves that run
from Scheduled to Pending first has it, this process or a worker: Prefect lets one of them, so it is run once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any
from uuid import UUID

os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")  # as prefect.yaml asks of the worker's runs

import prefect.flow_engine
from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import SetStateStatus
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.events import Event
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Pending

import flows
from runbook.errors import BadSetting, RunbookError
from runbook.ledger import ledger
from runbook.settings import settings

log = logging.getLogger("runbook.responder")

SCHEDULED = "prefect.flow-run.Scheduled"
AT_ONCE = 4
RETRY_SECONDS = 2


class Responder:
    """Runs at most ``AT_ONCE`` flows, each deployment once at a time; of what comes meanwhile the newest is run after.

    ``warm`` are the deployments whose flows are imported, by id.
    """

    def __init__(self, client: PrefectClient, warm: Mapping[UUID, Flow[Any, Any]]) -> None:
        self._client, self._warm = client, warm
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._waiting: dict[UUID, list[FlowRun]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def hear(self, event: Event) -> None:
        """Begin the run this event speaks of, when an automation made it and its flow is warm."""
        try:
            run = await self._client.read_flow_run(UUID(event.resource.id.removeprefix("prefect.flow-run.")))
        except ObjectNotFound:  # deleted meanwhile
            return
        key = run.deployment_id
        if key is None or key not in self._warm or run.created_by is None or run.created_by.type != "AUTOMATION":
            return
        if key in self._waiting:
            self._waiting[key].append(run)  # the world may have changed behind the back of the one under way
            return
        self._waiting[key] = [run]
        task = asyncio.create_task(self._work(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, key: UUID) -> None:
        try:
            while self._waiting[key]:
                *older, newest = self._waiting[key]
                self._waiting[key] = []
                for one in older:
                    if await self._claim(one):
                        await self._client.set_flow_run_state(one.id, Cancelled(message=f"{newest.name} does it all"))
                async with self._slots:
                    await self._run(self._warm[key], newest)
        except Exception as error:  # noqa: BLE001 - Prefect may fail in any way, and its errors may say a secret
            what = type(error).__name__
            log.warning("a run of %s ended badly (%s); workers and schedules go on", self._warm[key].name, what)
        finally:
            del self._waiting[key]

    async def _run(self, flow: Flow[Any, Any], run: FlowRun) -> None:
        pending = await self._claim(run)
        if pending is not None:
            mine = run.model_copy(update={"state": pending})
            await prefect.flow_engine.run_flow_async(
                flow, flow_run=mine, parameters=mine.parameters, return_type="state"
            )

    async def _claim(self, run: FlowRun) -> State[Any] | None:
        """Its Pending state when the run is ours; None when a worker was first, or another run holds the deployment.

        It is read again first: heard of late, after a restart or a stall, it may be done, and Prefect would let it be
        begun again.
        """
        try:
            now = await self._client.read_flow_run(run.id)
        except ObjectNotFound:
            return None
        if now.state is None or not now.state.is_scheduled():
            return None
        answer: OrchestrationResult[Any] = await self._client.set_flow_run_state(run.id, Pending())
        ours = answer.status is SetStateStatus.ACCEPT and answer.state is not None and answer.state.is_pending()
        return answer.state if ours else None

    async def finish(self) -> None:
        """Wait for the runs under way."""
        await asyncio.gather(*self._tasks)


async def read_warm(client: PrefectClient) -> dict[UUID, Flow[Any, Any]]:
    """Every deployment of ours, with its flow imported; raises ``BadSetting`` where there is none."""
    wanted = DeploymentFilter(name=DeploymentFilterName(any_=flows.every()))
    found = {one.id: flows.runbook(one.name) for one in await client.read_deployments(deployment_filter=wanted)}
    if not found:
        raise BadSetting("PREFECT_API_URL", "has no deployment of ours", "prefect --no-prompt deploy --all")
    return found


async def _hear_all(client: PrefectClient) -> None:
    warm = await read_warm(client)
    responder = Responder(client, warm)
    wanted = EventFilter(event=EventNameFilter(name=[SCHEDULED]))
    async with get_events_subscriber(filter=wanted, reconnect_on_clean_close=True) as events:
        log.warning("ready: %s", ", ".join(sorted(flow.name for flow in warm.values())))
        try:
            async for event in events:
                await responder.hear(event)
        finally:
            await responder.finish()


async def respond() -> None:
    """Hear and run for ever; while Prefect is away the triggers and schedules have it to themselves."""
    while True:
        try:
            # Prefect's engine uses these; without them it makes a client, and reads all certificates, in every task.
            with SyncClientContext():
                async with AsyncClientContext() as prefect_api:
                    await _hear_all(prefect_api.client)
        except RunbookError:
            raise
        except Exception as error:  # noqa: BLE001 - Prefect may be away in any way; we are here when it comes back
            log.warning("Prefect is away (%s); again in %s s", type(error).__name__, RETRY_SECONDS)
        await asyncio.sleep(RETRY_SECONDS)


def main() -> int:
    """The process: one line and exit 2 where a setting is wrong."""
    logging.basicConfig(format="runbook responder: %(message)s", level=logging.WARNING)
    try:
        if not PREFECT_API_URL.value():
            raise BadSetting("PREFECT_API_URL", "is not set", "prefect config set PREFECT_API_URL=http://…:4200/api")
        settings()
        ledger()
        asyncio.run(respond())
    except RunbookError as error:
        sys.stderr.write(f"runbook responder: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
