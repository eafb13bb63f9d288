#!/bin/bash
# Measures what each method costs a model, as KL divergence to the original on text that nothing was
# fitted to, and puts the tables into docs/quality.md. Models and texts are those beside the checkout
# (../shared). Every row is kept in build/quality, so a stopped run goes on where it was.
#
#   scripts/quality.sh methods         every model, type and method: about an hour and a half of processor time
#   scripts/quality.sh llama BIN       beside llama.cpp's own quantizer with its own imatrix, judged by
#                                      its own llama-perplexity; BIN holds llama-{imatrix,quantize,perplexity}
#   scripts/quality.sh tables          only the tables, of the rows that are there
#
# JOBS: rows at a time (2). MODELS, TYPES, METHODS: only these. TOKENS: evaluation tokens (16384).
set -euo pipefail
cd "$(dirname "$0")/.."
pennyweight=${PENNYWEIGHT:-$PWD/build/release/pennyweight}
shared=${SHARED:-../shared}
rows=${ROWS:-build/quality}
tokens=${TOKENS:-16384}
sensitive=(stories260K babyllama105)
ours=(pd-llama-4M pd-qwen2-4M pd-mixtral-4M)
models=(${MODELS:-${sensitive[@]} ${ours[@]}})
integers=(int4_g32_asym int4_g64_asym int4_g128_asym int3_g64 nf4)
blocks=(q4_0 q4_k q3_k q2_k iq4_xs)
mixes=(q2_k q3_k_m q4_k_m)
methods=(${METHODS:-minmax rtn awq gptq auto})

usage() { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
fail() { echo "quality.sh: $*" >&2; exit 2; }

# Sets calib, text and separator of a model: three disjoint parts, as every eighth window of the
# calibration text is what `auto` chooses by.
texts() {
  case $1 in
    pd-*) calib=$shared/text/pd/calib.txt text=$shared/text/pd/eval.txt separator='\n\n' ;;
    *) calib=$shared/text/tinystories-calib.txt text=$shared/text/tinystories-eval.txt
       separator='\n<|endoftext|>\n' ;;
  esac
}

# number KEY FILE: the first number of that key in a JSON document.
number() { grep -oE "\"$1\": ?[-+0-9.e]+" "$2" | head -1 | sed 's/.*: *//' || true; }

# row MODEL TYPE METHOD: one line of figures, kept in its own file.
row() {
  local model=$1 type=$2 method=$3 out flags work calib text separator
  local file=$rows/$model.$type.$method
  [ ! -s "$file" ] || return 0
  texts "$model"
  work=$(mktemp -d)
  case $type in
    nf4) out=$work/out flags=(--to bnb --type "$type") ;;
    int*) out=$work/out flags=(--type "$type") ;;
    *) out=$work/out.gguf flags=(--type "$type" --pure --embedding-type f16 --output-type f16) ;;
  esac
  if ! "$pennyweight" quantize "$shared/models/$model" -o "$out" "${flags[@]}" --method "$method" \
    --calib "$calib" --separator "$separator" --json -q -j1 >"$work/report.json" 2>"$work/error" ||
    ! "$pennyweight" eval "$out" --reference "$shared/models/$model" --text "$text" -j1 \
      --separator "$separator" --tokens "$tokens" --json -q >"$work/eval.json" 2>>"$work/error"; then
    echo "quality.sh: $model $type $method: $(cat "$work/error")" >&2
    rm -rf "$work"
    return 1
  fi
  printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$model" "$type" "$method" \
    "$(number kl_mean "$work/eval.json")" "$(number kl_mean_low "$work/eval.json")" \
    "$(number kl_mean_high "$work/eval.json")" "$(number perplexity "$work/eval.json")" \
    "$(number seconds "$work/report.json")" >"$file.new"
  mv "$file.new" "$file"
  rm -rf "$work"
}

# Types of a model: k-quants need rows of 256.
types() {
  if [ -n "${TYPES:-}" ]; then
    echo "$TYPES"
  elif [[ $1 == pd-* ]]; then
    echo "${integers[@]}" "${blocks[@]}"
  else
    echo "${integers[@]}"
  fi
}

run_methods() {
  local model type method failed=0
  for model in "${models[@]}"; do
    for type in $(types "$model"); do
      for method in "${methods[@]}"; do
        while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-2}" ]; do wait -n || failed=1; done
        row "$model" "$type" "$method" &
      done
    done
  done
  while [ -n "$(jobs -rp)" ]; do wait -n || failed=1; done
  return $failed
}

