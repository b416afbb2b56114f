"""What the app's own page says of the checklist: its assets, their headers and size, images, scripts, tracing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

from runbook.errors import OutsideError
from runbook.model import Frozen
from runbook.settings import settings
from runbook.step import reader
from tasks.audit import Bounds, Item, State
from tasks.web import Answer, call

CDN, COMPRESSION, IMAGES = "CDN for static assets", "compression", "optimised images"
LAZY, TRACING = "lazy loading", "Sentry performance monitoring"
AT_MOST, AT_ONCE, HOPS = 40, 4, 3
LONG_SECONDS = 86_400
TINY = 1024
"""Bytes below which compressing is not worth its header."""

CDN_MARKS = ("cf-cache-status", "x-vercel-cache", "x-cache", "x-amz-cf-id", "x-served-by", "x-nf-request-id", "age")
ENCODINGS = {"gzip", "br", "zstd"}
MODERN = {"image/avif", "image/webp", "image/svg+xml"}
TRACES = re.compile(rb"tracesSampleRate[\"']?\s*:\s*(?!0(?:\.0*)?\s*[,}\n])|tracesSampler\b|browserTracingIntegration")
SENTRY = re.compile(rb"ingest(?:\.\w+)?\.sentry\.io|@sentry/|__SENTRY__|sentry-trace")


class Asset(Frozen):
    """One file the page loads. ``sent`` is its size on the wire as far as it is told, ``whole`` its size unpacked."""

    url: str
    kind: str
    status: int
    headers: Mapping[str, str]
    sent: int
    whole: int
    traces: bool = False
    sentry: bool = False


class Image(Frozen):
    """One image of the page as its tag says."""

    url: str
    sized: bool
    lazy: bool

    @property
    def optimised(self) -> bool:
        return "/_next/image" in self.url or urlsplit(self.url).path.endswith(".svg")


class Page(Frozen):
    """The app's page: its address after redirects, its headers, what it loads and what it says in its head."""

    url: str
    headers: Mapping[str, str]
    whole: int
    images: tuple[Image, ...]
    assets: tuple[Asset, ...]
    lost: int
    metas: tuple[str, ...]
    sentry: bool


class _Tags(HTMLParser):
    """Scripts, style sheets, images and names of meta tags, in the order of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.metas: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what the audit looks at."""
        given = dict(attrs)
        if tag == "script" and given.get("src") and "nomodule" not in given:
            self.scripts.append(given["src"] or "")
        elif tag == "link" and given.get("href") and "stylesheet" in (given.get("rel") or ""):
            self.styles.append(given["href"] or "")
        elif tag == "img" and given.get("src"):
            self.images.append(given)
        elif tag == "meta" and given.get("name"):
            self.metas.append(given["name"] or "")


@reader("read the app's page and what it loads")
async def read_page() -> Page:
    """The page at ``APP_URL``, and every script, style sheet and image it names, 40 at most. Nothing is sent to it."""
    url, answer = await _follow(settings().secret("APP_URL"))
    if answer.status != 200:
        raise OutsideError("APP_URL", f"answered {answer.status}", "see whether it is up")
    tags = _Tags()
    tags.feed(answer.body.decode("utf-8", "replace"))
    images = tuple(
        Image(
            url=urljoin(url, one["src"] or ""),
            sized=bool(one.get("width") and one.get("height")),
            lazy=one.get("loading") == "lazy",
        )
        for one in tags.images
        if not (one["src"] or "").startswith("data:")
    )
    wanted = [("script", one) for one in tags.scripts] + [("style", one) for one in tags.styles]
    wanted += [("image", one.url) for one in images]
    known = list(dict.fromkeys((kind, urljoin(url, one)) for kind, one in wanted))[:AT_MOST]
    slots = asyncio.Semaphore(AT_ONCE)
    found = await asyncio.gather(*(_asset(kind, one, slots) for kind, one in known))
    assets = tuple(one for one in found if one is not None)
    return Page(
        url=url,
        headers=answer.headers,
        whole=len(answer.body),
        images=images,
        assets=assets,
        lost=len(known) - len(assets),
        metas=tuple(tags.metas),
        sentry=SENTRY.search(answer.body) is not None,
    )


