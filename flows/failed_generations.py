"""The AI writes nothing, or a template that looks like an answer; users do not know, and neither does anybody else.

Symptom: résumés and letters come out as templates or empty, ai_attempt_failed and ai_using_template in the app's log,
    errors or timeouts of the AI provider.
Cause: the model was retired, the key refused, the quota used up, a rate limit, a slow or broken provider; or the app
    gives up sooner than the provider answers.
Fix: while the app's own model fails sample after sample and the fallback model answers, turn the app's flag to the
    fallback for ttl_minutes; turn it back when the own model is well again, or when the time is up and the own model is
    not seen to fail. Then queue generations that failed again, each once, where the app has a queue. A used-up quota, a
    refused key or a closed region pages a person at once and is never asked again; a fallback behind the same key is
    then useless and not tried. Nothing is switched on one failed sample, while the app itself succeeds, or when a
    person set the flag.
Verify: the flag is read back by its own command; after hold_seconds the model in force is asked again and the log since
    the switch is judged anew; a queued generation is looked for in the log.
Undo: runbook undo turns the flag back, if nobody turned it since. A generation queued again cannot be taken back.
By hand: ask for one completion with the app's key (listing models works without quota and proves nothing):
    curl $OPENAI_BASE_URL/chat/completions -H "Authorization: Bearer $OPENAI_API_KEY"
    -H 'content-type: application/json' -d '{"model": "…", "max_completion_tokens": 16, "messages": [{"role": "user",
    "content": "ok?"}]}'. On insufficient_quota add credit on the billing page. Else set OPENAI_MODEL or the app's flag,
    and watch ai_success in its log. Never wrap the SDK in a loop of retries: it retries by itself, and that quota error
    must not be retried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated

from prefect import flow
from pydantic import Field

from runbook import gate
from runbook.errors import OutsideError
from runbook.ledger import now_ms
from runbook.memory import measure, series
from runbook.model import Fix, Json, Judged, Mode, Report
from runbook.permit import Hand
from runbook.run import Run
from runbook.settings import parameter, settings
from tasks import generation_log as log
from tasks import generation_switch as switch
from tasks.generation import PATIENCE, fallback, primary, read_probe
from tasks.generation_state import Bounds, Generation, detect, notices, plan, readings

NAME = "failed-generations"

HANDS = {
    switch.FLIP: Hand(switch.switch_model, switch.look_up_switch, switch.undo_switch),
    switch.REVERT: Hand(switch.switch_model, switch.look_up_switch, switch.undo_switch),
    log.REQUEUE: Hand(log.requeue_generation, log.look_up_generation),
}

Count = Annotated[int, Field(ge=2, le=10)]
Some = Annotated[int, Field(ge=1, le=1000)]
Minutes = Annotated[int, Field(ge=0, le=10_080)]
Window = Annotated[int, Field(ge=1, le=1440)]
Seconds = Annotated[float, Field(ge=0, le=60)]
Timeout = Annotated[float, Field(ge=0.1, le=60)]
Part = Annotated[float, Field(gt=0, le=1)]


@flow(name=NAME, description=__doc__, flow_run_name=f"{NAME} {{mode}}")
async def failed_generations(
    mode: Mode = Mode.auto,
    samples: Count = parameter(NAME, "samples", 3),
    pause_seconds: Seconds = parameter(NAME, "pause_seconds", 2.0),
    timeout_seconds: Timeout = parameter(NAME, "timeout_seconds", 15.0),
    failed_share: Part = parameter(NAME, "failed_share", 0.3),
    failed_least: Some = parameter(NAME, "failed_least", 5),
    log_minutes: Window = parameter(NAME, "log_minutes", 15),
    by_design: list[str] = parameter(NAME, "by_design", ["no_credits", "free_plan", "user_choice"]),
    ttl_minutes: Window = parameter(NAME, "ttl_minutes", 240),
    least_minutes: Minutes = parameter(NAME, "least_minutes", 10),
    requeue_minutes: Window = parameter(NAME, "requeue_minutes", 60),
    hold_seconds: Seconds = parameter(NAME, "hold_seconds", 2.0),
) -> Report:
    """Find out whether the AI really writes, and keep it writing by the fallback model until its own is well again.

    Args:
        mode: How far to go: observe changes nothing, approve asks, auto acts. RUNBOOK_MODE is the ceiling.
        samples: How often a model that fails is asked before it counts as failing, 2 to 10.
        pause_seconds: How long to wait between two samples, in seconds; longer where the provider asks for it.
        timeout_seconds: How long one sample may take, in seconds.
        failed_share: The share of generations in the app's log that may fail, 0 to 1.
        failed_least: How many must have failed before the share counts.
        log_minutes: How far back the app's log is judged, in minutes.
        by_design: Reasons of ai_using_template that are no failure.
        ttl_minutes: How long the fallback model may stay in force, in minutes.
        least_minutes: How long the fallback stays in force at least, so that the flag does not flap, in minutes.
        requeue_minutes: How old a failed generation may be to be queued again, in minutes.
        hold_seconds: How long to wait before everything is read again to prove the fixes, in seconds.
    """
    at = Bounds(
        samples=samples,
        pause_seconds=pause_seconds,
        timeout_seconds=timeout_seconds,
        failed_share=failed_share,
        failed_least=failed_least,
        by_design=tuple(by_design),
        ttl_minutes=ttl_minutes,
        least_minutes=least_minutes,
    )
    async with Run(NAME, mode) as run:
        if not settings().has_app_log:
            settings().need("OPENAI_API_KEY", "OPENAI_MODEL")
        await run.settle(HANDS)
        began = now_ms()
        since = began - log_minutes * switch.MINUTE_MS
        seen = await look(run, at, began, since)
        measure(run.ledger, readings(seen))
        run.found(found := detect(seen, at))
        run.saw("models", seen, sick=bool(found), **at._asdict())
        for text in notices(seen, at):
            run.notice(text)
        seen = await _switch(run, seen, at)
        lost = await _requeue(run, seen, at, began - requeue_minutes * switch.MINUTE_MS)
        if run.findings and run.mode is not Mode.observe:
            await asyncio.sleep(hold_seconds)
            after = await look(run, at, began, began if _acted(run) else since)
            still = await _still(run, at, lost)
            run.remains([*detect(after, at), *log.detect_lost(still, log.tried_targets(run.ledger))])
    return run.result()


async def look(run: Run, at: Bounds, now: int, since_ms: int) -> Generation:
    """The model in force, the fallback where it matters, the flag and the log; what is missing is told and left out."""
    main, other, flag = primary(), fallback(), None
    if main is None:
        _tell(run, "not configured: OPENAI_API_KEY and OPENAI_MODEL, so only the app's log was looked at")
    elif not switch.missing():
        try:
            flag = await switch.read_switch(run.ledger)
        except OutsideError as error:
            _tell(run, str(error))
    probed_ms, in_force = now_ms(), flag is not None and flag.state == "fallback"
    own = await read_probe(main, at.samples, at.pause_seconds, at.timeout_seconds, every=in_force) if main else None
    shared = main is not None and other is not None and main.shares(other)
    spare = None
    if other and own and (in_force or (own.failing and not (shared and own.account))):
        spare = await read_probe(other, at.samples, at.pause_seconds, at.timeout_seconds)
    return Generation(
        now_ms=now,
        probed_ms=probed_ms,
        primary=own,
        fallback=spare,
        switch=flag,
        shared=shared,
        failed_before=_before(run, "ai_probe_failed_share", now)[-1:] == (1.0,),
        heard=await _hear(run, max(since_ms, flag.turned_ms if flag else 0), at),
        headroom={what: _before(run, f"ai_{what}_left_share", now) for what in ("requests", "tokens")},
        missing=tuple(switch.missing()),
    )


def _before(run: Run, name: str, now: int) -> tuple[float, ...]:
    """The readings of earlier runs, within the hour."""
    past = series(run.ledger, name, now - 60 * switch.MINUTE_MS)
    return tuple(value for at, value in past if at < now)


async def _hear(run: Run, since_ms: int, at: Bounds) -> log.Heard | None:
    try:
        return await log.read_generations(since_ms, at.by_design)
    except OutsideError as error:
        _tell(run, str(error))
        return None


def _tell(run: Run, text: str) -> None:
    if text not in run.notices:
        run.notice(text)


async def _switch(run: Run, seen: Generation, at: Bounds) -> Generation:
    """Turn the flag where that is due; the world as it is then."""

    async def again() -> list[Fix]:
        return plan(await _once_more(run, seen, at), at)

    permit = await gate.ask(run, plan(seen, at), share=None, again=again)
    await permit.apply(HANDS)
    other = fallback()
    if not permit.fixes or other is None:
        return seen
    flag, spare = await switch.read_switch(run.ledger), await read_probe(other, 1, 0, at.timeout_seconds)
    return seen.model_copy(update={"switch": flag, "fallback": spare})


async def _once_more(run: Run, seen: Generation, at: Bounds) -> Generation:
    """The same with one more sample of each model and the flag read again, as shortly before an act as can be."""
    main, other, own = primary(), fallback(), seen.primary
    fresh: dict[str, object] = {"switch": await switch.read_switch(run.ledger)}
    if main and own and not own.account:
        await asyncio.sleep(min(PATIENCE, own.samples[-1].wait or 0))
        fresh["primary"] = own.plus(await read_probe(main, 1, 0, at.timeout_seconds))
    if other and seen.fallback:
        fresh["fallback"] = await read_probe(other, 1, 0, at.timeout_seconds)
    return seen.model_copy(update=fresh)


def _acted(run: Run) -> bool:
    return any(fix.state == "proven" for fix in run.ledger.fixes(run.id))


async def _requeue(run: Run, seen: Generation, at: Bounds, since_ms: int) -> list[log.Lost]:
    """Queue lost generations again, once the model in force writes, each once; those that were found."""
    if not (settings().runbook_ai_requeue_command and seen.writes):
        return []
    heard = await _hear(run, since_ms, at)
    if heard is None:
        return []
    tried = [one for one in log.tried_targets(run.ledger) if one in {f"generation {lost.id}" for lost in heard.lost}]
    run.found(log.detect_lost(heard.lost, tried))
    run.saw("lost", heard.lost, sick=bool(heard.lost), tried=tried)
    permit = await gate.ask(run, log.plan_requeue(log.to_requeue(heard.lost, tried)), share=None)
    await permit.apply(HANDS)
    return list(heard.lost)


async def _still(run: Run, at: Bounds, lost: list[log.Lost]) -> list[log.Lost]:
    if not lost:
        return []
    heard = await _hear(run, min(one.at_ms for one in lost), at)
    left = {one.id for one in heard.lost} if heard else set()
    return [one for one in lost if one.id in left]


def replay(stage: str, seen: Json, given: Mapping[str, Json]) -> Judged:
    """What today's rules say of models, flag and log, or of lost generations, as they were read then."""
    if stage == "lost":
        lost, tried = [log.Lost.model_validate(one) for one in seen], given["tried"]
        plan_lost = log.plan_requeue(log.to_requeue(lost, tried))
        return Judged(log.detect_lost(lost, tried), plan_lost, actions=(log.REQUEUE,))
    read, at = Generation.model_validate(seen), Bounds(**given)
    return Judged(detect(read, at), plan(read, at), actions=(switch.FLIP, switch.REVERT))
