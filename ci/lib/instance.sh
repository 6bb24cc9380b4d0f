# A fresh instance for one script, stopped and forgotten at its end whatever happens. Sourced after common.sh.
# shellcheck shell=bash

# start_instance NAME [arguments of `plenum up`]: sets INSTANCE, NODE (its address), STATE and PASSWORD_FILE.
start_instance() {
  INSTANCE=$1
  shift
  trap stop_instance EXIT
  trap 'exit 130' INT TERM
  "$PLENUM" down --instance "$INSTANCE" --purge >/dev/null 2>&1 || true
  local output
  output=$("$PLENUM" up --detach --instance "$INSTANCE" "$@") || { printf '%s\n' "$output" >&2; return 1; }
  printf '%s\n' "$output" >&2
  STATE=$("$PLENUM" status --instance "$INSTANCE" -o json | python3 -c 'import json,os,sys; print(os.path.dirname(os.path.dirname(json.load(sys.stdin)["roles"][0]["log"])))')
  NODE=$(python3 -c 'import re,sys; print(re.search(r"127\.88\.\d+\.1", open(sys.argv[1]).read()).group(0))' "$STATE/config/agent.toml")
  PASSWORD_FILE=$STATE/admin-password
  (umask 077; printf '%s\n' "$output" | sed -n 's/.*admin has the password \([^ ]*\).*/\1/p' >"$PASSWORD_FILE")
  export INSTANCE NODE STATE PASSWORD_FILE
}

stop_instance() {
  [ -n "${INSTANCE:-}" ] || return 0
  if [ -n "${KEEP_LOGS:-}" ]; then mkdir -p "$KEEP_LOGS" && cp -r "$STATE/log" "$KEEP_LOGS/$INSTANCE" 2>/dev/null || true; fi
  "$PLENUM" down --instance "$INSTANCE" --purge >/dev/null 2>&1 || true
  INSTANCE=
}
