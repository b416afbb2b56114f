"""The sides of logging in as a reading of them is kept: judged as the real ones are, and they name nobody.

Mail addresses, networks and ids get names that stand for them, but for the ids that fixes name anyway.
"""

from __future__ import annotations

from dataclasses import replace

from runbook.ledger import Ledger
from runbook.pseudonym import network, pseudonym
from tasks.login_log import Failure
from tasks.logins import Account
from tasks.sign_in import Bounds, Seen


def concealed(seen: Seen, at: Bounds, book: Ledger) -> tuple[Seen, Bounds]:
    """``seen`` and ``at`` without their people; accounts that may be let out, or that a person named, keep their id."""
    known = {one.id for one in (*seen.shut, *seen.named(at))}
    lower = {id_.lower() for id_ in known}

    def name(said: str) -> str:
        return said if said.lower() in lower else pseudonym(book, said.lower())

    def account(one: Account) -> Account:
        email = pseudonym(book, one.email.lower()) if one.email else one.email
        return one.model_copy(update={"id": name(one.id), "email": email})

    def failure(one: Failure) -> Failure:
        where = network(book, one.network) if one.network else None
        return one.model_copy(update={"said": name(one.said) if one.said else one.said, "network": where})

    logins, accounts = seen.logins, seen.accounts
    if logins is not None:
        logins = logins.model_copy(update={"failures": tuple(map(failure, logins.failures))})
    if accounts is not None:
        accounts = accounts.model_copy(update={"accounts": tuple(map(account, accounts.accounts))})
    unlock = name(at.unlock_email) if at.unlock_email else ""
    return seen.model_copy(update={"logins": logins, "accounts": accounts}), replace(at, unlock_email=unlock)
