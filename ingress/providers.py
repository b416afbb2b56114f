"""What each sender's webhook says: its checked signature, and the hooks its body holds; pure."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ingress import signatures
from runbook.mask import mask
from runbook.model import Frozen, Json

NAME = re.compile(r"[^A-Za-z0-9_-]+")
ID_LENGTH = 200
SENTRY = ("metric_alert", "comment", "installation", "error", "issue", "event")


class Hook(Frozen):
    """One thing a sender told: ``id`` is the same for every delivery of it.

    ``event`` is what happened (``stripe.invoice.payment_failed``), ``resource`` whom it concerns
    (``runbook.stripe.sub_123``): the names of the Prefect event it becomes.
    """

    id: str
    event: str
    resource: str
    payload: Mapping[str, Json]


class Malformed(Exception):
    """The body is not what this sender sends."""


class Provider(NamedTuple):
    """How one sender's webhooks are checked and read; ``setting`` names its secret."""

    setting: str
    check: signatures.Check
    read: Callable[[Json], Iterator[Hook]]


def stripe(body: Json) -> Iterator[Hook]:
    """One event of Stripe's."""
    about = body["data"]["object"]
    thing = {key: about.get(key) for key in ("id", "object", "customer", "subscription", "status", "livemode")}
    yield _hook("stripe", body["id"], body["type"], about.get("id") or "account", thing)


def sentry(body: Json) -> Iterator[Hook]:
    """An issue, alert, comment … of Sentry's; the same body is the same hook, as its timestamp is not signed."""
    data = body["data"]
    # Sentry names the kind in a header it does not sign, and by this key in the body it signs.
    key = next((one for one in SENTRY if one in data), "other")
    about = data[key] if isinstance(data.get(key), Mapping) else data
    title = about.get("title") or data.get("description_title")
    thing = {"id": about.get("id") or about.get("issue_id"), "title": title, "level": about.get("level")}
    kind = "event_alert" if key == "event" else key
    yield _hook("sentry", _digest(body), f"{kind}.{body['action']}", _project(about) or "project", thing)


def sendgrid(body: Json) -> Iterator[Hook]:
    """Many events of SendGrid's in one body."""
    for one in body:
        thing = {key: one.get(key) for key in ("event", "reason", "status", "type", "timestamp")}
        yield _hook("sendgrid", one["sg_event_id"], one["event"], "mail", thing)


def pagerduty(body: Json) -> Iterator[Hook]:
    """One v3 event of PagerDuty's."""
    event = body["event"]
    data = event.get("data", {})
    thing = {key: data.get(key) for key in ("id", "number", "status", "title", "urgency", "incident_key")}
    yield _hook("pagerduty", event["id"], event["event_type"], data.get("id") or "service", thing)


def alertmanager(body: Json) -> Iterator[Hook]:
    """Prometheus' and Grafana's alerts; a label ``runbook`` that names a runbook asks for it."""
    for one in body["alerts"]:
        labels, firing = one.get("labels", {}), one["status"] == "firing"
        mark = _digest([labels, one["status"], one["startsAt"], one.get("endsAt") if not firing else ""])
        thing = {"labels": labels, "annotations": one.get("annotations", {}), "status": one["status"]}
        made = _hook("alertmanager", mark, one["status"], labels.get("alertname") or "alert", thing)
        yield _wanted(made, labels["runbook"]) if firing and labels.get("runbook") else made


def vercel(body: Json) -> Iterator[Hook]:
    """The error lines of a log drain's batch."""
    for one in body:
        if one.get("level") in {"error", "fatal"} or float(one.get("statusCode") or 0) >= 500:
            thing = {key: one.get(key) for key in ("level", "statusCode", "path", "source", "deploymentId", "message")}
            yield _hook("vercel", one["id"], "log.error", one.get("projectId") or "project", thing)


