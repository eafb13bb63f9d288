# convert: what is not asked to change keeps its bytes, whatever container it passes through.
. "$(dirname "$0")/common.sh"

run() { "$P" "$@" >"$WORK/stdout" 2>"$WORK/stderr" || fail "$* ($(cat "$WORK/stderr"))"; }
nothing_left() {
  [ ! -e "$1" ] || fail "$1 was left behind"
  ls -A "$WORK" | grep -q partial && fail "a temporary file was left behind: $(ls -A "$WORK")"
}
# same A B: not one weight differs.
same() { run compare "$1" "$2" --fail-above weight_rel_mse=0 --fail-above max_abs_error=0; }
# The bytes behind the header of a safetensors file.
data_of() {
  local length
  length=$(od -An -t u8 -N 8 "$1" | tr -d ' ')
  tail -c +$((length + 9)) "$1"
}

# One file, shards without a configuration, one file again: the same file.
file=$MODEL/model.safetensors
run convert "$file" -o "$WORK/bare" --shard-size 2M
grep -q "weights only" "$WORK/stderr" || fail "a folder without config.json is not said"
[ "$(ls "$WORK/bare" | grep -c 'model-0000.-of-0000.\.safetensors')" = 5 ] ||
  fail "not 5 shards: $(ls "$WORK/bare")"
