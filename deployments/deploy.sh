#!/bin/sh
# What Prefect must know of this version: the pool, every deployment of prefect.yaml, the automation. Safe to repeat.
set -eu
cd "$(dirname "$0")/.."
prefect work-pool create runbook --type process --overwrite
prefect --no-prompt deploy --all
prefect --no-prompt automation delete runbook-dead-runs >/dev/null 2>&1 || true
prefect automation create --from-file deployments/automations.yaml