def app(body: Json) -> Iterator[Hook]:
    """The app's own security alerts, in the form of a Slack message."""
    texts = [field["text"] for block in body.get("blocks", []) for field in block.get("fields", [])]
    said = dict(re.findall(r"\*?(\w+):?\*?:?\s*([^\n]+)", "\n".join(texts).replace("*\n", "* ")))
    thing = {"text": str(mask(str(body["text"])))[:500], "severity": said.get("Severity", "")}
    yield _hook("app", _digest(body), said.get("Action", "alert"), "app", thing)


def generic(body: Json) -> Iterator[Hook]:
    """``{"id", "event", "resource", "payload"}`` as you like, the names put below ``generic.``; ``runbook`` asks for
    the runbook it names."""
    made = _hook("generic", body["id"], body["event"], body["resource"], dict(body.get("payload", {})))
    yield _wanted(made, body["runbook"]) if body.get("runbook") else made


PROVIDERS: Mapping[str, Provider] = {
    "stripe": Provider("INGRESS_STRIPE_SECRET", signatures.stripe, stripe),
    "sentry": Provider("INGRESS_SENTRY_SECRET", signatures.sentry, sentry),
    "sendgrid": Provider("INGRESS_SENDGRID_PUBLIC_KEY", signatures.sendgrid, sendgrid),
    "pagerduty": Provider("INGRESS_PAGERDUTY_SECRET", signatures.pagerduty, pagerduty),
    "alertmanager": Provider("INGRESS_ALERTMANAGER_TOKEN", signatures.bearer, alertmanager),
    "vercel": Provider("INGRESS_VERCEL_SECRET", signatures.vercel, vercel),
    "app": Provider("INGRESS_APP_TOKEN", signatures.bearer, app),
    "generic": Provider("INGRESS_GENERIC_SECRET", signatures.generic, generic),
}


def hooks(provider: Provider, body: bytes) -> Sequence[Hook]:
    """The hooks a checked body holds; raises ``Malformed``."""
    try:
        text = body.decode()
        lines = [line for line in text.splitlines() if line.strip()]
        # A log drain may send one JSON object a line instead of an array.
        parsed: Any = json.loads(text) if text.lstrip()[:1] in "[{" and len(lines) < 2 else _lines(text, lines)
        return [Hook(**_storable(one.model_dump())) for one in provider.read(parsed)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise Malformed(type(error).__name__) from None


def _storable(value: Json) -> Json:
    """The same without what JSON has and no database takes: half a surrogate pair, a NUL, a number without end."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\0", "?")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_storable(key): _storable(inner) for key, inner in value.items()}
    return [_storable(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _lines(text: str, lines: Sequence[str]) -> Json:
    try:
        return json.loads(text)
    except ValueError:
        return [json.loads(line) for line in lines]


def _hook(provider: str, mark: object, event: object, resource: object, payload: Mapping[str, Json]) -> Hook:
    return Hook(
        id=_short(f"{provider}:{_said(mark)}"),
        event=f"{provider}.{mask(_said(event))}"[:200],
        resource=f"runbook.{provider}.{_name(resource)}",
        payload=mask(dict(payload)),
    )


def _wanted(hook: Hook, runbook: object) -> Hook:
    return hook.model_copy(update={"event": "runbook.wanted", "resource": f"runbook.{_name(runbook)}"})


def _said(value: object) -> str:
    """A name of the sender's; none would make the next hook without one its double."""
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise ValueError("no name")
    return str(value)


def _short(mark: str) -> str:
    """What a row has room for; two long ids with one beginning stay two."""
    return mark if len(mark) <= ID_LENGTH else f"{mark[:100]}:{_digest(mark)}"


def _project(about: Mapping[str, Json]) -> Json:
    """Its slug, which Sentry has in one place for each kind of hook, or its number."""
    project = about.get("project")
    if isinstance(project, Mapping):
        return project.get("slug") or project.get("id")
    return about.get("project_slug") or project or next(iter(about.get("projects") or ()), None)


def _name(text: object) -> str:
    return NAME.sub("-", str(mask(str(text))))[:100]


def _digest(value: Json) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
