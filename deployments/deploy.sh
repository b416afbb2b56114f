#!/bin/sh
# What Prefect must know of this version: the pool, every deployment of prefect.yaml, the automations. Safe to repeat.
set -eu
cd "$(dirname "$0")/.."
# A pool that is there stays as it is: its type and its base job template are yours.
prefect work-pool inspect runbook >/dev/null 2>&1 || prefect work-pool create runbook --type process
prefect --no-prompt deploy --all
for name in runbook-dead-runs runbook-never-begun; do
    prefect --no-prompt automation delete "$name" >/dev/null 2>&1 || true
done
prefect automation create --from-file deployments/automations.yaml
