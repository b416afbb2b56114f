"""The app's page and the files it loads, as a first-day Next.js app serves them: some well, some not."""

from __future__ import annotations

import gzip
import random
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response


@dataclass
class Assets:
    """What the page loads and with which headers; a test changes one thing and looks who notices."""

    compress: bool = True
    cache_control: str = "public, max-age=31536000, immutable"
    cdn: dict[str, str] = field(default_factory=lambda: {"x-vercel-cache": "HIT"})
    script_kilobytes: int = 120
    images: str = '<img src="/_next/image?url=%2Fhero.png&w=640" width="640" height="320" loading="lazy" alt="">'
    head: str = '<meta name="sentry-trace" content="4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1">'
    code: str = 'import("@sentry/nextjs")'

    def page(self) -> str:
        """The page's HTML."""
        return (
            f'<!doctype html><html><head>{self.head}<link rel="stylesheet" href="/_next/static/css/app.css">'
            '<script src="/_next/static/chunks/main.js" defer></script>'
            '<script src="/_next/static/chunks/polyfills.js" nomodule></script></head>'
            f"<body><h1>welcome</h1>{self.images}<p>{'résumés and letters ' * 100}</p></body></html>"
        )

    def answer(self, request: Request) -> Response:
        """One file of the page, compressed for who asks for it."""
        path = request.url.path
        if path == "/":
            return self._sent(request, self.page().encode(), "text/html; charset=utf-8", {})
        known = {"cache-control": self.cache_control, **self.cdn}
        if path.endswith("main.js"):
            noise = random.Random(7).randbytes(self.script_kilobytes * 1024 // 2).hex()  # hardly compresses below half
            return self._sent(request, f"{self.code}//{noise}".encode(), "text/javascript", known)
        if path.endswith("app.css"):
            return self._sent(request, b"p { margin: 0 }\n" * 200, "text/css", known)
        if path == "/_next/image":
            return Response(b"\x00" * 20_000, headers=known, media_type="image/webp")
        if path.endswith(".png"):
            return Response(b"\x89PNG" * 60_000, headers=known, media_type="image/png")
        return Response(status_code=404)

    def _sent(self, request: Request, body: bytes, kind: str, headers: dict[str, str]) -> Response:
        if self.compress and "gzip" in request.headers.get("accept-encoding", ""):
            return Response(gzip.compress(body), headers={**headers, "content-encoding": "gzip"}, media_type=kind)
        return Response(body, headers=headers, media_type=kind)
