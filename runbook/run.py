"""One run of a runbook: what it found, what it may do, and the report it ends with."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import cast

from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.states import Completed, Failed
from sqlalchemy import func, select

from runbook import artifacts, incidents, licence, outbox, postmortem, questions, recorder
from runbook.errors import NotConfigured, RunbookError, without_secrets
from runbook.ledger import ledger, now_ms
from runbook.mask import mask
from runbook.model import Finding, Fix, FixState, Frozen, Json, Mode, Outcome, Report
from runbook.permit import Hand, settle
from runbook.process import is_dead
from runbook.recorder import Snapshot
from runbook.schema import run as table
from runbook.settings import settings

ACT_MS = 15 * 60 * 1000
"""An older intent of another host is taken for left behind, since nobody can tell from here; on this host one can."""

GONE_MS = 2 * 86_400_000
"""Longer than any run with its question, which waits a day at most: an older one is of a host that is gone."""

ACTED = frozenset({FixState.intended, FixState.applied, FixState.proven, FixState.failed, FixState.undone})


class Unsolved(Exception):
    """Carries the report of a run a person must look at; an exception because Prefect demands one of a failed state."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.one_line)
        self.report = report


class Run:
    """``async with Run(...)``: writes the run to the ledger, turns typed errors into a refused report.

    ``mode`` is lowered to the ceiling ``RUNBOOK_MODE``. After the block ``result()`` is the report. ``pages`` is False
    for a run whose findings are no incident, or that does not look at all its runbook looks at.
    """

    def __init__(self, runbook: str, mode: Mode, *, pages: bool = True) -> None:
        self.runbook, self._pages = runbook, pages
        asked = Mode(mode)
        self.mode = asked.under(settings().runbook_mode)
        self.ledger = ledger()
        self.findings: list[Finding] = []
        self.notices: list[str] = []
        self._remaining: list[Finding] | None = None
        self._reason = ""
        self._not_configured = False
        self._started = time.monotonic()
        self.id = ""
        self.report: Report | None = None
        self.asks: questions.Question | None = None
        self.goes_on = False  # it was asked before, and has its answer
        if self.mode is not asked:
            self.notices.append(f"mode {asked} lowered to {self.mode}: RUNBOOK_MODE is the ceiling")

    async def __aenter__(self) -> Run:
        if self.mode is Mode.auto and not (found := licence.standing(self.ledger, self.runbook)).valid:
            self.mode = Mode.approve
            step = f"runbook drill {self.runbook}, or RUNBOOK_LICENCE_DAYS=0"
            self.notices.append(f"mode auto lowered to approve: {found.why}. Next: {step}")
        context = FlowRunContext.get()
        flow_run = str(context.flow_run.id) if context is not None and context.flow_run is not None else ""
        known = questions.go_on(self.ledger, flow_run, self.mode)
        self.id, self.goes_on = known or self.ledger.open_run(self.runbook, self.mode), known is not None
        for text in questions.expire(self.ledger):
            self.notice(text)
        if context is not None:
            await questions.begin_again(self.ledger)
        self._close_dead()
        return self

    def _close_dead(self) -> None:
        """Write that runs of this runbook have ended whose process is gone: it could not do so itself."""
        columns = (table.c.id, table.c.owner, table.c.started_at_ms)
        open_runs = select(*columns).where(table.c.runbook == self.runbook, table.c.outcome.is_(None))
        with self.ledger.read() as connection:
            rows = connection.execute(open_runs).all()
        for row in rows:
            if row.id != self.id and (is_dead(row.owner) or row.started_at_ms < now_ms() - GONE_MS):
                self.ledger.close_run(row.id, "crashed", {"error": "its process is gone"})

    def well_ms(self) -> int:
        """When this runbook last ended with all well (Unix ms; 0 for never): what a log said before that is past.

        An end that lies ahead is of a clock that was wrong, and hides nothing.
        """
        well = table.c.outcome.in_([Outcome.healthy.value, Outcome.fixed.value]) & (table.c.ended_at_ms <= now_ms())
        rule = select(func.max(table.c.ended_at_ms)).where(table.c.runbook == self.runbook, well)
        with self.ledger.read() as connection:
            return connection.execute(rule).scalar() or 0

    def found(self, findings: Sequence[Finding]) -> None:
        """Keep what is wrong, masked, here and in the ledger."""
        masked = [Finding(**mask(one.model_dump(mode="json"))) for one in findings]
        self.findings += masked
        self.ledger.found(self.id, masked)
        if self._pages:
            incidents.found(self.ledger, self.id, self.runbook, masked)

    def saw(self, stage: str, reading: Frozen | Sequence[Frozen], *, sick: bool, **parameters: Json) -> None:
        """Keep what was read, and the parameters it was judged by, for ``runbook backtest``."""
        seen = reading.model_dump(mode="json") if isinstance(reading, Frozen) else [*map(_dumped, reading)]
        kept = Snapshot(run_id=self.id, stage=stage, at_ms=now_ms(), parameters=parameters, reading=seen)
        recorder.keep(self.ledger, kept, self.runbook, sick=sick)

    def notice(self, text: str) -> None:
        """Tell a person something that is no finding."""
        self.notices.append(str(mask(text)))

    def remains(self, findings: Sequence[Finding]) -> None:
        """Say what a second reading of the world still found; may be called once for each stage of a run."""
        self._remaining = [*(self._remaining or ()), *findings]

    async def settle(self, hands: Mapping[str, Hand]) -> None:
        """Look up what really became of fixes whose process died between intent and proof."""
        for fix in self.ledger.unsettled(self.runbook, ACT_MS):
            if fix.action not in hands:
                self.notice(
                    f"{fix.id} ({fix.action} {fix.target}) was begun by another version and is left to a person"
                )
                continue
            await settle(self.ledger, fix, hands[fix.action])
            state = self.ledger.state(fix.id)
            what = {FixState.proven: "", FixState.failed: ", not done"}.get(state, ", could not be seen")
            self.notice(f"settled {fix.id} ({fix.action} {fix.target}) by looking: {state}{what}")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Pause) and self.asks is not None:
            questions.asked(self.ledger, self.id, self.runbook, self.asks)
            return False
        if error is not None and not isinstance(error, RunbookError):
            self.ledger.close_run(self.id, "crashed", {"error": kind.__name__ if kind else ""})
            quieter = without_secrets(error) if isinstance(error, Exception) else error
            if quieter is not error:
                raise quieter from None
            return False
        if isinstance(error, RunbookError):
            self._reason, self._not_configured = str(mask(str(error))), isinstance(error, NotConfigured)
        report = self._report()
        news: Sequence[str] = ()
        if self._pages:
            outbox.tell(self.ledger, report)
            news = incidents.ended(self.ledger, report)
        sealed_by = self.ledger.close_run(self.id, report.outcome, report.as_json())
        self.report = report.model_copy(update={"sealed_by": sealed_by})
        await artifacts.publish(self.report)
        if FlowRunContext.get() is not None:
            for one in news:
                await artifacts.page(one.replace("inc_", "incident-"), postmortem.draft(self.ledger, one), self.id)
        return True

    def result(self) -> Report:
        """The report; under Prefect as a state whose name and colour say what came of the run."""
        report = cast("Report", self.report)
        if FlowRunContext.get() is None:
            return report
        name, line = report.outcome.value.capitalize(), report.one_line
        if report.exit_code in {0, 3} or report.not_configured:
            return cast("Report", Completed(name=name, message=line, data=report))
        return cast("Report", Failed(name=name, message=line, data=Unsolved(report)))

    def _report(self) -> Report:
        return Report(
            id=self.id,
            runbook=self.runbook,
            mode=self.mode,
            outcome=self._outcome(),
            findings=self.findings,
            fixes=self.ledger.fixes(self.id),
            notices=self.notices,
            reason=self._reason,
            not_configured=self._not_configured,
            duration_ms=round((time.monotonic() - self._started) * 1000),
        )

    def _outcome(self) -> Outcome:
        fixes = self.ledger.fixes(self.id)
        acted = any(fix.state in ACTED for fix in fixes)
        states = {fix.state for at, fix in enumerate(fixes) if not _made_good(fix, fixes[at + 1 :])}
        if self._reason:
            return Outcome.unsolved if acted else Outcome.refused
        if not self.findings:
            return Outcome.healthy
        if self.mode is Mode.observe:
            return Outcome.observed
        if states & {FixState.intended, FixState.applied, FixState.failed}:
            return Outcome.unsolved
        if self._remaining == []:
            return Outcome.fixed
        return Outcome.unsolved if acted and FixState.refused not in states else Outcome.refused


def _dumped(one: Frozen) -> Json:
    return one.model_dump(mode="json")


def _made_good(fix: Fix, later: Sequence[Fix]) -> bool:
    """True for a fix that failed where a later, harder one on the same target was proven."""
    return fix.state is FixState.failed and any(
        one.target == fix.target and one.state is FixState.proven for one in later
    )
