"""``python -m ingress``: the receiver as a process of its own."""

from __future__ import annotations

import sys

import uvicorn

from ingress.app import create
from ingress.signatures import public_key
from runbook.errors import RunbookError
from runbook.ledger import ledger
from runbook.settings import settings


def main() -> int:
    """Serve until a signal; a bad setting is one line and exit 2."""
    try:
        known = settings()
        ledger()
        if known.ingress_sendgrid_public_key:
            public_key(known.secret("INGRESS_SENDGRID_PUBLIC_KEY"))
    except RunbookError as error:
        sys.stderr.write(f"runbook ingress: {error}\n")
        return 2
    host, port = known.ingress_host, known.ingress_port
    uvicorn.run(create(), host=host, port=port, access_log=False, log_level="warning", proxy_headers=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
