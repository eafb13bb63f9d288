#!/bin/bash
# Builds every fuzzer and runs each on its corpus: fuzz.sh [SECONDS [FUZZER...]], 60 seconds and all
# of them by default, as many at a time as there are cores. Fails when one finds anything; what it
# found is then in build/fuzz/findings. fuzz.sh --merge [FOLDER] adds to testdata/fuzz what of the
# seeds and of FOLDER/FUZZER reaches new code.
set -euo pipefail
cd "$(dirname "$0")/.."

merge=no
[ "${1:-}" = --merge ] && merge=yes && shift
command -v clang++-16 >/dev/null 2>&1 || scripts/setup.sh clang-16 libclang-rt-16-dev
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { cmake --preset fuzz && cmake --build --preset fuzz; } >"$log" 2>&1; then
  tail -50 "$log" >&2
  exit 1
fi
bin=build/fuzz/tests/fuzz
corpora=testdata/fuzz
work=build/fuzz/corpora
findings=build/fuzz/findings

# A small file has no reason to need more than a second; 512 MB is one allocation, not all.
limits=(-timeout=5 -rss_limit_mb=2048 -malloc_limit_mb=512 -max_len=65536)

if [ "$merge" = yes ]; then
  "$bin/make_seeds" build/fuzz/seeds
  for program in "$bin"/*_fuzzer; do
    name=$(basename "$program" _fuzzer)
    mkdir -p "$corpora/$name"
    more=()
    [ -d "build/fuzz/seeds/$name" ] && more+=("build/fuzz/seeds/$name")
    [ -n "${1:-}" ] && [ -d "$1/$name" ] && more+=("$1/$name")
    "$program" -set_cover_merge=1 -use_counters=0 "${limits[@]}" "$corpora/$name" "${more[@]}" >"$log" 2>&1 ||
      { tail -20 "$log" >&2; exit 1; }
    echo "$name: $(find "$corpora/$name" -type f | wc -l) files," \
      "$(du -sb "$corpora/$name" | cut -f1) bytes"
  done
  exit 0
fi

seconds=${1:-60}
shift || true
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
  for program in "$bin"/*_fuzzer; do names+=("$(basename "$program" _fuzzer)"); done
fi
rm -rf "$findings"
mkdir -p "$findings" "$work"

# New inputs go to a copy of the corpus, never into the repository.
run() {
  local name=$1 status=0
  mkdir -p "$work/$name" "$findings/$name"
  "$bin/${name}_fuzzer" "$work/$name" "$corpora/$name" -max_total_time="$seconds" "${limits[@]}" \
    -artifact_prefix="$findings/$name/" -print_final_stats=1 >"$findings/$name.log" 2>&1 || status=$?
  local runs
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$findings/$name.log")
  if [ "$status" = 0 ]; then
    echo "fuzz: $name: ${runs:-?} inputs, nothing found"
  else
    echo "fuzz: $name: FAILED with status $status, see $findings/$name.log"
    tail -40 "$findings/$name.log" >&2
  fi
  return "$status"
}

failed=0
running=0
for name in "${names[@]}"; do
  run "$name" &
  running=$((running + 1))
  if [ "$running" -ge "$(nproc)" ]; then
    wait -n || failed=1
    running=$((running - 1))
  fi
done
while [ "$running" -gt 0 ]; do
  wait -n || failed=1
  running=$((running - 1))
done
exit "$failed"
