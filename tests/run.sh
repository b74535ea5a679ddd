#!/usr/bin/env bash
# Sets everything up and runs all tests, those on several MPI ranks included.
#
#     bash tests/run.sh [pytest's options]
#
# MPITILE_ORACLE=1 adds the comparisons with PyTorch, which it installs; jobs/setup.sh lists
# the other variables.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. jobs/env.sh
. jobs/setup.sh

extras=(mpi rich plot test)
if [ "${MPITILE_ORACLE:-0}" = 1 ]; then
    extras+=(oracle)
fi
set_up "${extras[@]}"

status=0
ruff check . || status=$?
ruff format --check --quiet . || status=$?
python -m pytest -q "$@" || status=$?
exit "$status"