for shard in "$WORK"/bare/*.safetensors; do
  [ "$(data_of "$shard" | wc -c)" -le 2000000 ] || fail "$shard is larger than --shard-size"
done
same "$file" "$WORK/bare"
run convert "$WORK/bare" -o "$WORK/again.safetensors"
same "$file" "$WORK/again.safetensors"
cmp <(data_of "$file") <(data_of "$WORK/again.safetensors") || fail "the data changed on the way"
run convert "$WORK/again.safetensors" -o "$WORK/twice.safetensors"
cmp "$WORK/again.safetensors" "$WORK/twice.safetensors" || fail "converting again changes the file"

# A folder keeps its companions, and any -j gives the same bytes.
run convert "$MODEL" -o "$WORK/j1" --shard-size 500K --dtype f16 -j 1
run convert "$MODEL" -o "$WORK/j2" --shard-size 500K --dtype f16 -j 2
diff -r "$WORK/j1" "$WORK/j2" || fail "-j changes the bytes of a folder"
for name in config.json tokenizer.model tokenizer.json tokenizer_config.json generation_config.json; do
  [ -e "$WORK/j1/$name" ] || fail "$name is not in the folder"
done
grep -q '"torch_dtype": "float16"' "$WORK/j1/config.json" || fail "config.json names another dtype"
run eval "$WORK/j1" --prompt "And the LORD said" --generate 4 --json
# A tensor that is larger than a shard has one of its own: 2048 x 256 of 2 bytes.
for shard in "$WORK"/j1/*.safetensors; do
  bytes=$(data_of "$shard" | wc -c)
  [ "$bytes" -le 500000 ] || [ "$bytes" = 1048576 ] || fail "$shard holds $bytes bytes"
done
run convert "$MODEL" -o "$WORK/whole"
[ -e "$WORK/whole/model.safetensors" ] && [ ! -e "$WORK/whole/model.safetensors.index.json" ] ||
  fail "a small model is not one file: $(ls "$WORK/whole")"
diff <(tr -d ' \n' <"$MODEL/config.json") <(tr -d ' \n' <"$WORK/whole/config.json") ||
  fail "config.json changed"

# Casts are those of quantize; casting up and back is exact.
run quantize "$MODEL" -o "$WORK/q.gguf" --type f16
run convert "$MODEL" -o "$WORK/c.gguf" --dtype f16 -j 1
run convert "$MODEL" -o "$WORK/c2.gguf" --dtype f16 -j 2
cmp "$WORK/c.gguf" "$WORK/c2.gguf" || fail "-j changes the bytes of a GGUF file"
same "$WORK/q.gguf" "$WORK/c.gguf"
# Both are bf16 to f16, so the folder differs from the GGUF file in the norms alone (f32 there).
run compare "$WORK/q.gguf" "$WORK/j1" --fail-above weight_rel_mse=0:proj
run convert "$MODEL" -o "$WORK/up.safetensors" --dtype f32
same "$MODEL" "$WORK/up.safetensors"
run convert "$WORK/up.safetensors" -o "$WORK/down.safetensors" --dtype bf16
cmp <(data_of "$file") <(data_of "$WORK/down.safetensors") || fail "bf16 -> f32 -> bf16 changed bits"

# GGUF -> folder -> GGUF, with and without quantized tensors.
run convert "$MODEL" -o "$WORK/plain.gguf"
same "$MODEL" "$WORK/plain.gguf"
mkdir "$WORK/back"
back=$WORK/back/pd-llama-4M # the folder's name becomes general.name
run convert "$WORK/plain.gguf" -o "$back" --shard-size 3M
same "$MODEL" "$back"
run convert "$back" -o "$WORK/forth.gguf"
cmp "$WORK/plain.gguf" "$WORK/forth.gguf" || fail "GGUF -> folder -> GGUF is another file"
run convert "$WORK/plain.gguf" -o "$WORK/fifth.gguf"
cmp "$WORK/plain.gguf" "$WORK/fifth.gguf" || fail "GGUF -> GGUF is another file"
run eval "$WORK/plain.gguf" --prompt "And the LORD said" --generate 6 --json
cp "$WORK/stdout" "$WORK/expected"
run eval "$back" --prompt "And the LORD said" --generate 6 --json
cmp "$WORK/expected" "$WORK/stdout" || fail "the folder speaks otherwise than the GGUF file"
run quantize "$MODEL" -o "$WORK/q4.gguf" --type q4_k_m --method rtn
run convert "$WORK/q4.gguf" -o "$WORK/q4-copy.gguf"
same "$WORK/q4.gguf" "$WORK/q4-copy.gguf"
[ "$(stat -c %s "$WORK/q4.gguf")" -ge "$(stat -c %s "$WORK/q4-copy.gguf")" ] ||
  fail "blocks were decoded where the target holds them"
run convert "$WORK/q4.gguf" -o "$WORK/q4-f32" --dtype f32
same "$WORK/q4.gguf" "$WORK/q4-f32"
run convert "$WORK/q4.gguf" -o "$WORK/q4.safetensors"
grep -q "decoded to f16" "$WORK/stderr" || fail "the dtype of decoded weights is not said"
run compare "$WORK/q4.gguf" "$WORK/q4.safetensors" --fail-above weight_rel_mse=1e-6
run quantize "$MODEL" -o "$WORK/int4" --type int4 --method rtn
run convert "$WORK/int4" -o "$WORK/float"
grep -q "decoded to bf16" "$WORK/stderr" || fail "the dtype of decoded integers is not said"
grep -q quantization_config "$WORK/float/config.json" && fail "config.json still claims integers"
run compare "$WORK/int4" "$WORK/float" --fail-above weight_rel_mse=1e-4
run convert "$WORK/int4" -o "$WORK/int4.gguf" --dtype f32 --json
cp "$WORK/stdout" "$WORK/result.json"
same "$WORK/int4" "$WORK/int4.gguf"
for key in '"totals"' '"layers": *\[\]' '"bytes_in"' '"bytes_out"' '"output_rel_error": *null' \
  '"from": *"int4_g128"' '"to": *"f32"' '"method": *"cast"'; do
  grep -q "$key" "$WORK/result.json" || fail "the result has no $key"
done

# What no cast knows is copied, and said; NaN stays NaN: f32 NaN, inf, -0, 1 + 2^-8 (a tie) to bf16.
odd() {
  printf '%b' "$(printf '\\x%02x\\0\\0\\0\\0\\0\\0\\0' ${#1})$1"
  printf '\x01\x00\xc0\x7f\x00\x00\x80\x7f\x00\x00\x00\x80\x00\x80\x80\x3f'
  printf '\x18\x2d\x44\x54\xfb\x21\x09\x40\x01\x00'
}
odd '{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"d":{"dtype":"F64","shape":[1],'\
'"data_offsets":[16,24]},"b":{"dtype":"BOOL","shape":[2],"data_offsets":[24,26]}}' \
  >"$WORK/odd.safetensors"
run convert "$WORK/odd.safetensors" -o "$WORK/even.safetensors" --dtype bf16
grep -q "cannot be decoded: copied as it is: d" "$WORK/stdout" || fail "F64 was copied unsaid"
grep -q "integers and bools are not cast: b" "$WORK/stdout" || fail "BOOL was copied unsaid"
[ "$(data_of "$WORK/even.safetensors" | od -An -t x1 | tr -d ' \n')" = \
  182d4454fb210940c07f807f0080803f0100 ] || fail "odd values became $(data_of \
  "$WORK/even.safetensors" | od -An -t x1)"
run convert "$WORK/odd.safetensors" -o "$WORK/odd" --shard-size 10
run convert "$WORK/odd" -o "$WORK/odd-again.safetensors"
run convert "$WORK/odd.safetensors" -o "$WORK/odd-once.safetensors"
cmp "$WORK/odd-once.safetensors" "$WORK/odd-again.safetensors" || fail "shards changed odd values"

# Words that are wrong, outputs that may not be.
expect 2 "--dtype is one of" bf16 -- convert "$MODEL" -o "$WORK/no" --dtype q4_0
expect 2 "--to is one of" -- convert "$MODEL" -o "$WORK/no" --to pickle
expect 2 "0 bytes" "hint: --shard-size" -- convert "$MODEL" -o "$WORK/no" --shard-size 0
expect 2 "takes a size" -- convert "$MODEL" -o "$WORK/no" --shard-size many
expect 2 "for folders" -- convert "$MODEL" -o "$WORK/no.gguf" --shard-size 1G
expect 2 "contradicts" -- convert "$MODEL" -o "$WORK/no.gguf" --to safetensors
expect 2 "no output" "pennyweight convert" -- convert "$MODEL"
expect 2 "config.json" "hint:" -- convert "$file" -o "$WORK/no.gguf"
(ulimit -n 80 && expect 2 "shards" "larger --shard-size" -- convert "$MODEL" -o "$WORK/no" \
  --shard-size 1; exit $failed) || failed=1
nothing_left "$WORK/no"
nothing_left "$WORK/no.gguf"
echo precious >"$WORK/there.safetensors"
expect 2 there.safetensors exists --force -- convert "$MODEL" -o "$WORK/there.safetensors"
[ "$(cat "$WORK/there.safetensors")" = precious ] || fail "an existing output was touched"
run convert "$MODEL" -o "$WORK/there.safetensors" --force
same "$MODEL" "$WORK/there.safetensors"
copy_model input
before=$(sha256sum <"$WORK/input/model.safetensors")
expect 2 input -- convert "$WORK/input" -o "$WORK/input" --force
expect 2 input -- convert "$WORK/input" -o "$WORK/input/model.safetensors" --force
expect 2 input -- convert "$WORK/input/model.safetensors" -o "$WORK/input" --force
[ "$before" = "$(sha256sum <"$WORK/input/model.safetensors")" ] || fail "the input was changed"

# A file that is cut off, and one that a reader of headers takes for whole.
truncate -s -1000 "$WORK/input/model.safetensors"
for output in cut cut.safetensors cut.gguf; do
  expect 2 model.safetensors offset -- convert "$WORK/input" -o "$WORK/$output"
  nothing_left "$WORK/$output"
done
head -c 5000000 "$WORK/plain.gguf" >"$WORK/short.gguf"
expect 2 short.gguf -- convert "$WORK/short.gguf" -o "$WORK/cut"
nothing_left "$WORK/cut"

# No memory for a single tile, said before any work.
expect 2 "hint: use --memory" -- convert "$MODEL" -o "$WORK/cut" --memory 1M
nothing_left "$WORK/cut"

exit $failed
