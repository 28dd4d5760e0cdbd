#!/usr/bin/env bash
# A Ray head on this machine with token authentication, and jobs submitted to it.
set -euo pipefail
cd "$(dirname "$0")/.."

BIN=$(cd "${BIN:-.venv/bin}" && pwd)
PORT=${PORT:-6379}
DASHBOARD_PORT=${DASHBOARD_PORT:-8265}
# Logical CPUs: the actors' and one more, for the tasks beside them.
CPUS=${CPUS:-4}
# What belongs to the head of a port is kept here: its process id, its log and Ray's own files. In
# the folder that Ray takes otherwise, every head's address is written over that of the one before,
# and a job is sent to the head that started last.
STATE=${STATE:-$HOME/.ray}
HEAD="$STATE/conceptprune-head-$PORT"
export RAY_AUTH_MODE=token
# The one switch by which Ray takes 127.0.0.1 for its address: all that listens, listens there.
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
# Token, logs and process id are for this user alone.
umask 077
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# The `python` of a submitted command is the head's own.
export PATH="$BIN:$PATH"

listening() {
  (exec 3<>"/dev/tcp/127.0.0.1/$DASHBOARD_PORT") 2>/dev/null
}

# Whether the recorded process is still this head; ids are used again.
running() {
  [ -f "$HEAD.pid" ] && grep -aqs "start.--head" "/proc/$(cat "$HEAD.pid")/cmdline"
}

# Ends the head, by force where it does not listen; its processes end with it either way.
stop() {
  pid=$(cat "$HEAD.pid")
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 100); do
    running || break
    sleep 0.2
  done
  ! running || kill -KILL "$pid"
  rm "$HEAD.pid"
}

# Other users must neither read what lies in a folder or file, nor have put anything there.
private() {
  [ "$(stat -Lc %u "$1")" = "$(id -u)" ] ||
    { echo "$0: $1 belongs to another user: name a folder of yours as STATE" >&2; exit 1; }
  mode=$((8#$(stat -Lc %a "$1")))
  [ $((mode & 8#077)) = 0 ] && return
  # Made by Ray or an editor, and only read by others since; a folder that is named may be shared.
  if [ $((mode & 8#022)) = 0 ] && [ "$1" = "$HOME/.ray" ]; then
    chmod go= "$1"
  else
    echo "$0: $1 is open to other users of this machine: chmod go= '$1', if it is yours alone" >&2
    exit 1
  fi
}

case "${1:-}" in
  start)
    mkdir -p "$STATE"
    private "$STATE"
    if [ -n "${RAY_AUTH_TOKEN_PATH:-}" ]; then
      private "$RAY_AUTH_TOKEN_PATH"
    elif [ -z "${RAY_AUTH_TOKEN:-}" ]; then
      mkdir -p "$HOME/.ray"
      private "$HOME/.ray"
    fi
    if running || listening; then
      echo "$0: a head runs already, or port $DASHBOARD_PORT is taken" >&2
      exit 1
    fi
    # A token of its own unless one is given: Ray finds it again in ~/.ray/auth_token.
    [ -n "${RAY_AUTH_TOKEN_PATH:-}${RAY_AUTH_TOKEN:-}" ] ||
      "$BIN/ray" get-auth-token --generate >/dev/null
    # The agent, which starts the jobs, takes any port that is free: where its usual one is taken,
    # by another Ray on this machine, the head would run and never start a job.
    # With --block all its processes end with this one, and no others: `ray stop` would end every
    # Ray on the machine.
    setsid nohup "$BIN/ray" start --head --block --port "$PORT" --dashboard-host 127.0.0.1 \
      --dashboard-port "$DASHBOARD_PORT" --dashboard-agent-listen-port 0 --num-cpus "$CPUS" \
      --temp-dir "$STATE/$PORT" --disable-usage-stats \
      >"$HEAD.log" 2>&1 </dev/null &
    echo $! >"$HEAD.pid"
    # Ray gives a head half a minute to start; it says so when it has.
    for _ in $(seq 450); do
      ! grep -qs "Ray runtime started" "$HEAD.log" || ! listening || break
      kill -0 $! 2>/dev/null || break
      sleep 0.2
    done
    if ! grep -q "Ray runtime started" "$HEAD.log"; then
      cat "$HEAD.log" >&2
      stop
      exit 1
    fi
    echo "a head runs: http://127.0.0.1:$DASHBOARD_PORT, log $HEAD.log"
    ;;
  submit)
    [ $# -eq 3 ] || { echo "usage: $0 submit MANIFEST STORE" >&2; exit 2; }
    "$BIN/ray" job submit --address "http://127.0.0.1:$DASHBOARD_PORT" --working-dir . \
      -- python -m pipelines.erase "$2" --store "$3"
    ;;
  stop)
    running || { echo "$0: no head runs" >&2; exit 1; }
    stop
    ;;
  *)
    echo "usage: $0 start | submit MANIFEST STORE | stop" >&2
    exit 2
    ;;
esac
