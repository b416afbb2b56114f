"""Every vendor the app leans on: whether it takes our key now, and what its own status page says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum

from runbook.errors import BadSetting, NotConfigured, OutsideError, RunbookError
from runbook.ledger import ledger
from runbook.mask import mask
from runbook.model import Frozen, Json
from runbook.settings import settings
from runbook.step import reader
from tasks import endpoints, generation, generation_switch, mail, sentry, smtp, stripe_api
from tasks.generation_errors import MEANING
from tasks.web import call

VENDOR_SECONDS = 20.0
PROBE_SECONDS = 10.0


class Standing(StrEnum):
    """``down``: it fails or is silent. ``refused``: it answers and turns our account down. ``unset``: not ours."""

    up = "up"
    down = "down"
    refused = "refused"
    unset = "unset"


class PublicIncident(Frozen):
    """One open incident on a vendor's status page; ``impact`` is none, minor, major or critical."""

    name: str
    impact: str
    started_at: str
    link: str = ""


class Vendor(Frozen):
    """One vendor: how it stands with us, and its status page where one is configured (``page_unseen``: why not)."""

    name: str
    standing: Standing
    said: str = ""
    incidents: tuple[PublicIncident, ...] = ()
    page_unseen: str = ""

    @property
    def sick(self) -> bool:
        """It fails us now. An incident on its page alone says nothing of us."""
        return self.standing in {Standing.down, Standing.refused}


async def read_vendors() -> tuple[Vendor, ...]:
    """Every configured vendor at once, and every status page; one that hangs holds up no other."""
    pages = status_pages()
    names = list(dict.fromkeys([*PROBES, *pages]))
    found = await asyncio.gather(*(_vendor(name, pages.get(name, "")) for name in names))
    return tuple(one for one in found if one.standing is not Standing.unset or pages.get(one.name))


async def _vendor(name: str, page: str) -> Vendor:
    probed, public = await asyncio.gather(_probed(name), _public(name, page))
    incidents, unseen = public
    return probed.model_copy(update={"incidents": incidents, "page_unseen": unseen})


async def _probed(name: str) -> Vendor:
    probe = PROBES.get(name)
    if probe is None:
        return Vendor(name=name, standing=Standing.unset)
    try:
        async with asyncio.timeout(VENDOR_SECONDS):
            said = await probe()
    except NotConfigured:
        return Vendor(name=name, standing=Standing.unset)
    except TimeoutError:
        return Vendor(name=name, standing=Standing.down, said=f"{name} gave no answer in {VENDOR_SECONDS:g} s")
    except BadSetting as error:
        return Vendor(name=name, standing=Standing.refused, said=str(mask(str(error))))
    except RunbookError as error:
        return Vendor(name=name, standing=Standing.down, said=str(mask(str(error))))
    return Vendor(name=name, standing=Standing.refused if said else Standing.up, said=said)


# -- probes: '' when all is well, else why our account is turned down; OutsideError when the vendor is down ------------


async def _stripe() -> str:
    settings().need("STRIPE_SECRET_KEY")
    await stripe_api.probe_key()
    if not settings().app_url:
        return ""
    url = endpoints.webhook_url()
    off = [one for one in endpoints.of_app(await endpoints.read_endpoints(), url) if one.status == "disabled"]
    return f"Stripe has switched the webhook endpoint {url} off: no event reaches the app" if off else ""


async def _openai() -> str:
    access = generation.primary()
    if access is None:
        raise NotConfigured("OPENAI_API_KEY", "OPENAI_MODEL")
    if not generation_switch.missing() and (await generation_switch.read_switch(ledger())).state == "fallback":
        access = generation.fallback() or access  # what the app uses now
    found = await generation.read_probe(access, 1, 0.0, PROBE_SECONDS)
    meaning = MEANING.get(found.kind)
    if meaning is None:
        return ""
    if meaning.account or found.listed is False:
        return f"{access.model}: {meaning.problem}. Next: {meaning.next_step}"
    raise OutsideError(access.model, meaning.problem, meaning.next_step)


async def _sendgrid() -> str:
    settings().need("SENDGRID_API_KEY")
    return "" if "mail.send" in await mail.read_scopes() else "SENDGRID_API_KEY may not send: grant it mail.send"


async def _smtp() -> str:
    settings().need("SMTP_HOST")
    await smtp.read_smtp(settings().smtp_from or "")
    return ""


async def _sentry() -> str:
    await sentry.read_error_counts(1)
    return ""


PROBES: Mapping[str, Callable[[], Awaitable[str]]] = {
    "stripe": _stripe,
    "openai": _openai,
    "sendgrid": _sendgrid,
    "smtp": _smtp,
    "sentry": _sentry,
}


# -- status pages -----------------------------------------------------------------------------------------------------


def status_pages() -> dict[str, str]:
    """Each vendor's status page out of ``RUNBOOK_STATUS_PAGES``; raises ``BadSetting`` for what is no ``name=url``."""
    found = {}
    for pair in settings().runbook_status_pages:
        name, sep, url = pair.partition("=")
        if not sep or not url.startswith(("http://", "https://")):
            raise BadSetting(
                "RUNBOOK_STATUS_PAGES", f"{pair} is no name=url", "write stripe=https://www.stripestatus.com,…"
            )
        found[name.strip().lower()] = url.strip().rstrip("/")
    return found


async def _public(name: str, page: str) -> tuple[tuple[PublicIncident, ...], str]:
    if not page:
        return (), ""
    try:
        return await read_status_page(name, page), ""
    except OutsideError as error:
        return (), f"{name}'s status page: {error.problem}"


@reader("read the status page of {name}")
async def read_status_page(name: str, page: str) -> tuple[PublicIncident, ...]:
    """The open incidents of a vendor. Source: GET /api/v2/summary.json, as Statuspage serves it."""
    setting = f"RUNBOOK_STATUS_PAGES ({name})"
    answer = await call(setting, "GET", f"{page}/api/v2/summary.json", seconds=PROBE_SECONDS)
    if answer.status != 200:
        raise OutsideError(setting, f"answered {answer.status}", f"open {page}")
    body = answer.parsed(setting)
    try:
        return tuple(map(_incident, body["incidents"]))
    except (KeyError, TypeError):
        raise OutsideError(setting, "is no status page of Statuspage's form", "name one that is") from None


def _incident(row: Mapping[str, Json]) -> PublicIncident:
    return PublicIncident(
        name=str(row["name"])[:200],
        impact=str(row["impact"]),
        started_at=str(row.get("started_at") or row["created_at"]),
        link=str(row.get("shortlink") or ""),
    )


def sick(vendors: Sequence[Vendor]) -> list[Vendor]:
    """Those that fail us now."""
    return [one for one in vendors if one.sick]
