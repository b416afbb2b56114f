"""Parts every test may use: a real PostgreSQL, a Stripe stand-in, and an environment that is this test's own."""

from __future__ import annotations
