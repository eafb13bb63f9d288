#!/bin/bash
# Regenerates the tables that compare the encoders with the reference's (llama.cpp), matrix by
# matrix: errors in docs/quality.md, speeds in docs/performance.md. Each table stands between two
# marker comments; where a document has none, its section is appended.
#
#   tests/bench/quality_table.sh errors LIB       LIB: the reference's libggml-base.so
#   tests/bench/quality_table.sh speed LIB AVX2   built with -march=native, and with -march=x86-64-v3
#
# The library comes from a checkout of llama.cpp: a CMake project whose only line of its own is
# add_subdirectory(LLAMA/ggml ggml), configured with -DCMAKE_BUILD_TYPE=Release
# -DBUILD_SHARED_LIBS=ON -DCMAKE_C_FLAGS=-march=native, target ggml-base.
# BENCH is the program bench_quant (-DPENNYWEIGHT_BENCHMARKS=ON), SHARED the folder that holds
# models/, TYPES the types to take (all that can be written).
set -euo pipefail
cd "$(dirname "$0")/../.."
bench=${BENCH:-build/release/tests/bench/bench_quant}
shared=${SHARED:-../shared}
usage() { sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ -x "$bench" ] || { echo "quality_table.sh: $bench is not there; build it first" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
types=()
[ -z "${TYPES:-}" ] || types=(--types "$TYPES")

# put DOCUMENT KIND: the text on stdin takes the place of the section between KIND's markers.
put() {
  local document=$1 begin="<!-- bench_quant $2 -->" end="<!-- end of bench_quant $2 -->"
  { echo "$begin"; cat; echo "$end"; } >"$work/section"
  if grep -qxF "$begin" "$document" 2>/dev/null; then
    grep -qxF "$end" "$document" || { echo "quality_table.sh: $document lacks '$end'" >&2; exit 2; }
    awk -v begin="$begin" -v end="$end" -v section="$work/section" '
      $0 == begin { while ((getline line < section) > 0) print line; inside = 1 }
      !inside { print }
      $0 == end { inside = 0 }' "$document" >"$work/document"
    cat "$work/document" >"$document"
  else
    { [ ! -s "$document" ] || echo; cat "$work/section"; } >>"$document"
  fi
}

errors() {
  local library=$1 model
  cat <<'EOF'
## Error of one matrix, beside the reference

Made by `tests/bench/quality_table.sh errors`. Quantized by `minmax` and `rtn`, and by llama.cpp's
`ggml_quantize_chunk`; both sides' bytes are decoded by this program. Without importance the error
is |x' - x| / |x|; with it, both encoders are given the importance of each column, which weights the
squares of the error too. Ratio is `rtn` over the reference: below 1 is better. `peer` is normal noise
with a log-normal scale (sigma 0.3) for each column; the importance is log-normal (sigma 1).

Least is the least error that the type allows at all, found without regard to time: for types with
one level of scales over all scales that can be stored; for `q2_k` to `q6_k` and `iq4_xs` with a real
scale (and offset) for each sub-block, which no stored scales reach.

EOF
  table() { "$bench" "${types[@]}" --rounds 0 --bounds --ggml "$library" --markdown errors "$@"; echo; }
  table --data peer --rows 128
  [ -d "$shared/models" ] || { echo "quality_table.sh: no $shared/models: no real matrices" >&2; return 0; }
  for model in pd-llama-4M:model.layers.1.mlp.down_proj pd-qwen2-4M:model.layers.2.mlp.up_proj \
    babyllama105:model.layers.1.mlp.gate_proj; do
    table --data "$shared/models/${model%%:*}/model.safetensors:${model#*:}.weight" --rows 64
  done
}

speed() {
  cat <<'EOF'
## Kernels

Made by `tests/bench/quality_table.sh speed`. Millions of weights a second that one thread encodes,
from f32 rows of 256, measured by its processor time, the best of several turns that alternate with
llama.cpp's `ggml_quantize_chunk` in the same process; the ratio is the figure to trust on a shared
machine, above 1 is better. Beside `minmax` stands its time over that of a memcpy of the same f32
weights; for rows beyond the cache look at the last table. The reference is compiled for the same
instruction set (`-march=native`, `-march=x86-64-v3`); its own build sets no such flag for these
files and is mostly slower. Ours includes the check for NaN and infinity.

EOF
  "$bench" "${types[@]}" --rounds "${ROUNDS:-7}" --ggml "$1" --markdown speed
  echo
  "$bench" "${types[@]}" --rounds "${ROUNDS:-7}" --ggml "$2" --target avx2 --markdown speed
  echo
  "$bench" --types q8_0,q4_0,int8,int4,nf4,fp8_e4m3,fp8_e4m3_b128x128,mxfp4,f16,bf16 \
    --rows 4096 --cols 4096 --rounds 5 --markdown speed
  echo
}

case "${1:-}:$#" in
  errors:2)
    errors "$2" >"$work/text"
    put docs/quality.md errors <"$work/text"
    ;;
  speed:3)
    speed "$2" "$3" >"$work/text"
    [ -e docs/performance.md ] || echo '# Performance' >docs/performance.md
    put docs/performance.md speed <"$work/text"
    ;;
  *) usage ;;
esac
