#!/usr/bin/env bash
# All GPU benchmarks in one call of under ten minutes; a table is printed last. Options go on to python -m benchmarks gpu.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec timeout 590 "${PYTHON:-python}" -m benchmarks gpu --rounds 5 --json "${OUT:-.}/gpu.json" "$@"
