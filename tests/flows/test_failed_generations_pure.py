"""Tables of what each error, header, log line and reading means; no system is touched."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletion

from runbook.memory import LogEvent
from tasks.generation import Probe, Sample
from tasks.generation_errors import MEANING, Kind, asked_wait, classify, judge, left, span
from tasks.generation_log import Heard, hear
from tasks.generation_state import Bounds, Generation, detect, notices, plan
from tasks.generation_switch import Switch

REQUEST = httpx2.Request("POST", "http://ai.test/v1/chat/completions")
AT = Bounds(samples=2)
HOUR = 3_600_000


def status_error(status: int, **body: Any) -> openai.OpenAIError:
    client = openai.OpenAI(api_key="sk-x", base_url="http://ai.test/v1")
    response = httpx2.Response(status, request=REQUEST, json={"error": {"message": "no", **body}})
    return client._make_status_error_from_response(response)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {"code": "invalid_api_key"}, Kind.key),
        (401, {}, Kind.key),
        (402, {"message": "Insufficient Balance"}, Kind.quota),
        (403, {"code": "unsupported_country_region_territory"}, Kind.forbidden),
        (403, {}, Kind.forbidden),
        (404, {"code": "model_not_found"}, Kind.model),
        (400, {"code": "model_decommissioned"}, Kind.model),
        (429, {"code": "insufficient_quota", "type": "insufficient_quota"}, Kind.quota),
        (429, {"type": "insufficient_quota"}, Kind.quota),
        (429, {"code": "rate_limit_exceeded", "type": "requests"}, Kind.rate_limit),
        (429, {}, Kind.rate_limit),
        (408, {}, Kind.timeout),
        (409, {}, Kind.server),
        (500, {}, Kind.server),
        (503, {}, Kind.server),
        (529, {}, Kind.server),
        (400, {"code": "unsupported_value"}, Kind.turned_down),
        (422, {}, Kind.turned_down),
    ],
)
def test_every_status_has_its_kind(status: int, body: dict[str, Any], kind: Kind) -> None:
    assert classify(status_error(status, **body)) is kind


def test_a_timeout_is_no_lost_connection_though_it_is_a_subclass_of_one() -> None:
    assert classify(openai.APITimeoutError(REQUEST)) is Kind.timeout
    assert classify(openai.APIConnectionError(request=REQUEST)) is Kind.unreachable
    assert classify(openai.OpenAIError("odd")) is Kind.malformed


def test_the_table_is_closed() -> None:
    assert set(MEANING) == set(Kind) - {Kind.ok, Kind.turned_down}
    assert {kind for kind, row in MEANING.items() if row.account} == {Kind.key, Kind.forbidden, Kind.quota}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Thu, 01 Jan 1970 00:16:50 GMT"}, 10),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-5"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m0.5s"}, 60.5),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "6m0s"}, None),
    ],
)
def test_the_pause_a_provider_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_wait(headers, 1000) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"), [("6m0s", 360), ("20ms", 0.02), ("1h2m3s", 3723), ("1.5s", 1.5), ("", None), ("5", None)]
)
def test_spans(text: str, seconds: float | None) -> None:
    assert span(text) == (None if seconds is None else pytest.approx(seconds))


def test_the_share_left_needs_both_numbers() -> None:
    both = {"x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "50"}
    assert left(both) == {"requests": 0.1}
    assert left({"x-ratelimit-remaining-tokens": "5"}) == left({"x-ratelimit-limit-tokens": "0"}) == {}


def completion(tokens: int, text: str | None) -> object:
    message = {"role": "assistant", "content": text}
    return ChatCompletion.model_validate(
        {
            "id": "1",
            "created": 1,
            "model": "m",
            "object": "chat.completion",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"completion_tokens": tokens, "prompt_tokens": 1, "total_tokens": 1 + tokens},
        }
    )


def test_tokens_count_and_not_the_text() -> None:
    assert judge(completion(16, "")) is judge(completion(16, None)) is judge(completion(1, "ok")) is Kind.ok
    assert judge(completion(0, "")) is Kind.empty
    assert judge("<html>") is judge(None) is judge(ChatCompletion.construct()) is Kind.malformed


# -- the log ----------------------------------------------------------------------------------------------------------


def event(name: str, at: int = 1, **fields: Any) -> LogEvent:
    return LogEvent(name=name, at_ms=at, level="info", fields=fields)


@pytest.mark.parametrize(
    ("events", "failed", "by_design", "succeeded"),
    [
        ([], 0, 0, 0),
        ([event("ai_success", length=200)], 0, 0, 1),
        ([event("ai_success", length=0)], 1, 0, 0),
        ([event("ai_empty_response")], 1, 0, 0),
        ([event("ai_generation_failed")], 1, 0, 0),
        ([event("ai_using_template", reason="timeout")], 1, 0, 0),
        ([event("ai_using_template", reason="no_credits")], 0, 1, 0),
        ([event("ai_using_template")], 0, 1, 0),
        ([event("ai_attempt_failed"), event("ai_using_template"), event("ai_using_template")], 1, 1, 0),
        ([event("ai_attempt_failed"), event("ai_attempt_failed"), event("ai_success")], 0, 0, 1),
    ],
)
def test_what_counts_as_failed(events: list[LogEvent], failed: int, by_design: int, succeeded: int) -> None:
    heard = hear(events, ["no_credits"])
    assert (heard.failed, heard.by_design, heard.succeeded) == (failed, by_design, succeeded)


def test_lost_is_what_failed_last_and_has_an_id() -> None:
    failed = [event("ai_using_template", at, reason="x", generationId=f"gen_{at}") for at in (1, 5, 9)]
    made = [event("ai_success", 6, generationId="gen_5"), event("ai_success", 2, generationId="gen_9")]
    odd = [event("ai_using_template", 3, reason="x", generationId="--all"), event("ai_using_template", 4, reason="x")]
    assert [one.id for one in hear([*failed, *made, *odd], []).lost] == ["gen_1", "gen_9"]


def test_the_apps_words_are_masked() -> None:
    heard = hear([event("ai_generation_failed", error="bad key sk-abcdef0123456789")], [])
    assert list(heard.reasons) == ["bad key sk-***"]


# -- detect and plan --------------------------------------------------------------------------------------------------


def probe(*kinds: Kind, model: str = "own") -> Probe:
    return Probe(model=model, samples=tuple(Sample(kind=kind, seconds=0.1) for kind in kinds))


OK, DOWN, QUOTA = probe(Kind.ok), probe(Kind.server, Kind.server), probe(Kind.quota)
SPARE, SPARE_DOWN = probe(Kind.ok, model="spare"), probe(Kind.server, Kind.server, model="spare")
ON, OFF = Switch(state="primary", said="own"), Switch(state="other", said="x")
FALLEN = Switch(state="fallback", said="spare", since_ms=0, until_ms=4 * HOUR)
FAILING = Heard(succeeded=5, failed=5)


def seen(**more: Any) -> Generation:
    return Generation(**({"now_ms": HOUR, "probed_ms": HOUR, "primary": DOWN, "fallback": SPARE, "switch": ON} | more))


@pytest.mark.parametrize(
    ("world", "action"),
    [
        (seen(), "use_fallback_model"),
        (seen(primary=OK), None),
        (seen(primary=probe(Kind.server, Kind.ok)), None),
        (seen(primary=probe(Kind.server)), None),
        (seen(primary=probe(Kind.server), failed_before=True), "use_fallback_model"),
        (seen(primary=probe(Kind.server), heard=FAILING), "use_fallback_model"),
        (seen(primary=None), None),
        (seen(fallback=None), None),
        (seen(fallback=SPARE_DOWN), None),
        (seen(fallback=probe(Kind.server, Kind.ok, model="spare")), None),
        (seen(switch=None), None),
        (seen(switch=OFF), None),
        (seen(heard=Heard(succeeded=1, last_success_ms=HOUR)), None),
        (seen(heard=Heard(succeeded=1, last_success_ms=HOUR - 1)), "use_fallback_model"),
        (seen(primary=QUOTA), None),
        (seen(primary=QUOTA, heard=FAILING, shared=True), None),
        (seen(primary=QUOTA, heard=FAILING), "use_fallback_model"),
        (seen(primary=probe(Kind.turned_down)), None),
        # in force
        (seen(switch=FALLEN), None),
        (seen(switch=FALLEN, primary=probe(Kind.ok, Kind.ok)), "use_primary_model"),
        (seen(switch=FALLEN, primary=OK), None),
        (seen(switch=FALLEN, primary=probe(Kind.ok, Kind.server)), None),
        (seen(switch=FALLEN, primary=probe(Kind.ok, Kind.ok), now_ms=1), None),
        (seen(switch=FALLEN, primary=probe(Kind.ok, Kind.ok), now_ms=1, fallback=SPARE_DOWN), "use_primary_model"),
        (seen(switch=FALLEN, now_ms=5 * HOUR), None),
        (seen(switch=FALLEN, now_ms=5 * HOUR, primary=probe(Kind.ok, Kind.server)), "use_primary_model"),
        (seen(switch=Switch(state="fallback", said="spare"), primary=probe(Kind.ok, Kind.ok)), None),
    ],
)
def test_when_the_flag_is_turned(world: Generation, action: str | None) -> None:
    assert [fix.action for fix in plan(world, AT)] == ([action] if action else [])


@pytest.mark.parametrize(
    ("world", "pages"),
    [
        (seen(primary=OK), []),
        (seen(primary=probe(Kind.server)), []),
        (seen(), [False]),
        (seen(primary=QUOTA), [True]),
        (seen(primary=probe(Kind.key)), [True]),
        (seen(primary=probe(Kind.forbidden)), [True]),
        (seen(primary=probe(Kind.model, Kind.model)), [False]),
        (seen(primary=probe(Kind.model, Kind.model), missing=("X",), switch=None), [True]),
        (seen(switch=FALLEN), []),
        (seen(switch=FALLEN, primary=QUOTA), [True]),
        (seen(switch=FALLEN, now_ms=5 * HOUR), [True]),
        (seen(switch=FALLEN, fallback=SPARE_DOWN), [False, True]),
        (seen(primary=OK, heard=FAILING), [False]),
        (seen(primary=OK, heard=Heard(failed=4)), []),
        (seen(primary=OK, heard=Heard(failed=5, succeeded=100)), []),
    ],
)
def test_what_is_found_and_who_is_paged(world: Generation, pages: list[bool]) -> None:
    assert [one.page for one in detect(world, AT)] == pages


def test_headroom_is_a_finding_only_when_it_stays_low() -> None:
    low = Probe(model="own", samples=(Sample(kind=Kind.ok, seconds=0.1, left={"tokens": 0.05}),))
    assert detect(seen(primary=low, headroom={"tokens": (0.05,)}), AT) == []
    assert detect(seen(primary=low, headroom={"tokens": (0.05, 0.5)}), AT) == []
    (found,) = detect(seen(primary=low, headroom={"tokens": (0.9, 0.05, 0.06)}), AT)
    assert found.subject == "AI limit on tokens"


def test_one_failed_sample_is_told_and_no_more() -> None:
    assert list(notices(seen(primary=probe(Kind.timeout)), AT)) == [
        "own failed the only sample (timeout): the next run looks again before anything is done"
    ]
