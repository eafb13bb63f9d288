#!/bin/bash
# Two decoder layers with the shapes of Llama-3-70B, random weights, quantized with calibration under
# a memory limit: peak memory, CPU and wall seconds, and what --dry-run says beforehand. Prints one
# JSON document; progress goes to stderr.
#
#   tests/bench/large_layers.sh [--tokens N] [--memory SIZE] [--method NAME] [--type NAME]
#                               [--layers N] [--dir DIR] [--keep]
#
# Defaults: 16384 tokens, 12G, gptq, int4, 2 layers; about 3.5 GB in DIR (TMPDIR). The hours of a
# whole model of 80 layers are those of one layer here times 80. Needs GNU time.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
pennyweight=${PENNYWEIGHT:-$root/build/release/pennyweight}
make=${MAKE_LLAMA:-$root/build/release/tests/make_llama}
tokens=16384 memory=12G method=gptq type=int4 layers=2 dir=${TMPDIR:-/tmp} keep=
while [ $# -gt 0 ]; do
  case $1 in
    --tokens) tokens=$2; shift ;;
    --memory) memory=$2; shift ;;
    --method) method=$2; shift ;;
    --type) type=$2; shift ;;
    --layers) layers=$2; shift ;;
    --dir) dir=$2; shift ;;
    --keep) keep=1 ;;
    *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done
[ -x /usr/bin/time ] || { echo "GNU time is needed: apt-get install time" >&2; exit 2; }
model=$dir/pennyweight-70b-layers-$layers
work=$(mktemp -d "$dir/pennyweight-bench.XXXXXX")
trap 'rm -rf "$work"; [ -n "$keep" ] || rm -rf "$model"' EXIT
if [ ! -s "$model/config.json" ]; then
  "$make" "$model" "$root/testdata/pd-llama-4M" hidden=8192 ffn=28672 heads=64 kv_heads=8 \
    "layers=$layers" vocab=2048 context=512 dtype=bf16 tails=1 >&2
fi
flags=("$model" -o "$work/out" --type "$type" --method "$method" --tokens "$tokens" --memory "$memory")
"$pennyweight" quantize "${flags[@]}" --dry-run --json -q >"$work/plan.json"
/usr/bin/time -o "$work/time" -f "%U %S %e %M" \
  "$pennyweight" quantize "${flags[@]}" --json --progress plain >"$work/report.json" 2> >(
  while IFS= read -r line; do printf '%(%H:%M:%S)T %s\n' -1 "$line"; done >&2)
awk -v layers="$layers" -v tokens="$tokens" -v memory="$memory" -v plan="$(
  tr -d '\n' <"$work/plan.json" | grep -oE '"plan": *\{[^}]*\{[^}]*\}[^}]*\}|"plan": *\{[^}]*\}' | head -1)" '
  { printf "{\"layers\": %d, \"tokens\": %d, \"memory\": \"%s\", \"cpu_seconds\": %.1f, ", layers,
      tokens, memory, $1 + $2
    printf "\"wall_seconds\": %.1f, \"peak_rss_bytes\": %.0f, \"hours_of_80_layers\": %.2f", $3,
      $4 * 1024, $3 / layers * 80 / 3600
    if (plan != "") printf ", %s", plan
    print "}" }' "$work/time"
