#!/bin/bash
# Quantizing a whole file, from open to rename, beside llama.cpp's quantizer: CPU seconds, wall
# seconds, peak memory. Prints one JSON document; progress goes to stderr.
#
#   tests/bench/end_to_end.sh [--llama-quantize PATH] [--gb N] [--types "q8_0 q4_k_m"] [--rounds N]
#                             [--threads N] [--tmpfs DIR] [--disk DIR] [--single]
#
# Makes a random Llama (hidden 2048, ffn 8192, 32 heads, 8 of them for keys, 32000 tokens, untied
# head; heavy tails) of at least N GB (default 1) as an F16 GGUF file on tmpfs. Every figure is the
# best of --rounds runs; ours and the peer's take turns. Then the cold disk: the input read from a
# disk whose page cache was dropped, the output synced, beside `cp` of the input with `sync`.
# --single: one tensor of N GB instead, for memory. Environment: PENNYWEIGHT, MAKE_LLAMA, METHOD.
# Needs GNU time.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
P=${PENNYWEIGHT:-$ROOT/build/release/pennyweight}
MAKE=${MAKE_LLAMA:-$ROOT/build/release/tests/make_llama}
METHOD=${METHOD:-rtn}
peer= gb=1 types="q8_0 q4_0 q4_k_m q6_k" rounds=3 threads=2 tmpfs=/dev/shm disk=${TMPDIR:-/tmp} single=
while [ $# -gt 0 ]; do
  case $1 in
    --llama-quantize) peer=$2; shift ;;
    --gb) gb=$2; shift ;;
    --types) types=$2; shift ;;
    --rounds) rounds=$2; shift ;;
    --threads) threads=$2; shift ;;
    --tmpfs) tmpfs=$2; shift ;;
    --disk) disk=$2; shift ;;
    --single) single=1 ;;
    *) echo "usage: $0 [--llama-quantize PATH] [--gb N] [--types LIST] [--rounds N] [--threads N]" \
      "[--tmpfs DIR] [--disk DIR] [--single]" >&2; exit 2 ;;
  esac
  shift
done
[ -x /usr/bin/time ] || { echo "GNU time is needed: apt-get install time" >&2; exit 2; }
FAST=$(mktemp -d "$tmpfs/pennyweight-bench.XXXXXX")
SLOW=$(mktemp -d "$disk/pennyweight-bench.XXXXXX")
trap 'rm -rf "$FAST" "$SLOW"' EXIT
say() { echo "$*" >&2; }
calc() { awk "BEGIN { printf \"%.3f\", $1 }"; }

# once COMMAND...: "user sys wall rss_bytes" of one run.
once() {
  /usr/bin/time -o "$FAST/time" -f "%U %S %e %M" "$@" >"$FAST/log" 2>&1 ||
    { say "failed: $*"; cat "$FAST/log" >&2; exit 1; }
  awk '{ print $1, $2, $3, $4 * 1024 }' "$FAST/time"
}
# better A B: of two such lines the one with less CPU, with the lesser wall time of both.
better() {
  [ -n "$1" ] || { echo "$2"; return; }
  awk -v a="$1" -v b="$2" 'BEGIN { split(a, x); split(b, y)
    if (y[1] + y[2] < x[1] + x[2]) { t = x[3]; split(b, x) } else t = y[3]
    if (t < x[3]) x[3] = t
    print x[1], x[2], x[3], x[4] }'
}
# JSON of such a line.
object() {
  [ -n "$1" ] || { echo null; return; }
  awk -v a="$1" 'BEGIN { split(a, x)
    printf "{\"cpu_seconds\": %.2f, \"user\": %.2f, \"system\": %.2f, \"wall_seconds\": %.2f, \"peak_rss_bytes\": %d}",
      x[1] + x[2], x[1], x[2], x[3], x[4] }'
}
field() { awk -v a="$1" -v n="$2" 'BEGIN { split(a, x); print n == "cpu" ? x[1] + x[2] : x[3] }'; }

