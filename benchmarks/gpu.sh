#!/usr/bin/env bash
# Run all GPU benchmarks in under ten minutes and print a table. Options are passed to python -m benchmarks gpu.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec timeout 590 "${PYTHON:-python}" -m benchmarks gpu --rounds 5 --json "${OUT:-.}/gpu.json" "$@"