# judge MODEL TYPE LABEL FILE: mean KL of a GGUF file by llama-perplexity.
judge() {
  local kept=$rows/llama.$1.$2.$3 log
  [ ! -s "$kept" ] || return 0
  log=$(mktemp)
  # The tool was seen to crash at start on a loaded machine, now and then.
  for _ in 1 2 3; do
    "$bin/llama-perplexity" -m "$4" -f "$judged" -c 256 --no-repack -t 2 --kl-divergence-base \
      "$rows/$1.base" --kl-divergence >"$log" 2>&1 && break
  done
  local kl error
  kl=$(sed -nE 's/^Mean +KLD: +([-0-9.]+) .*/\1/p' "$log")
  error=$(sed -nE 's/^Mean +KLD: +[-0-9.]+ ±? *([0-9.]+).*/\1/p' "$log")
  [ -n "$kl" ] || { tail -5 "$log" >&2; fail "llama-perplexity gave no figure for $4"; }
  printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$kl" "$error" >"$kept"
  rm -f "$log"
}

run_llama() {
  bin=$1
  local model type work out
  for tool in imatrix quantize perplexity; do
    [ -x "$bin/llama-$tool" ] || fail "$bin/llama-$tool is not there"
  done
  work=$(mktemp -d)
  judged=$work/eval.txt
  head -c 200000 "$shared/text/pd/eval.txt" >"$judged"
  for model in "${ours[@]}"; do
    [[ " ${models[*]} " == *" $model "* ]] || continue
    texts "$model"
    local f32=$work/$model.gguf
    "$pennyweight" convert "$shared/models/$model" -o "$f32" --dtype f32 -q
    "$bin/llama-imatrix" -m "$f32" -f "$calib" -c 256 --chunks 256 -o "$work/$model.imatrix" -t 2 \
      >"$work/log" 2>&1 || fail "llama-imatrix: $(tail -3 "$work/log")"
    [ -s "$rows/$model.base" ] ||
      "$bin/llama-perplexity" -m "$f32" -f "$judged" -c 256 --no-repack -t 2 --kl-divergence-base \
        "$rows/$model.base" >"$work/log" 2>&1 || fail "llama-perplexity: $(tail -3 "$work/log")"
    for type in "${blocks[@]}" "${mixes[@]/#/mix:}"; do
      out=$work/out.gguf
      local flags=(--type "${type#mix:}") peer=()
      if [[ $type != mix:* ]]; then
        flags+=(--pure --embedding-type f16 --output-type f16)
        peer=(--pure --token-embedding-type f16 --output-tensor-type f16)
      fi
      if [ ! -s "$rows/llama.$model.$type.llama.cpp" ]; then
        "$bin/llama-quantize" --imatrix "$work/$model.imatrix" "${peer[@]}" "$f32" "$out" \
          "${type#mix:}" 2 >"$work/log" 2>&1 || fail "llama-quantize: $(tail -3 "$work/log")"
        judge "$model" "$type" llama.cpp "$out"
      fi
      rm -f "$out"
      if [ ! -s "$rows/llama.$model.$type.auto" ]; then
        "$pennyweight" quantize "$f32" -o "$out" "${flags[@]}" --calib "$calib" --tokens 65536 \
          --context 256 -q
        judge "$model" "$type" auto "$out"
        rm -f "$out"
      fi
    done
  done
  rm -rf "$work"
}

# kept PATTERN: the rows that are there.
kept() { find "$rows" -type f -name "$1" ! -name '*.base' ! -name '*.new' -exec cat {} +; }

