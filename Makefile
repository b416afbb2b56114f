# Every command does its own set-up; nothing needs to be activated or installed first.
SHELL := /bin/sh
PY := .venv/bin/python
READY := .venv/.ready

.PHONY: demo up down test check bench chaos docs clean help

help:
	@echo "make demo   break a real stack, watch it being found, fixed and proven (about two minutes)"
	@echo "make up     the same stack kept running, with the Prefect UI; make down ends it"
	@echo "make test   all tests, on real parts"
	@echo "make check  lint, types, import contracts, generated docs"
	@echo "make chaos  every runbook killed everywhere; the gate's adversary; each guard taken away (under 30 minutes)"
	@echo "make bench  memory and time of the large reconcile"

$(READY): requirements.lock pyproject.toml
	@sh .ci/venv
	@touch $@

demo: $(READY)
	@$(PY) -m demo

up: $(READY)
	@$(PY) -m demo up

down: $(READY)
	@$(PY) -m demo down

test: $(READY)
	@$(PY) -m pytest -n 2 --dist loadfile $(ARGS)

check: $(READY)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports --no-cache
	@$(PY) -m docs.generate --check

docs: $(READY)
	@$(PY) -m docs.generate

bench: $(READY)
	@$(PY) -m benchmarks.logs
	@$(PY) -m benchmarks.reconcile

chaos: $(READY)
	@$(PY) -m tests.chaos $(ARGS)

clean:
	rm -rf .venv .demo
