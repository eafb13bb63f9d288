#!/usr/bin/env bash
# Tokens per CPU second of `calibrate` and of llama.cpp's llama-imatrix on the same synthetic Llama
# of 1 B parameters in bf16: imatrix_speed.sh LLAMA_BIN TEXT TOKENIZER_DIR [TOKENS]
# LLAMA_BIN: the folder with llama-imatrix; TOKENIZER_DIR: with a tokenizer.model of at most 32000
# tokens. PENNYWEIGHT and MAKE_LLAMA: the binaries; SCRATCH: where 5 GB fit (default: the system's
# temporary folder). Both run with two threads and a context of 512.
set -euo pipefail
llama=${1:?folder with llama-imatrix} text=${2:?a text} tokenizer=${3:?a folder} tokens=${4:-2048}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
pennyweight=${PENNYWEIGHT:-$here/../../build/release/pennyweight}
make_llama=${MAKE_LLAMA:-$here/../../build/release/tests/make_llama}
work=$(mktemp -d -p "${SCRATCH:-${TMPDIR:-/tmp}}")
trap 'rm -rf "$work"' EXIT
export LD_LIBRARY_PATH=$llama${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

"$make_llama" "$work/hf" "$tokenizer" hidden=2048 ffn=8192 layers=16 heads=32 kv_heads=8 \
  vocab=32000 context=2048 dtype=bf16 >/dev/null
"$pennyweight" convert "$work/hf" -o "$work/m.gguf" -q
rm -r "$work/hf"

TIMEFORMAT='%U %S %R'
measure() { # measure NAME COMMAND...: CPU seconds of a command
  local name=$1 times
  shift
  times=$({ time "$@" >"$work/log" 2>&1; } 2>&1) || { tail -5 "$work/log" >&2; exit 1; }
  echo "$times" | awk -v n="$name" -v t="$tokens" \
    '{ printf "%s: %.1f CPU s, %.1f s, %.1f tokens per CPU second\n", n, $1 + $2, $3, t / ($1 + $2) }'
}
measure "pennyweight calibrate" "$pennyweight" calibrate "$work/m.gguf" -o "$work/i.gguf" \
  --calib "$text" --context 512 --tokens "$tokens" -j 2 -q
measure "llama-imatrix --no-ppl" "$llama/llama-imatrix" -m "$work/m.gguf" -f "$text" -c 512 \
  --chunks $((tokens / 512)) -t 2 --no-ppl -o "$work/l.gguf"
