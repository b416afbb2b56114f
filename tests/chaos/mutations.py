"""Takes each guard away, one at a time, and demands that some test fails: ``python -m tests.chaos.mutations``.

A guard whose loss nobody notices is no guard. The table goes to docs/mutations.md with ``--write``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
GRAMMAR = ("tests/runbook/test_policy.py", "tests/runbook/test_permit.py", "tests/runbook/test_gate.py")
MACHINE = ("tests/chaos/test_gate_machine.py",)
LEDGER = ("tests/runbook/test_ledger.py", "tests/runbook/test_races.py")
UNDO = ("tests/runbook/test_undo.py",)
POOL = ("tests/flows/test_pool_hands.py", "tests/flows/test_pool_exhaustion_pure.py")
MONEY = (
    "tests/flows/test_failed_payments_hands.py",
    "tests/tasks/test_subscriptions.py",
    "tests/tasks/test_payments.py",
)


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
)  # fmt: skip


def survives(mutation: Mutation, tree: Path) -> str:
    """Empty when a test failed as it must; otherwise what went wrong."""
    file = tree / mutation.file
    text = file.read_text("utf-8")
    if text.count(mutation.old) < 1:
        return "its text is not there any more: correct the mutation"
    file.write_text(text.replace(mutation.old, mutation.new), "utf-8")
    env = {**os.environ, "RUNBOOK_CHAOS_STEPS": "4000", "PYTHONPATH": str(tree)}
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutation.tests]
    try:
        done = subprocess.run(words, cwd=tree, env=env, capture_output=True, text=True, timeout=600, check=False)
    finally:
        file.write_text(text, "utf-8")
    if done.returncode == 1:
        return ""
    return "no test noticed" if done.returncode == 0 else f"the tests did not run: {done.stdout[-300:]}"


def killer(output: str) -> str:
    """The first test that failed, as pytest names it."""
    return next((line.split()[1] for line in output.splitlines() if line.startswith("FAILED ")), "")


def main() -> int:
    """Every mutation in a copy of the tree; 1 when one of them is survived."""
    lines = ["| guard taken away | file | noticed |", "|---|---|---|"]
    bad = 0
    with tempfile.TemporaryDirectory(prefix="runbook-mutations-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".venv", ".git", ".demo", "__pycache__", ".*_cache"))
        for at, mutation in enumerate(MUTATIONS, 1):
            why = survives(mutation, tree)
            bad += bool(why)
            sys.stdout.write(f"{at:>2}/{len(MUTATIONS)} {'ok  ' if not why else 'LIVE'} {mutation.guard} {why}\n")
            sys.stdout.flush()
            lines.append(f"| {mutation.guard} | {mutation.file} | {'yes' if not why else f'**NO**: {why}'} |")
    if "--write" in sys.argv:
        page = [
            "# What each guard is worth",
            "",
            "Made by `make chaos ARGS=--write`: each guard taken away, one at a time.",
            "",
        ]
        (ROOT / "docs" / "mutations.md").write_text("\n".join([*page, *lines]) + "\n", "utf-8")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
