# Every command does its own set-up; nothing needs to be activated or installed first.
SHELL := /bin/sh
PY := .venv/bin/python
READY := .venv/.ready

.PHONY: demo up down test check corpus chaos gameday bench docs screenshots kill-9 clean help

help:
	@echo "make demo   break a real stack, watch it being found, fixed and proven (about two minutes)"
	@echo "make gameday three compound incidents, unattended, under licence; writes docs/gameday.md"
	@echo "make up     the same stack kept running, with the Prefect UI; make down ends it"
	@echo "make test   all tests, on real parts"
	@echo "make check  lint, types, import contracts, generated docs"
	@echo "make chaos  every runbook killed everywhere; the gate's adversary; each guard taken away (under half an hour)"
	@echo "make corpus how often each runbook mends, and how often it acts on what only looks broken"
	@echo "make bench  webhook to fix beside a stock worker, webhooks a second, the large log, the large reconcile"
	@echo "make kill-9 kill every part at random moments under a stream of webhooks; writes docs/kill-9.md"

$(READY): requirements.lock pyproject.toml
	@sh .ci/venv
	@touch $@

demo: $(READY)
	@$(PY) -m demo

gameday: $(READY)
	@$(PY) -m demo gameday

up: $(READY)
	@$(PY) -m demo up

down: $(READY)
	@$(PY) -m demo down

test: $(READY)
	@$(PY) -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(READY)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports --no-cache
	@$(PY) -m docs.generate --check
	@$(PY) -m pip --disable-pip-version-check check

docs: $(READY)
	@$(PY) -m docs.generate

kill-9: $(READY)
	@$(PY) -m benchmarks.kill_9

screenshots: $(READY)
	@RUNBOOK_SCREENSHOTS=docs $(PY) -m pytest -q tests/e2e/test_browser.py

corpus: $(READY)
	@$(PY) -m tests.corpus $(if $(WRITE),--write)

bench: $(READY)
	@$(PY) -m benchmarks.ways
	@$(PY) -m benchmarks.ingress
	@$(PY) -m benchmarks.detection
	@$(PY) -m benchmarks.logs
	@$(PY) -m benchmarks.reconcile

chaos: $(READY)
	@$(PY) -m tests.chaos $(ARGS)

clean:
	rm -rf .venv .demo
