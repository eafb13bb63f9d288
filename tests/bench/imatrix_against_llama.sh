#!/usr/bin/env bash
# Our importance matrix beside llama.cpp's, from the same token ids of the same f32 file, and each
# program quantizing with the other's: imatrix_against_llama.sh LLAMA_BIN TEXT MODEL...
# LLAMA_BIN: the folder with llama-imatrix and llama-quantize; MODEL: anything that `convert` reads.
# PENNYWEIGHT: the binary; CONTEXT (256) and WINDOWS (64): what is run. PYTHON has the package gguf.
# llama.cpp keeps keys and values in f32 too: rounded to f16, as it would, they send a few tokens to
# other experts. Prints per model the worst ratio of the two means of x^2 over channels above 1e-3 of their
# tensor's mean, for both kinds of files; fails when it is off by more than 1 %.
set -euo pipefail
llama=${1:?folder with llama-imatrix} text=${2:?a text}
shift 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
pennyweight=${PENNYWEIGHT:-$here/../../build/release/pennyweight}
context=${CONTEXT:-256} windows=${WINDOWS:-64}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LD_LIBRARY_PATH=$llama${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

for model in "$@"; do
  name=$(basename "$model")
  "$pennyweight" convert "$model" -o "$work/f32.gguf" --dtype f32 --force -q
  "$pennyweight" calibrate "$work/f32.gguf" -o "$work/ours.gguf" --calib "$text" --force -q \
    --context "$context" --tokens $((context * windows))
  "$pennyweight" calibrate "$work/f32.gguf" -o "$work/ours.dat" --merge "$work/ours.gguf" --force -q \
    --context "$context"
  for kind in gguf dat; do
    "$llama/llama-imatrix" -m "$work/f32.gguf" -f "$text" -c "$context" --chunks "$windows" --no-ppl \
      -t 2 -ctk f32 -ctv f32 -fa off --output-format "$kind" -o "$work/theirs.$kind" >"$work/log" 2>&1 ||
      { tail -5 "$work/log" >&2; exit 1; }
    # Their legacy file is compared through our reader.
    "$pennyweight" calibrate "$work/f32.gguf" -o "$work/$kind.gguf" --merge "$work/theirs.$kind" \
      --context "$context" --force -q
  done
  "${PYTHON:-python3}" "$here/imatrix_ratio.py" "$name" "$work/ours.gguf" "$work/theirs.gguf" \
    "$work/gguf.gguf" "$work/dat.gguf"
  for kind in gguf dat; do
    "$llama/llama-quantize" --imatrix "$work/ours.$kind" "$work/f32.gguf" "$work/q.gguf" IQ2_XS 2 \
      >"$work/log" 2>&1 || { tail -5 "$work/log" >&2; exit 1; }
    "$pennyweight" quantize "$work/f32.gguf" -o "$work/p.gguf" --type q4_k_m --strict --force -q \
      --imatrix "$work/theirs.$kind"
  done
  echo "$name: each quantizes with the other's files"
done
