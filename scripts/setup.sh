#!/bin/sh
# Installs the Debian packages that building pennyweight needs; what is there already is skipped.
# As root directly, else with sudo, else it prints the command to run. Extra package names may be
# given as arguments.
set -eu

packages="g++ cmake ninja-build pkg-config git ca-certificates libhwy-dev libtbb-dev libzstd-dev
doctest-dev nlohmann-json3-dev libfmt-dev libcli11-dev libxxhash-dev libssl-dev libdeflate-dev
libpcre2-dev libutf8proc-dev $*"

if ! command -v dpkg-query >/dev/null 2>&1; then
  echo "setup: not a Debian system; install the like of: $(echo $packages)" >&2
  exit 0
fi

# pkg-config may be present as pkgconf, which provides it: a package counts as there when dpkg says
# so, or when the command of its name runs.
missing=""
for package in $packages; do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] && continue
  [ "$package" = pkg-config ] && command -v pkg-config >/dev/null 2>&1 && continue
  missing="$missing $package"
done
[ -z "$missing" ] && exit 0

install="apt-get install -y --no-install-recommends$missing"
if [ "$(id -u)" = 0 ]; then
  as_root=""
elif command -v sudo >/dev/null 2>&1; then
  as_root="sudo"
else
  echo "setup: packages are missing; as root, run:" >&2
  echo "  apt-get update && $install" >&2
  exit 1
fi
echo "setup: installing$missing" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { $as_root env DEBIAN_FRONTEND=noninteractive apt-get update &&
       $as_root env DEBIAN_FRONTEND=noninteractive $install; } >"$log" 2>&1; then
  cat "$log" >&2
  echo "setup: installing failed; see above" >&2
  exit 1
fi
