# The main job through the binary: the same bytes for any -j and --memory, and what is written can
# be read, evaluated and compared.
. "$(dirname "$0")/common.sh"

run() { "$P" "$@" >"$WORK/stdout" 2>"$WORK/stderr" || fail "$* ($(cat "$WORK/stderr"))"; }

calibrated=(--tokens 6144)

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
for key in totals layers tensors weight_rel_mse output_rel_error_heldout hidden_rel_error; do
  grep -q "\"$key\"" "$WORK/a.json" || fail "the report has no $key"
done

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
