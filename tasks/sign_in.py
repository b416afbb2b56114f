"""Everything about logging in, side by side: who may be let out, and what speaks against letting anybody out. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from runbook.model import Frozen
from tasks.auth_probe import SKEW_SECONDS, Probe, ahead
from tasks.auth_secrets import Instances
from tasks.expired_sessions import Batch, Expired
from tasks.login_log import Attack, Logins, attacks, is_wide, targets
from tasks.logins import Account, Accounts


@dataclass(frozen=True)
class Bounds:
    """From when on something is wrong, and the mail address of the account a person wants unlocked."""

    users_per_ip: int
    ips_per_user: int
    jwt_errors: int
    unlock_email: str = ""


class Seen(Frozen):
    """One reading of all sides; None where a side is not configured or could not be read."""

    app_url: str | None = None
    has_log: bool = False
    instances: Instances = Instances()
    probes: tuple[Probe, ...] = ()
    logins: Logins | None = None
    accounts: Accounts | None = None
    sessions: Expired | None = None

    @property
    def shut(self) -> list[Account]:
        """Accounts whose lock has passed and whose counter stands."""
        return [one for one in self.accounts.accounts if one.shut] if self.accounts else []

    def attacks(self, at: Bounds) -> list[Attack]:
        """What the failed logins of the window show."""
        return attacks(self.logins.recent, at.users_per_ip, at.ips_per_user) if self.logins else []

    def to_reset(self, at: Bounds) -> list[Account]:
        """The shut accounts that may be let out: none that an attack names, and none at all while ``why_not``."""
        if self.why_not(at):
            return []
        attacked = targets(self.attacks(at))
        return [one for one in self.shut if not one.is_named(attacked)]

    def why_not(self, at: Bounds) -> str:
        """Why no account may be touched now, or nothing; what could not be read counts against it."""
        if self.accounts is None:
            return "the accounts could not be read"
        if self.logins is None:
            return "the app's log could not be read, so an attack cannot be ruled out"
        running = sum(one.running for one in self.accounts.accounts)
        if is_wide(self.attacks(at), running, at.users_per_ip):
            return f"an attack may mean any of them ({running} accounts are locked right now)"
        if abs(self.accounts.ahead_seconds - (ahead(self.probes) or 0)) > SKEW_SECONDS:
            return "the clocks of app and database differ, so which locks have passed is not known"
        return self.accounts.grant

    @property
    def to_purge(self) -> tuple[Batch, ...]:
        """Expired sessions that may be deleted: none where our role may not, or the database's clock is wrong."""
        if self.sessions is None or self.sessions.grant:
            return ()
        wrong = self.accounts is None or abs(self.accounts.ahead_seconds) > SKEW_SECONDS
        return () if wrong else self.sessions.batches

    def held(self, attack: Attack) -> bool:
        """Whether the app's own lock protects a single target: that is told, but nobody is woken for it."""
        accounts = self.accounts.accounts if self.accounts else ()
        return attack.kind == "targeted" and any(one.holds and one.is_named(attack.users) for one in accounts)

    def named(self, at: Bounds) -> list[Account]:
        """The account a person named."""
        return (
            [one for one in self.accounts.accounts if one.is_named({at.unlock_email.lower()})] if self.accounts else []
        )

    def to_unlock(self, at: Bounds) -> Account | None:
        """That account, where it is locked, or shut and not let out by itself."""
        due = self.to_reset(at)
        locked = [one for one in self.named(at) if one.locked_until and one not in due]
        return locked[0] if at.unlock_email and len(locked) == 1 else None
