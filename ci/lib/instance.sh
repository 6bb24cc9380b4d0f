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

# identity METHOD PATH JSON: calls identity with the first account's token; the secret body travels on standard input.
identity() {
  local url=http://$NODE:8101/acs/api/v1 token
  token=$(python3 -c 'import json,sys; print(json.dumps({"uid": "admin", "password": open(sys.argv[1]).read().strip()}))' "$PASSWORD_FILE" |
    curl -sSf --max-time 20 -H 'Content-Type: application/json' --data-binary @- "$url/auth/login" |
    python3 -c 'import json,sys; print(json.load(sys.stdin)["token"])')
  printf '%s' "$3" | curl -sSf --max-time 20 -X "$1" -H 'Content-Type: application/json' \
    -H @<(printf 'Authorization: token=%s\n' "$token") --data-binary @- "$url$2"
}

# basic_account: a service account `flow` with a secret, kept in $STATE/flow-secret, for clients that know Basic credentials only.
basic_account() {
  (umask 077; python3 -c 'import secrets; print(secrets.token_urlsafe(24))' >"$STATE/flow-secret")
  identity PUT /users/flow "$(python3 -c 'import json,sys; print(json.dumps({"description": "a client", "secret": open(sys.argv[1]).read().strip()}))' "$STATE/flow-secret")" >&2
}
