"""Every guard that is taken away by ``tests.chaos.mutations``, and the tests that must notice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

GRAMMAR = ("tests/runbook/test_policy.py", "tests/runbook/test_permit.py", "tests/runbook/test_gate.py")
MACHINE = ("tests/chaos/test_gate_machine.py",)
UNDO = ("tests/runbook/test_undo.py",)
LEDGER = ("tests/runbook/test_ledger.py", "tests/runbook/test_races.py")
POOL = ("tests/flows/test_pool_hands.py", "tests/flows/test_pool_exhaustion_pure.py")
MONEY = (
    "tests/flows/test_failed_payments_hands.py",
    "tests/tasks/test_subscriptions.py",
    "tests/tasks/test_payments.py",
)

PAYMENTS = ("tests/tasks/test_payments.py",)
PURE_COOLDOWN = ("tests/runbook/test_cooldown_pure.py",)
QUESTIONS = ("tests/runbook/test_questions.py",)
LICENCE = ("tests/runbook/test_licence.py",)
STATUS = ("tests/tasks/test_status_page.py",)
WEBHOOKS = ("tests/ingress/test_ingress.py",)
SITE, SHUT, MAIL, DISK = (
    "tests/flows/test_site_down.py",
    "tests/flows/test_site_down_by_a_person.py",
    "tests/flows/test_undelivered_email.py",
    "tests/flows/test_full_disk.py",
)
LIMITS, GENERATIONS = "tests/flows/test_rate_limited_users", "tests/flows/test_failed_generations.py"
MEMORY = "tests/flows/test_memory_pressure.py"
MAIL_RACES = (f"{MAIL}::test_what_changed_since_it_was_read_is_left_alone",)
ACCOUNTS = ("tests/flows/test_broken_sessions.py::test_an_account_that_changed_since_is_not_touched",)
INDEXES = ("tests/flows/test_slow_queries.py",)


class Mutation(NamedTuple):
    """One guard: where it stands, its text, what is left without it, and the tests that must notice."""

    guard: str
    file: str
    old: str
    new: str
    tests: Sequence[str] = GRAMMAR


MUTATIONS = (
    Mutation("red button at the gate", "runbook/policy.py", "if facts.stopped is not None:", "if False:"),
    Mutation("red button at the hand", "runbook/ledger.py", "if fresh and self.stopped(connection) is not None:",
             "if False:"),
    Mutation("mode observe", "runbook/policy.py", "if facts.mode is Mode.observe:", "if False:"),
    Mutation("mode's ceiling", "runbook/model.py", "min(order.index(self), order.index(ceiling))", "order.index(self)"),
    Mutation("breaker on failures", "runbook/policy.py", "len(recent) < caps.failures_15min", "True"),
    Mutation("mass failure", "runbook/policy.py", "facts.share.value > bound", "False"),
    Mutation("an empty population is all sick", "runbook/model.py", "if self.of else 1.0", "if self.of else 0.0"),
    Mutation("one holder of a target, at the gate", "runbook/policy.py", "if fix.target in taken:", "if False:"),
    Mutation("mode approve asks", "runbook/policy.py", "facts.mode is Mode.approve and", "False and"),
    Mutation("risk person asks", "runbook/policy.py", "fix.risk is Risk.person and", "False and"),
    Mutation("a person's undo holds", "runbook/policy.py", "fix.target in facts.taken_back", "False"),
    Mutation("the gate asks what was undone", "runbook/gate.py", "taken_back=undo.taken_back(connection),", ""),
    Mutation("an undo is known by when it was made", "runbook/undo.py", "entry.c.at_ms > now_ms() - HOURS_24",
             "entry.c.at_ms > 0", UNDO),
    Mutation("what was done before an undo is not since it", "runbook/undo.py", ": inverse.seq if", ': row["seq"] if',
             UNDO),
    Mutation("an undo is said before it is done", "deployments/undoing.py", "intend(ledger, fix_id, one.id)", "pass",
             MONEY),
    Mutation("an act under way is not settled", "runbook/ledger.py", "return bool(row[", "return True or bool(row[",
             LEDGER),
    Mutation("cap per run", "runbook/policy.py", "(IN_RUN, cap.per_run)", "(IN_RUN, None)"),
    Mutation("cap per 15 minutes", "runbook/policy.py", "(IN_15MIN, cap.per_15min)", "(IN_15MIN, None)"),
    Mutation("cap per 24 hours", "runbook/policy.py", "(IN_24H, cap.per_24h)", "(IN_24H, None)"),
    Mutation("caps of every scope", "runbook/policy.py", '("target", target), ', ""),
    Mutation("grants of one plan count", "runbook/policy.py", "taken.add(fix.target)", "pass", (*GRAMMAR, *MACHINE)),
    Mutation("unfinished attempts count", "runbook/policy.py", "{FixState.failed, FixState.intended}",
             "{FixState.failed}"),
    Mutation("attempts count, not successes", "runbook/ledger.py", "attempted = (fix.c.intended_at_ms.is_not(None))",
             "attempted = (fix.c.state == FixState.failed.value)", (*GRAMMAR, *MACHINE)),
    Mutation("money over a day", "runbook/policy.py", "moved + money > cap.cents_24h", "False"),
    Mutation("the rule at the charge", "tasks/payments.py", "return why_not(now, int(time.time()), tried)",
             'return ""', MONEY),
    Mutation("read again under the lock", "runbook/gate.py", "if fix.key in fresh:", "if True:"),
    Mutation("no facts, no permit", "runbook/gate.py", "        raise\n    kept = []",
             "        return permit\n    kept = []"),
    Mutation("a permit is for one fix", "runbook/permit.py", "if self._keys.get(fix.id) != fix.key:", "if False:",
             (*GRAMMAR, *MACHINE)),
    Mutation("one attempt for one grant", "runbook/permit.py", "FixState.intended, {}, fresh=True):",
             "FixState.intended, {}, fresh=True) and False:", (*GRAMMAR, *MACHINE)),
    Mutation("a grant expires", "runbook/permit.py", "{}, fresh=True)", "{})", (*GRAMMAR, *MACHINE)),
    Mutation("a move needs its old state", "runbook/ledger.py",
             "fix.c.id == fix_id, fix.c.state.in_([state.value for state in old])", "fix.c.id == fix_id",
             (*LEDGER, *GRAMMAR)),
    Mutation("one holder of a target, in the database", "runbook/schema.py",
             "        unique=True,\n        sqlite_where", "        unique=False,\n        sqlite_where", LEDGER),
    Mutation("the canary first", "runbook/permit.py", "if any(fix.risk is Risk.guarded for fix in fixes):", "if False:",
             ("tests/runbook/test_apply.py",)),
    Mutation("settled by looking", "runbook/permit.py", "        proof = await hand.look_up(fix)\n",
             "        proof = Proof(held=True, seen='')\n", ("tests/runbook/test_apply.py",)),
    Mutation("an answer is for its plan", "runbook/approval.py", ' or said.plan != plan_hash(plan)', "",
             ("tests/runbook/test_approval.py",)),
    Mutation("a typed yes", "runbook/approval.py", '.strip().lower() != "yes"', '== "never"',
             ("tests/runbook/test_approval.py",)),
    Mutation("the session that was read", "tasks/sessions.py",
             "AND a.backend_start = %(backend_start)s::timestamptz", "", POOL),
    Mutation("the transaction that was read", "tasks/sessions.py",
             "AND a.xact_start IS NOT DISTINCT FROM %(xact_start)s::timestamptz", "", POOL),
    Mutation("what speaks for a session", "tasks/sessions.py", "AND ($spared) IS NULL)", ")", POOL),
    Mutation("the row that was read", "tasks/subscriptions.py", "AND {status}::text IS NOT DISTINCT FROM %(old)s",
             "AND (%(old)s::text IS NOT NULL OR true)", MONEY),
    Mutation("the licence to act alone", "runbook/run.py", "if self.mode is Mode.auto and not (found",
             "if False and not (found",
             ("tests/runbook/test_licence.py",)),
    Mutation("an event's cooldown", "runbook/cooldown.py", "if rule.once_within and", "if False and", PURE_COOLDOWN),
    Mutation("a target rests between runs", "runbook/policy.py", "if cap.rest_seconds is not None and",
             "if False and"),
    Mutation("a question expires", "runbook/questions.py", "+ TAKE_UP_MS < now_ms()", "+ TAKE_UP_MS < 0", QUESTIONS),
    Mutation("an answered run goes on once", "runbook/questions.py", 'run.c.outcome == "waiting")',
             "True)", QUESTIONS),
    Mutation("a licence has an age", "runbook/licence.py", "elif until <= now_ms():", "elif False:", LICENCE),
    Mutation("a licence is for this code", "runbook/licence.py", 'elif body.get("code") != code_version(runbook):',
             "elif False:", LICENCE),
    Mutation("a failed drill takes the licence", "runbook/licence.py", "if kind == REVOKED:", "if False:", LICENCE),
    Mutation("a failed proof takes the licence", "runbook/licence.py",
             "_failed(connection, runbook, at_ms)", '""', LICENCE),
    Mutation("money cap", "tasks/payments.py", "covered = invoice.amount_remaining <= left", "covered = True",
             PAYMENTS),
    Mutation("money cap of the whole run", "tasks/payments.py",
             "left -= invoice.amount_remaining if covered else 0", "left -= 0", PAYMENTS),
    Mutation("no charge after a hard decline", "tasks/payments.py", "if word := hard_decline(invoice):\n        return",
             "if False:\n        return", PAYMENTS),
    Mutation("the invoice that was read", "tasks/payments.py",
             "if fix.expect[name] != value]", "if False]", MONEY),
    Mutation("idempotency key of charges", "tasks/stripe_api.py",
             'options = {"idempotency_key": key} if key else {}', "options = {}", MONEY),
    Mutation("the endpoint that was read", "tasks/endpoints.py", 'if now != fix.expect["status"]:', "if False:", MONEY),
    Mutation("undo of what was done only", "deployments/undoing.py",
             "if done.state not in {FixState.proven, FixState.applied}:", "if False:",
             (f"{SHUT}::test_one_instance_more_and_back",)),
    Mutation("undo by compare-and-set", "tasks/rollback.py", 'now.live.id != fix.expect["deployment"] or', "",
             (f"{SITE}::test_an_undo_is_refused_after_a_later_deployment",)),
    Mutation("no roll back over a migration", "tasks/rollback.py", "if fix.action == ROLL_BACK and (", "if False and (",
             (f"{SITE}::test_a_migration_that_ends_while_it_is_decided_keeps_the_hand_closed",)),
    Mutation("the switch that was read", "tasks/maintenance.py", 'if state != fix.expect["state"]:', "if False:",
             (f"{SHUT}::test_an_instance_is_not_taken_back_once_a_person_changed_their_number",)),
    Mutation("one incident on the status page", "tasks/status_page.py", "if fix.action == POST and now:", "if False:",
             STATUS),
    Mutation("the incident that was read", "tasks/status_page.py", "if fix.action == CLOSE and", "if False and",
             STATUS),
    Mutation("signature of a webhook", "ingress/signatures.py", "if not any(hmac", "if False and not any(hmac",
             WEBHOOKS),
    Mutation("SendGrid's signature", "ingress/signatures.py", "public_key(secret).verify(", "bool and (", WEBHOOKS),
    Mutation("a webhook is fresh", "ingress/signatures.py", "if age > FRESH_SECONDS:", "if False:", WEBHOOKS),
    Mutation("trust that somebody gave", "tasks/quotas.py", "if _canonical(fix) in listed.everywhere:", "if False:",
             (f"{LIMITS}_faults.py::test_the_hand_looks_once_more_before_it_trusts",)),
    Mutation("never trust one's own proxy", "tasks/quotas.py",
             "if why := never(_ip(fix), settings().runbook_trusted_proxies):", 'if why := "":',
             (f"{LIMITS}_faults.py::test_the_hand_looks_once_more_before_it_trusts",)),
    Mutation("a person's trust is theirs", "tasks/quotas.py",
             "if _ip(fix) not in {one.ip for one", "if False and {one.ip for one",
             (f"{LIMITS}.py::test_undo_is_refused_when_a_person_added_it_since",)),
    Mutation("the suppression that was read", "tasks/suppressions.py",
             'if row is None or row.status != fix.expect["status"]:', "if row is None:", MAIL_RACES),
    Mutation("no mail against an objection", "tasks/suppressions.py",
             'or await read_objections.fn([row.address], ["spam_reports"]):', ":", MAIL_RACES),
    Mutation("an address held back", "tasks/suppressions.py", "if addresses.is_held_back(row.mark) or", "if",
             MAIL_RACES),
    Mutation("the reset that was read", "tasks/mail_log.py", "if found is None or found",
             "if found is not None and found",
             (f"{MAIL}::test_a_reset_that_was_sent_meanwhile_is_not_sent_twice",)),
    Mutation("the address's own row", "tasks/addresses.py",
             'if bool((was or {}).get("on")) != fix.expect["held_back"]:', "if False:",
             (f"{MAIL}::test_undo_is_refused_when_somebody_held_it_back_already",)),
    Mutation("no index that is there", "tasks/indexes.py", 'catalog.index(table.db_schema, fix.want["index"]) or', "",
             INDEXES),
    Mutation("the index that was read", "tasks/indexes.py", "if _image(index) != {**fix.expect}:", "if False:",
             ("tests/flows/test_slow_queries.py::test_an_index_that_somebody_changed_since_is_not_dropped",)),
    Mutation("the model's flag as it was read", "tasks/generation_switch.py", 'if state != fix.expect["state"]:',
             "if False:",
             (f"{GENERATIONS}::test_undo_turns_the_flag_back_and_refuses_after_a_person_turned_it",)),
    Mutation("a generation is made once", "tasks/generation_log.py", "if await _became(fix) is True:", "if False:",
             (f"{GENERATIONS}::test_a_generation_that_was_made_meanwhile_is_not_queued",)),
    Mutation("the log file that was read", "tasks/log_archive.py", "if not _same(known, fix.expect) or", "if",
             (f"{DISK}::test_written_to_between_plan_and_act_it_stays",)),
    Mutation("a log written to while packed", "tasks/log_archive.py", "if not _same(os.lstat(path), fix.expect):",
             "if False:", (f"{DISK}::test_written_to_while_it_was_packed_it_stays",)),
    Mutation("the copy that was made", "tasks/log_archive.py",
             'or os.lstat(packed).st_mtime_ns != fix.expect["mtime_ns"]', "",
             (f"{DISK}::test_undo_is_refused_when_the_copy_is_another",)),
    Mutation("the account that was read", "tasks/logins.py", ' AND {user_failed_logins} = %(failed)s"', '"', ACCOUNTS),
    Mutation("the lock that was read", "tasks/logins.py",
             " AND {user_locked_until}::text IS NOT DISTINCT FROM %(locked)s",
             " AND %(locked)s::text IS DISTINCT FROM ''",
             ACCOUNTS),
    Mutation("the process that was read", "tasks/restarts.py",
             'if await asyncio.to_thread(processes.same, str(fix.expect["id"])) is None:', "if False:",
             (f"{MEMORY}::test_one_that_was_replaced_before_the_hand_acts_is_not_restarted_again",)),
    Mutation("no signal to another process", "tasks/heap_snapshot.py", "if one is None:", "if False:",
             (f"{MEMORY}::test_a_snapshot_is_never_asked_of_a_process_that_took_the_pid_over",)),
    Mutation("the timeout that was read", "tasks/idle_timeout.py", 'if here != fix.expect["value"]:', "if False:",
             ("tests/flows/test_pool_hands.py::test_a_timeout_somebody_else_set_meanwhile_is_not_overwritten",)),
)  # fmt: skip
