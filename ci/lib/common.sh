# Shared by the scripts of this folder: where things are, Debian packages, the build. Sourced, never run.
# shellcheck shell=bash
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${PLENUM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/plenum}
export ROOT CACHE
cd "$ROOT"

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
die() { printf '%s\n' "$*" >&2; exit 1; }

# need_packages NAME...: installs the Debian packages that are missing, and says which.
need_packages() {
  local missing=() name
  for name in "$@"; do
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
  done
  [ "${#missing[@]}" = 0 ] && return 0
  local sudo=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "these Debian packages are missing, and there is no sudo to install them: ${missing[*]}"
    sudo=(sudo)
  fi
  say "installing ${missing[*]}"
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq >/dev/null
  # A service that its package starts would hold the ports and folders that tests want for their own.
  local policy=/usr/sbin/policy-rc.d made=0
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
    "${sudo[@]}" chmod +x "$policy"
    made=1
  fi
  local ok=0
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || ok=$?
  [ "$made" = 0 ] || "${sudo[@]}" rm -f "$policy"
  [ "$ok" = 0 ] || die "apt-get could not install ${missing[*]}"
}

need_rust() {
  command -v cargo >/dev/null || { [ -r "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"; }
  command -v cargo >/dev/null || die "cargo is not on the PATH: install a Rust toolchain (1.95 or newer) first"
}

BUILD_PACKAGES=(gcc libc6-dev protobuf-compiler libprotobuf-dev)
RUN_PACKAGES=(nftables iproute2)
TEST_PACKAGES=(etcd-server python3-venv curl docker-registry docker.io busybox-static openssl bind9-dnsutils)

# build [--release]: builds the binary and prints its path.
build() {
  need_rust
  need_packages "${BUILD_PACKAGES[@]}"
  cargo xtask build "$@"
}
