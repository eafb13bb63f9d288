# The layouts beside GGUF: what each holds, what it refuses with the layouts that do, and the same
# bytes for any number of threads and after a stop.
. "$(dirname "$0")/common.sh"

run() { "$P" "$@" >"$WORK/stdout" 2>"$WORK/stderr" || fail "$* ($(cat "$WORK/stderr"))"; }

# Layout, type, the name that a report and a listing give it, bounds of the error of a linear.
while read -r to type name low high; do
  run quantize "$MODEL" -o "$WORK/a" --to "$to" --type "$type" --method rtn -j 1 --force \
    --report "$WORK/a.csv"
  run quantize "$MODEL" -o "$WORK/b" --to "$to" --type "$type" --method rtn -j 2 --force
  for file in "$WORK"/a/*; do
    cmp "$file" "$WORK/b/$(basename "$file")" || fail "$to $type: -j changes $(basename "$file")"
  done
  run inspect "$WORK/a"
  grep -q "layers.0.mlp.up_proj.weight *$name " "$WORK/stdout" || fail "$to $type is not $name"
  grep -q "lm_head.weight *bf16" "$WORK/stdout" || fail "$to $type: the head is not left alone"
  run verify "$WORK/a"
  # The report's error is that of the file.
  run compare "$MODEL" "$WORK/a" --fail-above "weight_rel_mse=$high:_proj"
  "$P" compare "$MODEL" "$WORK/a" --fail-above "weight_rel_mse=$low:_proj" >"$WORK/stdout" 2>&1
  [ $? = 1 ] || fail "$to $type is better than it can be"
done <<'END'
compressed-tensors int2_g16 int2_g16 0.02 0.2
compressed-tensors int3_g32 int3_g32 0.01 0.06
compressed-tensors int5_g128 int5_g128 0.0008 0.006
compressed-tensors int6_channel int6_channel 0.0002 0.003
compressed-tensors int2_g32_asym int2_g32_asym 0.02 0.2
compressed-tensors fp8_e4m3 fp8_e4m3_channel 0.0003 0.001
compressed-tensors fp8_e4m3_tensor fp8_e4m3_tensor 0.0003 0.001
compressed-tensors fp8_e4m3_b128x128 fp8_e4m3_b128x128 0.0003 0.001
compressed-tensors mxfp4 mxfp4 0.005 0.02
compressed-tensors nvfp4 fp4_e2m1_b1x16 0.004 0.015
fp8 fp8_e4m3 fp8_e4m3_b128x128 0.0003 0.001
fp8 fp8_e5m2_tensor fp8_e5m2_tensor 0.001 0.004
gptq int4_g64 int4_g64 0.004 0.02
gptq int4_g32_asym int4_g32_asym 0.003 0.015
gptq int8_channel int8_channel 0.00001 0.0005
gptq int3_g128 int3_g128 0.015 0.08
gptq int2_g16 int2_g16 0.02 0.2
awq int4 int4_g128_asym 0.003 0.015
awq int4_g32_asym int4_g32_asym 0.003 0.015
awq int4_g64 int4_g64 0.004 0.02
bnb nf4 nf4_b64 0.004 0.012
bnb fp4_b128 fp4_b128 0.005 0.03
END

# minmax is another choice, and not a better one.
run quantize "$MODEL" -o "$WORK/plain" --to bnb --method minmax
run compare "$MODEL" "$WORK/plain" --fail-above weight_rel_mse=0.012:_proj
cmp -s "$WORK/plain/model.safetensors" "$WORK/a/model.safetensors" && fail "minmax is rtn"

# Refused before any work, with the layouts that hold it.
expect 2 "does not hold nf4_b64" "--to bnb" -- quantize "$MODEL" -o "$WORK/no" --type nf4
expect 2 "does not hold nf4_b64" "--to bnb" -- quantize "$MODEL" -o "$WORK/no.gguf" --type nf4
expect 2 "does not hold q4_k" "--to gguf" -- quantize "$MODEL" -o "$WORK/no" --type q4_k
expect 2 "does not hold int4_g128" "--to compressed-tensors" -- \
  quantize "$MODEL" -o "$WORK/no" --to bnb --type int4
expect 2 "does not hold fp8_e5m2_b128x128" "--to fp8" -- \
  quantize "$MODEL" -o "$WORK/no" --type fp8_e5m2_b128x128
expect 2 "does not hold fp8_e4m3_channel" "--to compressed-tensors" -- \
  quantize "$MODEL" -o "$WORK/no" --to fp8 --type fp8_e4m3_channel
expect 2 "3 bits with zero points" "--symmetric" -- \
  quantize "$MODEL" -o "$WORK/no" --type int3_g32_asym --method rtn
expect 2 "all weights have one type" "--to compressed-tensors" -- quantize "$MODEL" -o "$WORK/no" \
  --to fp8 --method rtn --tensor-type 'down_proj=fp8_e4m3_tensor'
expect 2 "all weights have one codebook" "--type nf4" -- quantize "$MODEL" -o "$WORK/no" \
  --to bnb --method rtn --tensor-type 'down_proj=fp4'
expect 2 "all weights have one type" "--to compressed-tensors" -- quantize "$MODEL" -o "$WORK/no" \
  --to gptq --method rtn --tensor-type 'down_proj=int8_g128'
expect 2 "gptq does not hold int5_g128" "--to compressed-tensors" -- \
  quantize "$MODEL" -o "$WORK/no" --to gptq --type int5
expect 2 "awq does not hold int8_g128_asym" "--to compressed-tensors, or --to gptq" -- \
  quantize "$MODEL" -o "$WORK/no" --to awq --type int8
expect 2 "no loader takes groups of 256" "--group-size 32" -- \
  quantize "$MODEL" -o "$WORK/no" --to gptq --group-size 256 --method rtn
expect 2 "in the linear modules of layers only" "--keep" -- \
  quantize "$MODEL" -o "$WORK/no" --to awq --method rtn --output-type int4
expect 2 "only the weights of linear modules" "--keep" -- quantize "$MODEL" -o "$WORK/no" \
  --type fp8_e4m3 --pure --method rtn
expect 2 "there is no type or mix named" nf4 -- quantize "$MODEL" -o "$WORK/no" --type nf5
[ -e "$WORK/no" ] && fail "a refused run left an output"

# Types that gptq does not take say so.
run quantize "$MODEL" -o "$WORK/c" --type nvfp4 --tokens 1024 --report "$WORK/c.csv"
grep -q "gptq does not choose codes of fp4_e2m1_b1x16: rtn" "$WORK/c.csv" || fail "no reason is given"

# Rows that do not divide into the group stay plain, are listed so, and count as such.
run quantize "$MODEL" -o "$WORK/d" --to gptq --group-size 64 --method rtn --report "$WORK/d.csv" \
  --keep 'layers\.1\.mlp\.down'
grep -q '"-:^model\\\\.layers\\\\.1\\\\.mlp\\\\.down_proj\$"' "$WORK/d/config.json" ||
  fail "a weight that was kept is not in dynamic"
run inspect "$WORK/d"
grep -q "layers.1.mlp.down_proj.weight *bf16" "$WORK/stdout" || fail "a weight that was kept is not"

# Two rules of one checkpoint agree with a row that is shorter than a group: it has one scale.
"$MAKE_LLAMA" "$WORK/narrow" "$MODEL" hidden=64 ffn=256 layers=1 heads=2 kv_heads=1 vocab=2048 ||
  fail "make_llama"
run quantize "$WORK/narrow" -o "$WORK/e" --to compressed-tensors --type int4_g128 --method rtn
run inspect "$WORK/e"
grep -q "mlp.up_proj.weight *int4_channel" "$WORK/stdout" || fail "a short row has groups"
grep -q "mlp.down_proj.weight *int4_g128" "$WORK/stdout" || fail "a long row has no groups"

exit $failed