layers=$(awk "BEGIN { n = ($gb * 1e9 / 2 - 131.1e6) / 60.8e6; n = n < 1 ? 1 : n; print int(n) + (n > int(n)) }")
shape="layers=$layers vocab=32000"
# 2048 columns; one layer of little, and an embedding and a head that share the size.
[ -z "$single" ] || shape="layers=1 ffn=2048 vocab=$(awk "BEGIN { print int($gb * 1e9 / 4096) + 1 }")"
say "making a model: $shape"
# shellcheck disable=SC2086
"$MAKE" "$SLOW/model" "$ROOT/testdata/pd-llama-4M" hidden=2048 ffn=8192 heads=32 kv_heads=8 \
  dtype=f16 tails=1 $shape
"$P" convert "$SLOW/model" -o "$FAST/in.gguf" -q >/dev/null
rm -r "$SLOW/model"
bytes=$(stat -c %s "$FAST/in.gguf")

runs=
for type in $types; do
  ours= theirs=
  for _ in $(seq "$rounds"); do
    rm -f "$FAST/out.gguf"
    ours=$(better "$ours" "$(once "$P" quantize "$FAST/in.gguf" -o "$FAST/out.gguf" --type "$type" \
      --method "$METHOD" -j "$threads" -q)")
    out=$(stat -c %s "$FAST/out.gguf")
    [ -n "$peer" ] || continue
    rm -f "$FAST/out.gguf"
    theirs=$(better "$theirs" "$(once "$peer" "$FAST/in.gguf" "$FAST/out.gguf" "$type" "$threads")")
  done
  rm -f "$FAST/out.gguf"
  ratio=null
  [ -z "$theirs" ] || ratio=$(calc "$(field "$theirs" cpu) / $(field "$ours" cpu)")
  say "$type: ours $ours, peer ${theirs:-none} (user system wall rss), CPU ratio $ratio"
  runs+="${runs:+,}
    {\"type\": \"$type\", \"bytes_out\": $out, \"ours\": $(object "$ours"), \"peer\": $(object "$theirs"),
     \"peer_cpu_over_ours\": $ratio, \"wall_over_cpu\": $(calc "$(field "$ours" wall) / $(field "$ours" cpu)")}"
done

# The cold disk, with q4_k_m where it is in the list, else the first type.
type=$(echo "$types" | awk '{ for (i = 1; i <= NF; ++i) if ($i == "q4_k_m") t = $i; print t == "" ? $1 : t }')
cp "$FAST/in.gguf" "$SLOW/in.gguf"
warm=
rm -f "$FAST/out.gguf"
for _ in $(seq "$rounds"); do
  rm -f "$FAST/out.gguf"
  warm=$(better "$warm" "$(once "$P" quantize "$FAST/in.gguf" -o "$FAST/out.gguf" --type "$type" \
    --method "$METHOD" -j "$threads" -q)")
done
rm -f "$FAST/out.gguf"
sync
# Who may not drop all caches may still let the pages of one file go.
if (echo 3 >/proc/sys/vm/drop_caches) 2>/dev/null; then
  how=drop_caches
  cool() { sync; echo 3 >/proc/sys/vm/drop_caches; }
else
  how=posix_fadvise
  cool() { sync; dd if="$SLOW/in.gguf" iflag=nocache count=0 status=none; }
fi
copy= cold=
for _ in $(seq "$rounds"); do
  rm -f "$SLOW/copy.gguf" "$SLOW/out.gguf"
  cool
  copy=$(better "$copy" "$(once sh -c "cp '$SLOW/in.gguf' '$SLOW/copy.gguf' && sync '$SLOW/copy.gguf'")")
  rm -f "$SLOW/copy.gguf"
  cool
  cold=$(better "$cold" "$(once "$P" quantize "$SLOW/in.gguf" -o "$SLOW/out.gguf" --type "$type" \
    --method "$METHOD" -j "$threads" -q)")
done
floor=$(awk -v a="$(field "$warm" wall)" -v b="$(field "$copy" wall)" 'BEGIN { print a > b ? a : b }')
say "cold $type: $cold, cp and sync: $copy, tmpfs: $warm"

cat <<END
{"benchmark": "end_to_end", "bytes_in": $bytes, "threads": $threads, "method": "$METHOD", "rounds": $rounds,
  "load_average": "$(cut -d' ' -f1 /proc/loadavg)",
  "runs": [$runs],
  "cold": {"type": "$type", "dropped_by": "$how", "ours": $(object "$cold"), "copy_and_sync": $(object "$copy"),
    "tmpfs": $(object "$warm"), "wall_over_floor": $(calc "$(field "$cold" wall) / $floor")}}
END
