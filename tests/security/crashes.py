"""A run that ends in errors nobody expected, which say a secret: the search for canaries starts it on real Prefect."""

from __future__ import annotations

import asyncio
import contextlib
import sys

from prefect import flow

from runbook.errors import OutsideError
from runbook.model import Mode
from runbook.run import Run
from runbook.step import reader


@reader("read what fails")
async def read_badly() -> None:
    """Fail as an SDK does."""
    secret = sys.argv[1]
    try:
        raise ValueError(f"token={secret}")
    except ValueError as error:
        raise ConnectionError(f"cannot reach https://u:{secret}@host/?api_key={secret}") from error


@reader("read what is refused")
async def read_refused() -> None:
    """Fail as a reader does."""
    raise OutsideError("vendor", f"said: Bearer {sys.argv[1]} is not valid", "nothing")


@flow
async def crash() -> None:
    """Each failure in a task, and one in the flow itself. The secret is no parameter: Prefect keeps those."""
    secret = sys.argv[1]
    async with Run("pool-exhaustion", Mode.observe) as run:
        for step in (read_badly, read_refused):
            with contextlib.suppress(Exception):
                await step()
        run.notice(f"password={secret}")
        raise RuntimeError(f"password={secret}")


if __name__ == "__main__":
    with contextlib.suppress(Exception):
        asyncio.run(crash())
