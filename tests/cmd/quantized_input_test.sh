# Models that are quantized already: listed as what they are, decoded, repacked without loss, and
# warned about where they are quantized once more.
. "$(dirname "$0")/common.sh"

run() { "$P" "$@" >"$WORK/stdout" 2>"$WORK/stderr" || fail "$* ($(cat "$WORK/stderr"))"; }
same() { run compare "$1" "$2" --fail-above weight_rel_mse=0 --fail-above max_abs_error=0; }
# bytes WORD COUNT: the little-endian 32-bit word, so many times.
bytes() {
  local i escaped
  escaped=$(printf '\\x%s\\x%s\\x%s\\x%s' "${1:6:2}" "${1:4:2}" "${1:2:2}" "${1:0:2}")
  for ((i = 0; i < $2; ++i)); do printf '%b' "$escaped"; done
}
# An 8 x 32 GPTQ linear in v1: codes 0..7 in each row, scale 0.5, zero points as they are told.
gptq() {
  local header='{"p.qweight":{"dtype":"I32","shape":[4,8],"data_offsets":[0,128]},'
  header+='"p.qzeros":{"dtype":"I32","shape":[1,1],"data_offsets":[128,132]},'
  header+='"p.scales":{"dtype":"F16","shape":[1,8],"data_offsets":[132,148]}}'
  printf '%b' "$(printf '\\x%02x\\x%02x\\0\\0\\0\\0\\0\\0' $((${#header} % 256)) \
    $((${#header} / 256)))$header"
  bytes 76543210 32
  bytes "$1" 1
  bytes 38003800 4
}
config() { printf '{"quantization_config": {"quant_method": "%s"%s}}\n' "$1" "$2"; }

# Decoded by hand: (0..7 - 8) / 2, whatever the form of the zero points.
want=$(for _ in 1 2 3 4; do printf '%s' 000080c0000060c0000040c0000020c0000000c00000c0bf000080bf000000bf; done)
for zeros in 77777777 88888888; do
  mkdir "$WORK/$zeros"
  gptq "$zeros" >"$WORK/$zeros/model.safetensors"
  config gptq ', "bits": 4, "group_size": -1, "checkpoint_format": "gptq"' >"$WORK/$zeros/config.json"
  run convert "$WORK/$zeros" -o "$WORK/$zeros.safetensors" --dtype f32
  got=$(tail -c 1024 "$WORK/$zeros.safetensors" | head -c 128 | od -An -t x1 | tr -d ' \n')
  [ "$got" = "$want" ] || fail "zero points of $zeros give $got"
  run inspect "$WORK/$zeros"
  grep -q "p.weight *int4_channel *\[8, 32\]" "$WORK/stdout" || fail "not listed: $(cat "$WORK/stdout")"
done
grep -q "note: .*by their words" "$WORK/stderr" || fail "mislabelled zero points are not told"
# Shards without a configuration, and the claim that is no longer true.
run convert "$WORK/77777777" -o "$WORK/folder"
grep -q quantization_config "$WORK/folder/config.json" && fail "config.json still claims gptq"
run inspect "$WORK/77777777/model.safetensors" --json
grep -q '"dtype":"int4_channel"' "$WORK/stdout" || fail "a bare file is not told by its tensors"

# What is not read is named, and its parts stay as they are.
config exl3 '' >"$WORK/77777777/config.json"
run inspect "$WORK/77777777"
grep -q '"exl3", which is not read here' "$WORK/stderr" || fail "the method is not named"
grep -q "p.qweight" "$WORK/stdout" || fail "the parts are not listed"
# Contradictions are refused: tensor, rule, remedy.
config gptq ', "bits": 8, "group_size": -1' >"$WORK/77777777/config.json"
expect 2 p.qzeros "8" hint -- inspect "$WORK/77777777"

# Lossless repacking: integers become blocks of the same values.
for type in int4_g32:q4_0 int8_g64:q8_0 int4_channel:q4_0; do
  from=${type%:*} to=${type#*:}
  run quantize "$MODEL" -o "$WORK/$from" --type "$from" --method rtn
  run convert "$WORK/$from" -o "$WORK/$from.gguf" --repack -j 1 --report "$WORK/$from.csv"
  run convert "$WORK/$from" -o "$WORK/twice.gguf" --repack -j 2 --force
  cmp "$WORK/$from.gguf" "$WORK/twice.gguf" || fail "-j changes the bytes"
  grep -q "28 repacked" "$WORK/stderr" || fail "not repacked: $(cat "$WORK/stderr")"
  grep -q "q_proj.weight,.*,$from,$to,.*,repack," "$WORK/$from.csv" || fail "no row says $to"
  same "$WORK/$from" "$WORK/$from.gguf"
done
# Without it, quantized weights are decoded.
run convert "$WORK/int4_g32" -o "$WORK/plain.gguf"
grep -q "28 quantized tensors decoded to bf16" "$WORK/stderr" || fail "decoding is not told"
# A minimum that f16 does not hold: decoded, and the row says why.
run quantize "$MODEL" -o "$WORK/asym" --type int4_g32_asym --method rtn
run convert "$WORK/asym" -o "$WORK/asym.gguf" --repack --dtype f32
grep -q "would have to be rounded to f16: decoded" "$WORK/stdout" || fail "no fallback is told"
same "$WORK/asym" "$WORK/asym.gguf"
expect 2 "--repack" "hint:" -- convert "$WORK/int4_g32" -o "$WORK/no" --repack

# Quantizing once more adds errors: said, counted, and reported.
run quantize "$WORK/int4_g32" -o "$WORK/again.gguf" --type q4_k --pure --method rtn --report "$WORK/again.csv"
grep -q "warning: 28 tensors are quantized already (int4_g32)" "$WORK/stderr" ||
  fail "no warning: $(cat "$WORK/stderr")"
grep -q "q_proj.weight,.*,int4_g32,q4_k," "$WORK/again.csv" || fail "the report does not say from what"
run quantize "$MODEL" -o "$WORK/first.gguf" --type q4_k --pure --method rtn
grep -q "quantized already" "$WORK/stderr" && fail "a warning without a reason"
# What evaluates and compares takes them as any other.
run eval "$WORK/int4_g32" --prompt "And the LORD said" --generate 4 --json
cp "$WORK/stdout" "$WORK/expected"
run eval "$WORK/int4_g32.gguf" --prompt "And the LORD said" --generate 4 --json
grep -o '"text":"[^"]*"' "$WORK/expected" | cmp - <(grep -o '"text":"[^"]*"' "$WORK/stdout") ||
  fail "the repacked model speaks otherwise"

exit $failed
