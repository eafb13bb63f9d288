# qwen2 and mixtral: every way that a llama goes, with the experts of a layer as one tensor in GGUF.
. "$(dirname "$0")/common.sh"

run() { "$P" "$@" >"$WORK/stdout" 2>"$WORK/stderr" || fail "$* ($(cat "$WORK/stderr"))"; }
same() { run compare "$1" "$2" --fail-above weight_rel_mse=0 --fail-above max_abs_error=0; }
bytes_of() { if [ -d "$1" ]; then find "$1" -type f -printf '%s\n' | paste -sd+ | bc; else stat -c %s "$1"; fi; }
# row FILE NAME: the report's row of a tensor, without blanks.
row() { tr -d ' \n' <"$1" | grep -oE "\{\"name\":\"$2\"[^}]*"; }
field() { grep -oE "\"$2\": *[^,]*" "$1" | sed 's/.*: *//'; }

# plan_is_true MODEL OUTPUT FLAGS...: the run makes the bytes, rows and types of its dry run.
plan_is_true() {
  local model=$1 out=$WORK/$2
  shift 2
  run quantize "$model" -o "$out" "$@" --dry-run --json
  cp "$WORK/stdout" "$WORK/plan.json"
  run quantize "$model" -o "$out" "$@" --json -j 1
  cp "$WORK/stdout" "$WORK/run.json"
  [ "$(bytes_of "$out")" = "$(field "$WORK/plan.json" bytes_out)" ] ||
    fail "$*: $(bytes_of "$out") bytes, planned $(field "$WORK/plan.json" bytes_out)"
  for key in name output_name role expert to bytes; do
    diff <(field "$WORK/plan.json" "$key") <(field "$WORK/run.json" "$key") >/dev/null ||
      fail "$*: \"$key\" differs from the plan"
  done
  mkdir -p "$WORK/j2"
  run quantize "$model" -o "$WORK/j2/${out##*/}" "$@" -j 2
  diff -r "$out" "$WORK/j2/${out##*/}" >/dev/null || fail "$*: -j changes the bytes"
  run verify "$out"
  run eval "$out" --prompt "And the LORD said" --generate 4
}