async def _follow(url: str) -> tuple[str, Answer]:
    for _ in range(HOPS):
        answer = await call("APP_URL", "GET", url, headers={"accept-encoding": "gzip", "accept": "text/html"})
        if answer.status not in {301, 302, 303, 307, 308} or "location" not in answer.headers:
            return url, answer
        url = urljoin(url, answer.headers["location"])
    raise OutsideError("APP_URL", f"redirects more than {HOPS} times", "set APP_URL to where it leads")


async def _asset(kind: str, url: str, slots: asyncio.Semaphore) -> Asset | None:
    headers = {"accept-encoding": "gzip", "accept": "image/avif,image/webp,*/*" if kind == "image" else "*/*"}
    if urlsplit(url).scheme not in {"http", "https"}:
        return None
    try:
        async with slots:
            answer = await call("APP_URL", "GET", url, headers=headers)
    except OutsideError:
        return None  # counted as lost
    told = answer.headers.get("content-length", "")
    return Asset(
        url=url,
        kind=kind,
        status=answer.status,
        headers=answer.headers,
        sent=int(told) if told.isdecimal() else len(answer.body),
        whole=len(answer.body),
        traces=kind == "script" and TRACES.search(answer.body) is not None,
        sentry=kind == "script" and SENTRY.search(answer.body) is not None,
    )


def _of(page: Page, *kinds: str) -> list[Asset]:
    return [one for one in page.assets if one.kind in kinds and one.status == 200]


def _short(urls: Sequence[str]) -> str:
    more = f" and {len(urls) - 3} more" if len(urls) > 3 else ""
    return ", ".join(urlsplit(one).path[-60:] for one in urls[:3]) + more


def judge_cdn(page: Page, _at: Bounds) -> Item:
    """Every script and style sheet may be kept for long, and comes through a cache near its reader."""
    assets = _of(page, "script", "style")
    if not assets:
        return Item(name=CDN, state=State.not_applying, seen="the page loads no script and no style sheet")
    brief = [one.url for one in assets if _max_age(one.headers) < LONG_SECONDS]
    if brief:
        step = "let /_next/static be cached as immutable: Cache-Control: public, max-age=31536000, immutable"
        return Item(name=CDN, state=State.failed, seen=f"kept for under a day: {_short(brief)}", next_step=step)
    far = [one.url for one in assets if not _through_cdn(page, one)]
    if far:
        step = "put a CDN before the app, or set assetPrefix to one"
        return Item(name=CDN, state=State.failed, seen=f"no sign of a CDN: {_short(far)}", next_step=step)
    marks = sorted({mark for one in assets for mark in CDN_MARKS if mark in one.headers})
    seen = f"{len(assets)} assets kept for a day or more; {', '.join(marks) or 'from another host'}"
    return Item(name=CDN, state=State.passed, seen=seen)


def _max_age(headers: Mapping[str, str]) -> int:
    told = headers.get("cache-control", "")
    found = re.search(r"(?:s-maxage|max-age)=(\d+)", told)
    return 0 if found is None or "no-store" in told or "no-cache" in told else int(found[1])


def _through_cdn(page: Page, asset: Asset) -> bool:
    return urlsplit(asset.url).netloc != urlsplit(page.url).netloc or any(mark in asset.headers for mark in CDN_MARKS)