table_methods() {
  cat <<'TEXT'
## Methods

Mean KL divergence to the original model in nats, with a 95 % interval (bootstrap over documents).
Only the matrices of the decoder layers are quantized (embedding and head stay 16 bits). Calibrated on
`tinystories-calib` or `pd/calib` (65536 tokens, or all there are), of which every eighth window is only
used to choose; evaluated by documents on 16384 tokens of `tinystories-eval` or `pd/eval`.

`minmax` is the plain baseline, `rtn` the scale search weighted by the activations' second moment, `awq`
folds scales into the layers before and then rounds, `gptq` adds error feedback and moves weights to
make up for what the layers before changed; `auto` chooses among these for each decoder layer.

TEXT
  kept '*' | awk -F'\t' -v order="${sensitive[*]} ${ours[*]}" \
    -v types="${integers[*]} ${blocks[*]}" -v methods="minmax rtn awq gptq auto" '
    $1 !~ /^llama\./ && NF >= 7 {
      kl[$1, $2, $3] = $4; text[$1, $2, $3] = sprintf("%.5f (%.5f to %.5f)", $4, $5, $6)
    }
    END {
      n = split(order, m, " "); t = split(types, y, " "); k = split(methods, w, " ")
      print "| model | type | `minmax` | `rtn` | `awq` | `gptq` | `auto` | `auto` / best |"
      print "|---|---|---|---|---|---|---|---|"
      for (a = 1; a <= n; a++) for (b = 1; b <= t; b++) {
        if (!((m[a], y[b], "auto") in kl)) continue
        line = "| " m[a] " | " y[b]; best = 0; whole = 1
        for (c = 1; c <= k; c++) {
          if (!((m[a], y[b], w[c]) in kl)) { whole = 0; line = line " | -"; continue }
          v = kl[m[a], y[b], w[c]]
          line = line " | " text[m[a], y[b], w[c]]
          if (w[c] != "auto" && (best == 0 || v < best)) best = v
        }
        printf "%s | %.3f |\n", line, kl[m[a], y[b], "auto"] / best
        if (!whole) continue
        rows++
        for (c = 1; c <= k; c++) sum[c] += log(kl[m[a], y[b], w[c]])
      }
      if (rows == 0) exit
      line = "| geometric mean | " rows " rows"
      for (c = 1; c <= k; c++) line = line sprintf(" | %.5f", exp(sum[c] / rows))
      print line " | |"
    }'
  echo
}

table_llama() {
  cat <<'TEXT'
## Beside llama.cpp

Both calibrated on the same ids (256 windows of 256 tokens of `pd/calib`: llama.cpp by its imatrix
tool), both judged by llama.cpp's own `llama-perplexity` on the first 200000 bytes of `pd/eval`, context
256: mean KL divergence to the f32 file, with its standard error. Pure rows: every matrix in that type,
embedding and head f16; mixes: as both programs make them.

TEXT
  kept 'llama.*' | awk -F'\t' -v order="${ours[*]}" \
    -v types="${blocks[*]} ${mixes[*]/#/mix:}" '
    { kl[$1, $2, $3] = $4; text[$1, $2, $3] = sprintf("%.5f ± %.5f", $4, $5) }
    END {
      n = split(order, m, " "); t = split(types, y, " ")
      print "| model | type | llama.cpp | `auto` | ratio |"
      print "|---|---|---|---|---|"
      for (a = 1; a <= n; a++) for (b = 1; b <= t; b++) {
        if (!((m[a], y[b], "auto") in kl) || !((m[a], y[b], "llama.cpp") in kl)) continue
        name = y[b]; sub("mix:", "mix ", name)
        printf "| %s | %s | %s | %s | %.3f |\n", m[a], name, text[m[a], y[b], "llama.cpp"],
          text[m[a], y[b], "auto"], kl[m[a], y[b], "auto"] / kl[m[a], y[b], "llama.cpp"]
      }
    }'
}

# The text on stdin takes the place of the section between the markers of docs/quality.md.
put() {
  local document=docs/quality.md begin="<!-- quality.sh -->" end="<!-- end of quality.sh -->" section
  section=$(mktemp)
  { echo "$begin"; cat; echo "$end"; } >"$section"
  grep -qxF "$begin" "$document" && grep -qxF "$end" "$document" || fail "$document lacks the markers"
  awk -v begin="$begin" -v end="$end" -v section="$section" '
    $0 == begin { while ((getline line < section) > 0) print line; inside = 1 }
    !inside { print }
    $0 == end { inside = 0 }' "$document" >"$section.document"
  cat "$section.document" >"$document"
  rm -f "$section" "$section.document"
}

[ -d "$shared/models" ] || fail "$shared/models is not there"
[ -x "$pennyweight" ] || fail "build first: $pennyweight is not there"
mkdir -p "$rows"
case ${1:-} in
  methods) run_methods ;;
  llama) [ $# -eq 2 ] || usage; run_llama "$2" ;;
  tables) ;;
  *) usage ;;
esac
{
  table_methods
  [ -z "$(kept 'llama.*')" ] || table_llama
} | put