for name in pd-qwen2-4M pd-mixtral-4M; do
  model=$SHARED/models/$name
  if [ ! -d "$model" ]; then
    echo "SKIPPED: ../shared/models/$name is not there"
    continue
  fi
  run verify "$model"
  run eval "$model" --prompt "And the LORD said" --generate 8 --json
  cp "$WORK/stdout" "$WORK/expected"

  # Folder -> GGUF -> folder -> GGUF.
  run convert "$model" -o "$WORK/plain.gguf"
  same "$model" "$WORK/plain.gguf"
  run verify "$WORK/plain.gguf"
  mkdir -p "$WORK/back"
  run convert "$WORK/plain.gguf" -o "$WORK/back/$name"
  same "$model" "$WORK/back/$name"
  run convert "$WORK/back/$name" -o "$WORK/forth.gguf"
  cmp "$WORK/plain.gguf" "$WORK/forth.gguf" || fail "$name: GGUF -> folder -> GGUF is another file"
  for one in "$WORK/plain.gguf" "$WORK/back/$name"; do
    run eval "$one" --prompt "And the LORD said" --generate 8 --json
    cmp "$WORK/stdout" "$WORK/expected" || fail "$one says something else"
  done

  plan_is_true "$model" k.gguf --type q4_k_m --method minmax
  run compare "$model" "$WORK/k.gguf" --fail-above weight_rel_mse=0.02
  plan_is_true "$WORK/plain.gguf" r.gguf --type q4_0 --method rtn
  plan_is_true "$model" int4 --type int4 --to compressed-tensors --method rtn
  run compare "$model" "$WORK/int4" --fail-above weight_rel_mse=0.02
  "$P" compare "$model" "$WORK/int4" --fail-above weight_rel_mse=1e-6 >/dev/null 2>&1 &&
    fail "$name: int4 is said to have no error"
  rm -rf "${WORK:?}"/back "$WORK/j2" "$WORK"/*.gguf "$WORK/int4"
done

model=$SHARED/models/pd-mixtral-4M
if [ -d "$model" ]; then
  # Of the weights in 36 matrices of experts half work on a token.
  run inspect "$model" --json
  all=$(field "$WORK/stdout" parameters) active=$(field "$WORK/stdout" active_parameters)
  [ $((all - active)) = $((36 * 256 * 256 / 2)) ] || fail "$active of $all weights are active"
  # A row for each expert; in GGUF one tensor for all of them.
  run quantize "$model" -o "$WORK/m.gguf" --type q4_k_m --method minmax --json
  said=$(row "$WORK/stdout" "model.layers.1.block_sparse_moe.experts.2.w2.weight")
  for part in '"output_name":"blk.1.ffn_down_exps.weight"' '"layer":1' '"role":"ffn_down"' \
    '"expert":2' '"shape":[256,256]' '"bytes":36864'; do
    [[ $said == *"$part"* ]] || fail "the row of an expert does not say $part: $said"
  done
  said=$(row "$WORK/stdout" "model.layers.1.block_sparse_moe.gate.weight")
  for part in '"role":"router"' '"expert":null' '"to":"f32"' 'routersarenotquantized'; do
    [[ $said == *"$part"* ]] || fail "the row of a router does not say $part: $said"
  done
  expect 2 "experts.2.w2" "one tensor" "--tensor-type" -- quantize "$model" -o "$WORK/n.gguf" \
    --type q4_k_m --tensor-type 'experts\.2\.w2=q8_0' --method minmax
  run quantize "$model" -o "$WORK/n.gguf" --type q4_k_m --method minmax --json \
    --tensor-type 'layers\.1\..*experts\.\d+\.w2=q8_0'
  [ "$(tr -d ' \n' <"$WORK/stdout" | grep -oE '"expert":[0-9]+,[^}]*"to":"q8_0"' | wc -l)" = 4 ] ||
    fail "a pattern over the experts does not give all of them its type"

  # A configuration that does not belong to the weights.
  cp -r "$model" "$WORK/wrong"
  chmod -R u+w "$WORK/wrong"
  sed -i 's/"num_local_experts": 4/"num_local_experts": 5/' "$WORK/wrong/config.json"
  expect 2 "[4, 256]" "[5, 256]" "block_sparse_moe.gate.weight" "configuration" -- \
    eval "$WORK/wrong" --prompt x --generate 1
  expect 2 "experts.4." "missing" -- convert "$WORK/wrong" -o "$WORK/w.gguf"
  "$P" verify "$WORK/wrong" >"$WORK/stdout" 2>&1 && fail "verify passes a wrong number of experts"
  grep -q "CFG-SHAPE" "$WORK/stdout" && grep -q "CFG-TENSOR-MISSING" "$WORK/stdout" ||
    fail "verify does not say what is wrong: $(head -5 "$WORK/stdout")"
fi

# mistral: a llama by another name, whose window bounds the context.
copy_model mistral
sed -i 's/LlamaForCausalLM/MistralForCausalLM/; s/"model_type": "llama"/"model_type": "mistral", "sliding_window": 64/' \
  "$WORK/mistral/config.json"
text=$SOURCE_DIR/LICENSE
run eval "$MODEL" --text "$text" --context 64 --tokens 256 --json
cp "$WORK/stdout" "$WORK/expected"
run eval "$WORK/mistral" --text "$text" --context 64 --tokens 256 --json
cmp "$WORK/stdout" "$WORK/expected" || fail "a mistral is not computed as a llama"
expect 2 "--context 128 is above" "64" "sliding_window" -- \
  eval "$WORK/mistral" --text "$text" --context 128 --tokens 256
run convert "$WORK/mistral" -o "$WORK/mistral.gguf"
same "$MODEL" "$WORK/mistral.gguf"
expect 2 "sliding_window" -- eval "$WORK/mistral.gguf" --text "$text" --context 128 --tokens 256
run convert "$WORK/mistral.gguf" -o "$WORK/again"
grep -q '"MistralForCausalLM"' "$WORK/again/config.json" &&
  grep -q '"sliding_window": 64' "$WORK/again/config.json" || fail "the window was lost"

exit $failed