def judge_compression(page: Page, _at: Bounds) -> Item:
    """The page, its scripts and its style sheets come compressed to who asks for it; what is tiny need not."""
    found = [(page.url, page.whole, page.headers)]
    found += [(one.url, one.whole, one.headers) for one in _of(page, "script", "style")]
    worth = [(url, headers) for url, whole, headers in found if whole >= TINY]
    plain = [url for url, headers in worth if headers.get("content-encoding", "") not in ENCODINGS]
    if plain:
        step = "leave compress on in next.config.js, or let the proxy compress text/html, CSS and JavaScript"
        return Item(name=COMPRESSION, state=State.failed, seen=f"sent as they are: {_short(plain)}", next_step=step)
    if not worth:
        return Item(name=COMPRESSION, state=State.not_applying, seen=f"nothing is larger than {TINY} bytes")
    used = sorted({headers["content-encoding"] for _url, headers in worth})
    return Item(name=COMPRESSION, state=State.passed, seen=f"{len(worth)} answers in {', '.join(used)}")


def judge_images(page: Page, at: Bounds) -> Item:
    """Images come through next/image or in a modern format, are not heavy, and have their size said."""
    if not page.images:
        return Item(name=IMAGES, state=State.not_applying, seen="the page shows no image")
    files = {one.url: one for one in _of(page, "image")}
    modern = {url for url, one in files.items() if one.headers.get("content-type", "").partition(";")[0] in MODERN}
    faults = {
        "neither by next/image nor AVIF, WebP or SVG": [
            one.url for one in page.images if not one.optimised and one.url not in modern
        ],
        f"over {at.image_kilobytes} kB": [url for url, one in files.items() if one.sent > at.image_kilobytes * 1024],
        "without width and height": [one.url for one in page.images if not one.sized],
    }
    said = [f"{what}: {_short(urls)}" for what, urls in faults.items() if urls]
    if said:
        step = "use next/image, which sizes, converts and delays them"
        return Item(name=IMAGES, state=State.failed, seen="; ".join(said), next_step=step)
    lazy = sum(one.lazy for one in page.images)
    return Item(name=IMAGES, state=State.passed, seen=f"{len(page.images)} images, {lazy} of them lazy")


def judge_lazy(page: Page, at: Bounds) -> Item:
    """What the page's script tags load at once is inside the budget."""
    scripts = _of(page, "script")
    if not scripts:
        return Item(name=LAZY, state=State.not_applying, seen="the page loads no script")
    total = sum(one.sent for one in scripts)
    worst = max(scripts, key=lambda one: one.sent)
    seen = f"{len(scripts)} scripts of {total / 1024:.0f} kB on the wire, the largest {_short([worst.url])} "
    seen += f"({worst.sent / 1024:.0f} kB); the budget is {at.script_kilobytes} kB"
    if total > at.script_kilobytes * 1024:
        step = "load heavy components by next/dynamic; ANALYZE=true next build shows what is in them"
        return Item(name=LAZY, state=State.failed, seen=seen, next_step=step)
    return Item(name=LAZY, state=State.passed, seen=seen)


def judge_tracing(page: Page, *, dsn: bool) -> Item:
    """Sentry is in the page and traces: its meta tags, or a sample rate in a script."""
    tags = sorted({"sentry-trace", "baggage"} & set(page.metas))
    traces = [one.url for one in page.assets if one.traces]
    if tags or (traces and any(one.sentry for one in page.assets)):
        seen = f"meta tags {', '.join(tags)}" if tags else f"a sample rate in {_short(traces)}"
        return Item(name=TRACING, state=State.passed, seen=seen)
    there = page.sentry or any(one.sentry for one in page.assets)
    if there:
        step = "set tracesSampleRate in Sentry.init, 0.1 to begin with"
        return Item(name=TRACING, state=State.failed, seen="Sentry is in the page and does not trace", next_step=step)
    seen = "SENTRY_DSN is set, but Sentry is not in the page" if dsn else "no sign of Sentry in the page"
    step = "add @sentry/nextjs with tracesSampleRate"
    return Item(name=TRACING, state=State.failed, seen=seen, next_step=step)
