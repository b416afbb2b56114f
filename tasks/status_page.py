"""The public status page, on Statuspage or Instatus: what is open on it, and words put on it once a person agrees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from runbook.errors import BadSetting, OutsideError, RunbookError
from runbook.model import Fix, Frozen, Json, Proof, Risk
from runbook.permit import Permit
from runbook.settings import settings
from runbook.step import hand, reader
from tasks.web import Answer, call

POST, CLOSE = "post_status", "close_status"
SECONDS = 10.0


class Open(Frozen):
    """One incident that the public can see and that is not resolved."""

    id: str
    name: str
    status: str


class Words(NamedTuple):
    """What the public is to read."""

    name: str
    message: str


class Form(NamedTuple):
    """How one provider is spoken to: its settings, its path, how it authorises, and which words it knows."""

    key: str
    page: str
    base: str
    scheme: str
    unresolved: str
    investigating: str
    resolved: str


FORMS: Mapping[str, Form] = {
    "statuspage": Form(
        *("STATUSPAGE_API_KEY", "STATUSPAGE_PAGE_ID", "STATUSPAGE_API_BASE"),
        *("OAuth", "/v1/pages/{page}/incidents/unresolved", "investigating", "resolved"),
    ),
    "instatus": Form(
        *("INSTATUS_API_KEY", "INSTATUS_PAGE_ID", "INSTATUS_API_BASE"),
        *("Bearer", "/v1/{page}/incidents", "INVESTIGATING", "RESOLVED"),
    ),
}
CALM = Words(
    "Some of our pages are not working",
    "We see errors and are working on it. We will write again within the hour.",
)
"""Says what a visitor can see anyway and promises only what can be kept; a person changes it on the page itself."""

OVER = Words(CALM.name, "The errors are over. We go on watching.")


def configured() -> list[str]:
    """The providers that have a key and a page."""
    return [name for name, form in FORMS.items() if _set(form.key) and _set(form.page)]


def _set(setting: str) -> bool:
    return bool(getattr(settings(), setting.lower()))


async def read_shown() -> tuple[dict[str, list[Open]], list[str]]:
    """What each configured provider shows as open, and in a line each why one could not be read."""
    shown, unseen = {}, []
    for name in configured():
        try:
            shown[name] = await read_open(name)
        except RunbookError as error:
            unseen.append(str(error))
    return shown, unseen


@reader("read what {provider} shows as open")
async def read_open(provider: str) -> list[Open]:
    """The incidents the public can see and that are not resolved, the newest first."""
    return await _open(provider)


async def _open(provider: str) -> list[Open]:
    form = FORMS[provider]
    answer = await _asked(provider, "GET", form.unresolved.format(page=_page(form)))
    try:
        found = [Open(id=str(row["id"]), name=row["name"], status=row["status"]) for row in answer.parsed(form.base)]
    except (KeyError, TypeError, ValueError):
        raise OutsideError(form.base, "answers in another form", f"see whether {form.base} is right") from None
    return [one for one in found if one.status.lower() not in {"resolved", "postmortem", "completed"}]


def post(provider: str, words: Words = CALM) -> Fix:
    """Open an incident on the page. Subscribers get mail of it, so a person decides."""
    return Fix(
        action=POST,
        target=f"status page on {provider}",
        risk=Risk.person,
        why="customers read there what is wrong and that somebody is at it",
        undo="a person resolves it; mail that went out stays out",
        expect={"open": []},
        want=words._asdict(),
    )


def close(provider: str, one: Open, words: Words = OVER) -> Fix:
    """Resolve the one we opened. Subscribers get mail of it, so a person decides."""
    return Fix(
        action=CLOSE,
        target=f"status page on {provider}",
        risk=Risk.person,
        why="the site has been well for twice the alert window",
        undo="cannot be undone by a machine: open it again on the page",
        expect={"id": one.id, "name": one.name},
        want={"message": words.message, "resolved": True},
    )


async def plan_post() -> tuple[list[Fix], list[str]]:
    """Open an incident wherever none is open, and in a line each why not elsewhere."""
    shown, unseen = await read_shown()
    lines = [f"{name} shows already: {found[0].name}" for name, found in shown.items() if found]
    return [post(name) for name, found in shown.items() if not found], [
        *lines,
        *(f"cannot see: {one}" for one in unseen),
    ]


async def plan_close() -> tuple[list[Fix], list[str]]:
    """Resolve whatever still shows the words we opened with, and in a line each why a provider could not be read."""
    shown, unseen = await read_shown()
    return [close(name, one) for name, found in shown.items() for one in found if one.name == CALM.name], unseen


@hand("write to the {fix.target}")
async def write_status(fix: Fix, permit: Permit) -> None:
    """Open an incident where none is open, or resolve the one that was read as open."""
    provider = fix.target.rpartition(" ")[2]
    form = FORMS[provider]
    with permit.attempt(fix) as attempt:
        now = await _open(provider)
        if fix.action == POST and now:
            attempt.moved_on(f"an incident is open already: {now[0].name}")
            return
        if fix.action == CLOSE and fix.expect["id"] not in {one.id for one in now}:
            attempt.moved_on("it is resolved by now")
            return
        try:
            await _write(provider, form, fix)
        except BadSetting as no:
            attempt.failed(str(no))


async def _write(provider: str, form: Form, fix: Fix) -> None:
    opening = fix.action == POST
    message = str(fix.want["message"])
    state = form.investigating if opening else form.resolved
    one = "" if opening else f"/{fix.expect['id']}"
    if provider == "statuspage":
        body: dict[str, Json] = {"status": state, "body": message}
        body |= {"name": fix.want["name"], "deliver_notifications": True} if opening else {}
        path = f"/v1/pages/{_page(form)}/incidents{one}"
        await _asked(provider, "POST" if opening else "PATCH", path, {"incident": body})
        return
    body = {"message": message, "status": state, "notify": True, "components": []}
    body |= {"name": fix.want["name"]} if opening else {}
    path = f"/v1/{_page(form)}/incidents{one}" + ("" if opening else "/incident-updates")
    await _asked(provider, "POST", path, body)


@reader("look up the {fix.target}")
async def look_up_status(fix: Fix) -> Proof:
    """Whether the page shows what the fix wanted it to show."""
    now = await _open(fix.target.rpartition(" ")[2])
    names = ", ".join(one.name for one in now) or "nothing"
    if fix.action == POST:
        return Proof(held=fix.want["name"] in {one.name for one in now}, seen=f"open: {names}")
    return Proof(held=fix.expect["id"] not in {one.id for one in now}, seen=f"open: {names}")


def _page(form: Form) -> str:
    return str(getattr(settings(), form.page.lower()))


async def _asked(provider: str, method: str, path: str, body: Json = None) -> Answer:
    form = FORMS[provider]
    headers = {"Authorization": f"{form.scheme} {settings().secret(form.key)}"}
    url = f"{getattr(settings(), form.base.lower())}{path}"
    answer = await call(form.base, method, url, headers=headers, json=body, seconds=SECONDS)
    if answer.status < 300:
        return answer
    if answer.status in {401, 403}:
        raise BadSetting(form.key, f"{provider} does not let it in ({answer.status})", "make a new API key")
    if answer.status == 404:
        raise BadSetting(form.page, f"{provider} knows no such page", "copy the page's id")
    said = f"answered {answer.status}: {answer.body[:200].decode('utf-8', 'replace')}"
    if answer.status == 429 or answer.status >= 500:
        raise OutsideError(form.base, said, f"write on {provider} by hand", transient=True)
    raise BadSetting(provider, f"refused the words ({said})", f"write on {provider} by hand")
