#!/usr/bin/env bash
# A Ray head on this machine with token authentication, and jobs submitted to it.
set -euo pipefail
cd "$(dirname "$0")/.."

BIN=$(cd "${BIN:-.venv/bin}" && pwd)
PORT=${PORT:-6379}
DASHBOARD_PORT=${DASHBOARD_PORT:-8265}
# Logical CPUs: the actors' and one more, for the tasks beside them.
CPUS=${CPUS:-4}
export RAY_AUTH_MODE=token
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

case "${1:-}" in
  start)
    # A token of its own unless one is given: Ray finds it again in ~/.ray/auth_token.
    [ -n "${RAY_AUTH_TOKEN_PATH:-}" ] || "$BIN/ray" get-auth-token --generate >/dev/null
    "$BIN/ray" start --head --port "$PORT" --dashboard-host 127.0.0.1 \
      --dashboard-port "$DASHBOARD_PORT" --num-cpus "$CPUS" --disable-usage-stats
    ;;
  submit)
    [ $# -ge 3 ] || { echo "usage: $0 submit MANIFEST STORE" >&2; exit 2; }
    "$BIN/ray" job submit --address "http://127.0.0.1:$DASHBOARD_PORT" --working-dir . \
      -- "$BIN/python" -m pipelines.erase "$2" --store "$3"
    ;;
  stop)
    "$BIN/ray" stop
    ;;
  *)
    echo "usage: $0 start | submit MANIFEST STORE | stop" >&2
    exit 2
    ;;
esac
