# The main job through the binary: the same bytes for any -j and --memory, and what is written can
# be read, evaluated and compared.
. "$(dirname "$0")/common.sh"

run() { "$P" "$@" >"$WORK/stdout" 2>"$WORK/stderr" || fail "$* ($(cat "$WORK/stderr"))"; }

# Nine windows, of which one is held out.
calibrated=(--tokens 4608)

# Twice, with one and two threads, with little and much memory (hidden states spilled or not).
run quantize "$MODEL" -o "$WORK/a.gguf" "${calibrated[@]}" -j 1 --report "$WORK/a.json"
run quantize "$MODEL" -o "$WORK/b.gguf" "${calibrated[@]}" -j 2
# The least memory that is enough, by the program's own word, has no room for hidden states.
"$P" quantize "$MODEL" -o "$WORK/none.gguf" "${calibrated[@]}" --memory 1M 2>"$WORK/stderr"
least=$(grep -oE 'use --memory [0-9]+M' "$WORK/stderr" | grep -oE '[0-9]+M')
run quantize "$MODEL" -o "$WORK/c.gguf" "${calibrated[@]}" -j 2 --memory "${least:-0}"
cmp "$WORK/a.gguf" "$WORK/b.gguf" || fail "-j changes the bytes"
cmp "$WORK/a.gguf" "$WORK/c.gguf" || fail "--memory changes the bytes"
run quantize "$MODEL" -o "$WORK/d" --type int4 "${calibrated[@]}" -j 1
run quantize "$MODEL" -o "$WORK/e" --type int4 "${calibrated[@]}" -j 2
diff -r "$WORK/d" "$WORK/e" || fail "-j changes the bytes of a folder"

# The report has its keys, and calibration pays.
for key in totals layers tensors coverage candidates weight_rel_mse output_rel_error_heldout \
  hidden_rel_error; do
  grep -q "\"$key\"" "$WORK/a.json" || fail "the report has no $key"
done

for name in rtn gptq; do
  grep -qF "\"name\": \"$name\"" "$WORK/a.json" || fail "auto did not try $name"
done
grep -qE '"chosen": "[a-z+]+"' "$WORK/a.json" || fail "auto does not say what it chose"

# The awq rewrite is on record: weights are compared in the original's numbers.
run quantize "$MODEL" -o "$WORK/awq.gguf" --type q4_0 --method awq "${calibrated[@]}" --report "$WORK/awq.json"
grep -qF '"chosen": "awq+rtn"' "$WORK/awq.json" || fail "--method awq is not awq"
run compare "$MODEL" "$WORK/awq.gguf" --fail-above weight_rel_mse=0.02

# --strict: below a number of tokens, or where a matrix fell back; the output is written all the same.
expect 1 "calibrated on fewer than 100000 tokens" -- quantize "$MODEL" -o "$WORK/strict" --type int4 \
  --method gptq "${calibrated[@]}" --strict --min-tokens 100000
[ -e "$WORK/strict/model.safetensors" ] || fail "--strict wrote nothing"
run quantize "$MODEL" -o "$WORK/strict2" --type int4 --method gptq "${calibrated[@]}" --strict
expect 2 "--strict --min-tokens 5" -- quantize "$MODEL" -o "$WORK/none" --type int4 --min-tokens 5
# Less text than one window.
echo "In the beginning" >"$WORK/short.txt"
expect 2 "window" -- quantize "$MODEL" -o "$WORK/none" --type int4 --calib "$WORK/short.txt"

# Experts: what each has seen is told, and every one sees everything where that is asked for.
if [ -d "$SHARED/models/pd-mixtral-4M" ]; then
  run quantize "$SHARED/models/pd-mixtral-4M" -o "$WORK/moe.gguf" --type q4_0 --method gptq \
    "${calibrated[@]}" --json
  grep -A5 '"coverage"' "$WORK/stdout" | grep -q '"tokens"' || fail "no coverage of experts"
  expect 1 "fewer than 4000 tokens" -- quantize "$SHARED/models/pd-mixtral-4M" -o "$WORK/moe2.gguf" \
    --type q4_0 --method gptq "${calibrated[@]}" --strict --min-tokens 4000
  run quantize "$SHARED/models/pd-mixtral-4M" -o "$WORK/moe3.gguf" --type q4_0 --method gptq \
    "${calibrated[@]}" --strict --min-tokens 4000 --all-experts
else
  echo "SKIPPED: experts (../shared/models/pd-mixtral-4M is not there)"
fi

# What was written is a model again, in both containers.
for out in a.gguf d; do
  run inspect "$WORK/$out" --json
  grep -q '"name":"model.layers.0.self_attn.q_proj.weight"' "$WORK/stdout" ||
    fail "$out does not list q_proj under its own name"
  run compare "$MODEL" "$WORK/$out" --fail-above weight_rel_mse=0.05
  run eval "$WORK/$out" --prompt "And the LORD said" --generate 4 --json
  grep -q '"text":"And the LORD said' "$WORK/stdout" || fail "$out does not speak: $(cat "$WORK/stdout")"
done
expect 1 "is above" -- compare "$MODEL" "$WORK/a.gguf" --fail-above weight_rel_mse=0.000001:q_proj
expect 2 "matches nothing" -- compare "$MODEL" "$WORK/a.gguf" --fail-above weight_rel_mse=1:nosuch

# The types asked for are the types written; a plain copy is exact.
run quantize "$MODEL" -o "$WORK/f.gguf" --type q4_0 --method rtn --tensor-type 'down_proj=q6_k' --json
grep -q '"to": *"q6_k"' "$WORK/stdout" || fail "--tensor-type was not followed"
run quantize "$MODEL" -o "$WORK/plain.safetensors" --type bf16
run compare "$MODEL" "$WORK/plain.safetensors" --fail-above weight_rel_mse=0

# What a folder leaves behind is named; a fallback is named with its tensors.
copy_model with_code
touch "$WORK/with_code/modeling_own.py"
run quantize "$WORK/with_code" -o "$WORK/g" --type int4 --method rtn
grep -q "not copied to the output: .*modeling_own.py" "$WORK/stderr" || fail "left behind unsaid"
[ ! -e "$WORK/g/modeling_own.py" ] || fail "program code was copied"
grep -q "norms are not quantized: model.layers.0.input_layernorm.weight and" "$WORK/stdout" ||
  fail "fallbacks are not summed up: $(cat "$WORK/stdout")"

exit $failed
