#!/bin/bash
# Makes docs/quality.md: what each method costs a model, as KL divergence to the original on text
# that nothing was fitted to. Models and texts are those beside the checkout (../shared); takes
# about twenty minutes. Usage: scripts/quality.sh [MODEL...] >docs/quality.md
# The section on single matrices is appended by tests/bench/quality_table.sh errors.
set -euo pipefail
cd "$(dirname "$0")/.."
pennyweight=${PENNYWEIGHT:-build/release/pennyweight}
shared=${SHARED:-../shared}
[ -d "$shared/models" ] || { echo "quality.sh: $shared/models is not there" >&2; exit 2; }
[ -x "$pennyweight" ] || { echo "quality.sh: build first: $pennyweight is not there" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
models=("$@")
[ ${#models[@]} -gt 0 ] || models=(stories260K babyllama105 pd-llama-4M)

# number KEY FILE: the first number of that key in a JSON document.
number() { grep -oE "\"$1\": ?[-+0-9.e]+" "$2" | head -1 | sed 's/.*: *//' || true; }

row() {
  local model=$1 type=$2 method=$3 out flags calib text separator
  case $model in
    pd-*) calib=pd/calib.txt text=pd/eval.txt separator='\n\n' ;;
    *) calib=tinystories-calib.txt text=tinystories-eval.txt separator='\n<|endoftext|>\n' ;;
  esac
  rm -rf "$work"/out*
  case $type in
    int*) out=$work/out flags=(--type "$type") ;;
    *) out=$work/out.gguf flags=(--type "$type" --pure --embedding-type f16 --output-type f16) ;;
  esac
  "$pennyweight" quantize "$shared/models/$model" -o "$out" "${flags[@]}" --method "$method" \
    --calib "$shared/text/$calib" --separator "$separator" --json -q >"$work/report.json"
  "$pennyweight" eval "$out" --reference "$shared/models/$model" --text "$shared/text/$text" \
    --separator "$separator" --json -q >"$work/eval.json"
  printf '| %s | %s | %s | %.5f (%.5f to %.5f) | %.4f | %.5f |\n' "$model" "$type" "$method" \
    "$(number kl_mean "$work/eval.json")" "$(number kl_mean_low "$work/eval.json")" \
    "$(number kl_mean_high "$work/eval.json")" "$(number perplexity "$work/eval.json")" \
    "$(number output_rel_error "$work/report.json")"
}

cat <<'EOF'
# Quality

Made by `scripts/quality.sh`. Only the matrices of the decoder layers are quantized (embedding and
head stay 16 bits). Calibrated on `tinystories-calib` or `pd/calib` (65536 tokens, or all there are),
evaluated by documents on `tinystories-eval` or `pd/eval`, which are disjoint from them: mean KL
divergence to the original in nats with a 95 % interval (bootstrap over documents), perplexity of the
quantized model, and `output_rel_error` of the linears on the calibration text, tr(dW H dW^T) over
tr(W H W^T), summed over all of them.

`minmax` is the plain baseline, `rtn` the scale search weighted by the activations' second moment,
`gptq` adds error feedback and moves the weights to make up for what the layers before changed. That
move counts as a change in `output_rel_error`, which therefore says less about `gptq` than the
divergence does.

EOF
for model in "${models[@]}"; do
  case $model in
    pd-*) types=(q4_0 q4_k q3_k) ;;
    *) types=(int4_g32_asym int4_g64_asym) ;;
  esac
  echo "## $model"
  echo
  "$pennyweight" eval "$shared/models/$model" --text "$shared/text/$(
    [[ $model == pd-* ]] && echo pd/eval.txt || echo tinystories-eval.txt)" --separator "$(
    [[ $model == pd-* ]] && echo '\n\n' || echo '\n<|endoftext|>\n')" --json -q >"$work/eval.json"
  printf 'Perplexity of the original: %.4f\n\n' "$(number perplexity "$work/eval.json")"
  echo '| model | type | method | mean KL (95 %) | perplexity | `output_rel_error` |'
  echo "|---|---|---|---|---|---|"
  for type in "${types[@]}"; do
    for method in minmax rtn gptq; do row "$model" "$type" "$method"; done
  done
  echo
done
