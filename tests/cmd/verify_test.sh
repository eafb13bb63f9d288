# verify: each kind of finding from a file that has it, exit codes, reports, manifests.
. "$(dirname "$0")/common.sh"

# found CODE RULES FILE...: the exit code, and just these rules (sorted, in one word each).
found() {
  local code=$1 rules=$2 status got
  shift 2
  "$P" verify "$@" --json >"$WORK/json" 2>"$WORK/stderr"
  status=$?
  got=$(grep -o '"rule":"[A-Z0-9-]*"' "$WORK/json" | cut -d'"' -f4 | sort -u | tr '\n' ' ')
  [ "$status" = "$code" ] || fail "exit $status, not $code: verify $* ($(head -c 600 "$WORK/json"))"
  [ "${got% }" = "$rules" ] || fail "found \"${got% }\", not \"$rules\": verify $*"
}
says() { grep -qF -- "$1" "$WORK/json" || fail "\"$1\" is not in $(head -c 800 "$WORK/json")"; }
# offset_of FILE TENSOR: where its bytes begin.
offset_of() {
  "$P" inspect "$1" --json | tr '{' '\n' | grep -F "\"name\":\"$2\"" | sed 's/.*"offset":\([0-9]*\).*/\1/'
}
# poke FILE OFFSET BYTES: overwrites bytes, written as printf takes them.
poke() { printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }

# A good model, in every form that this program writes.
found 0 "" "$MODEL"
says '"ok":true,"tensors_checked":39,"findings":[]'
"$P" convert "$MODEL" -o "$WORK/m.gguf" >/dev/null 2>&1 || fail "convert"
"$P" quantize "$MODEL" -o "$WORK/q4.gguf" --type q4_0 --method minmax >/dev/null 2>&1 || fail "quantize"
"$P" quantize "$MODEL" -o "$WORK/int4" --type int4 --method minmax >/dev/null 2>&1 || fail "quantize"
for form in m.gguf q4.gguf int4; do found 0 "" "$WORK/$form"; done
found 0 "" "$MODEL" "$WORK/m.gguf" "$WORK/q4.gguf"
says '"tensors_checked":117'

# Values: counts, places, and the offset of the first.
name=model.layers.1.mlp.down_proj.weight
file=$WORK/model.safetensors
fresh() { cp "$MODEL/model.safetensors" "$file" && chmod u+w "$file"; }
fresh
at=$(offset_of "$file" $name)
poke "$file" $((at + 200)) '\xc0\xff'
poke "$file" $((at + 204)) '\xc0\x7f'
found 1 "VAL-NAN" "$file"
says '"severity":"error"'
says "\"tensor\":\"$name\",\"offset\":$((at + 200))"
says "2 of "
poke "$file" $((at + 300)) '\x80\xff'
found 1 "VAL-INF VAL-NAN" "$file"
"$P" verify "$file" --json -j 1 >"$WORK/j1"
cmp -s "$WORK/j1" "$WORK/json" || fail "-j changes what is found"
fresh
bytes=$("$P" inspect "$file" --json | tr '{' '\n' | grep -F "\"name\":\"$name\"" | sed 's/.*"bytes":\([0-9]*\).*/\1/')
dd if=/dev/zero of="$file" bs=1 seek="$at" count="$bytes" conv=notrunc status=none
found 1 "VAL-ZERO" "$file"
fresh
from=$(offset_of "$file" model.layers.0.mlp.gate_proj.weight)
to=$(offset_of "$file" model.layers.2.mlp.up_proj.weight)
tail -c +$((from + 1)) "$MODEL/model.safetensors" | head -c "$bytes" |
  dd of="$file" bs=4096 seek="$to" oflag=seek_bytes conv=notrunc status=none
found 0 "DUP-CONTENT" "$file"
found 1 "DUP-CONTENT" "$file" --strict
says '"ok":false'
"$P" convert "$MODEL" -o "$WORK/f32.safetensors" --dtype f32 >/dev/null 2>&1 || fail "convert"
found 0 "VAL-UPCAST-BF16" "$WORK/f32.safetensors"
"$P" convert "$MODEL" -o "$WORK/f16.safetensors" --dtype f16 >/dev/null 2>&1 || fail "convert"
# A value that bf16 has no bits for.
poke "$WORK/f16.safetensors" $(($(offset_of "$WORK/f16.safetensors" $name) + 200)) '\x01\x3c'
"$P" convert "$WORK/f16.safetensors" -o "$WORK/f16as32.safetensors" --dtype f32 >/dev/null 2>&1
found 0 "VAL-UPCAST-BF16 VAL-UPCAST-F16" "$WORK/f16as32.safetensors"

# U35. Scales: the fp16 of block 7 of a GGUF tensor.
at=$(offset_of "$WORK/q4.gguf" model.layers.0.mlp.up_proj.weight)
poke "$WORK/q4.gguf" $((at + 7 * 18)) '\x00\x7e'
found 1 "QNT-SCALE-NONFINITE" "$WORK/q4.gguf"
says "1 block with a scale that is NaN or infinite, the first is block 7"
printf 'x%.0s' $(seq 500) >>"$WORK/m.gguf"
found 1 "GGUF-LAYOUT" "$WORK/m.gguf"

# Configuration against tensors.
copy_model config
sed -i 's/"vocab_size": 2048/"vocab_size": 2000/' "$WORK/config/config.json"
"$P" verify "$WORK/config" >"$WORK/stdout" && fail "another vocabulary passes"
grep -q "CFG-SHAPE.*2000" "$WORK/stdout" || fail "CFG-SHAPE is not found: $(cat "$WORK/stdout")"
copy_model layers
layers=$(sed -n 's/.*"num_hidden_layers": \([0-9]*\).*/\1/p' "$WORK/layers/config.json")
sed -i "s/\"num_hidden_layers\": $layers/\"num_hidden_layers\": $((layers + 1))/" "$WORK/layers/config.json"
found 1 "CFG-TENSOR-MISSING" "$WORK/layers"
sed -i "s/\"num_hidden_layers\": $((layers + 1))/\"num_hidden_layers\": $((layers - 1))/" "$WORK/layers/config.json"
found 1 "CFG-TENSOR-UNEXPECTED" "$WORK/layers"

# Pickles. The payload makes a file, which must never be there.
cd "$WORK" || exit 1
printf 'cposix\nsystem\n(S"touch %s/RAN"\ntR.' "$WORK" >bare.bin
found 1 "PKL-BARE PKL-MALICIOUS-GLOBAL" bare.bin
says '"error":{"code":"unknown_format"'
says '"findings":[{'
expect 1 "neither safetensors nor" -- verify bare.bin
grep -q "posix.system (nothing was called)" stdout || fail "the name is not said"
printf '7z\xbc\xaf\x27\x1c\0\4________________' >packed.bin
found 2 "FILE-ARCHIVE" packed.bin
# A checkpoint of five pickles and one storage, with the payload beside the tensor.
tensor='ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04NtQK\x00K\x02K\x02\x86K\x02K\x01\x86\x89}tR'
legacy() {
  printf '\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.'
  printf '\x80\x02}X\x0d\x00\x00\x00little_endian\x88s.'
  printf "\\x80\\x02}(U\\x01w$tensor$1u."
  printf '\x80\x02](U\x010e.\x04\0\0\0\0\0\0\0abcdefghijklmnop'
}
legacy '' >good.bin
found 0 "" good.bin
legacy 'U\x01xcposix\nsystem\n(U\x09touch RANtR' >bad.bin
found 1 "PKL-MALICIOUS-GLOBAL" bad.bin
legacy 'U\x01xcargparse\nNamespace\n)R' >clutter.bin
found 0 "PKL-BENIGN-GLOBAL" clutter.bin
legacy 'U\x01xcacme\nThing\n)R' >strange.bin
found 1 "PKL-UNKNOWN-GLOBAL" strange.bin
# Nothing is made of it; who looks at it is told.
for command in "convert bad.bin -o out.safetensors" "quantize bad.bin -o out.gguf --type q8_0"; do
  expect 2 posix.system "verify" -- $command
  [ -e out.safetensors ] || [ -e out.gguf ] && fail "$command wrote an output"
done
"$P" convert bad.bin -o out.safetensors --json 2>/dev/null | grep -q '"code":"malicious_pickle"' ||
  fail "the error has another code"
expect 0 posix.system -- inspect bad.bin
"$P" convert strange.bin -o strange.safetensors >/dev/null 2>&1 || fail "a strange name stops convert"
# Beside good weights in a folder.
copy_model beside
cp bad.bin beside/optimizer.pt
found 1 "PKL-MALICIOUS-GLOBAL" beside
says optimizer.pt
mkdir -p beside/onnx/deep
mv beside/optimizer.pt beside/onnx/deep/
found 1 "PKL-MALICIOUS-GLOBAL" beside
says beside/onnx/deep/optimizer.pt
[ -e RAN ] && fail "a payload ran"
cd - >/dev/null || exit 1

# What cannot be read: the error, exit 2, no result; and the other input is still looked at.
head -c 100000 "$MODEL/model.safetensors" >"$WORK/cut.safetensors"
expect 2 cut.safetensors offset hint: -- verify "$WORK/cut.safetensors"
"$P" verify "$WORK/cut.safetensors" --json 2>/dev/null >"$WORK/json"
says '"error":{"code":"truncated"'
grep -q '"result"' "$WORK/json" && fail "a result for a file that cannot be read"
poke "$file" 100000 '\xc0\xff'
found 2 "DUP-CONTENT VAL-NAN" "$WORK/cut.safetensors" "$file"
expect 2 "MODEL..." -- verify
expect 2 nowhere -- verify "$WORK/nowhere"
expect 2 "memory limit" --memory -- verify "$MODEL" --memory 600

# Manifests.
copy_model held
expect 0 -- verify "$WORK/held" --write-manifest "$WORK/held.json"
grep -q '"schema": "pennyweight.manifest/1"' "$WORK/held.json" || fail "no manifest"
sum=$(sha256sum <"$WORK/held/model.safetensors" | cut -d' ' -f1)
grep -q "\"sha256\": \"$sum\"" "$WORK/held.json" || fail "the SHA-256 is not that of sha256sum"
found 0 "" "$WORK/held" --manifest "$WORK/held.json"
expect 2 exists --force -- verify "$WORK/held" --write-manifest "$WORK/held.json"
expect 2 "one model" -- verify "$WORK/held" "$MODEL" --manifest "$WORK/held.json"
at=$(offset_of "$WORK/held/model.safetensors" $name)
poke "$WORK/held/model.safetensors" $((at + 64)) '\x01\x3c'
echo "print(1)" >"$WORK/held/hook.py"
rm "$WORK/held/generation_config.json"
found 1 "MAN-FILE-ADDED MAN-FILE-CHANGED MAN-FILE-MISSING MAN-TENSOR-CHANGED" "$WORK/held" \
  --manifest "$WORK/held.json"
says "\"tensor\":\"$name\""
[ "$(grep -o MAN-TENSOR-CHANGED "$WORK/json" | wc -l)" = 1 ] || fail "more than one tensor changed"
echo '{}' >"$WORK/none.json"
expect 2 "no manifest" none.json -- verify "$WORK/held" --manifest "$WORK/none.json"
expect 2 nothing.json -- verify "$WORK/held" --manifest "$WORK/nothing.json"

# Reports.
"$P" verify "$WORK/q4.gguf" --report "$WORK/r.sarif" --report "$WORK/r.json" --report "$WORK/r.csv" \
  >/dev/null
[ $? = 1 ] || fail "reports change the exit code"
grep -q '"version": "2.1.0"' "$WORK/r.sarif" || fail "no SARIF"
grep -q '"ruleId": "QNT-SCALE-NONFINITE"' "$WORK/r.sarif" || fail "SARIF without the finding"
grep -q '"schema":"pennyweight.verify/1"' "$WORK/r.json" || fail "no JSON report"
grep -q '^QNT-SCALE-NONFINITE,error,' "$WORK/r.csv" || fail "no CSV report"
expect 2 exists -- verify "$MODEL" --report "$WORK/r.sarif"
expect 2 .sarif -- verify "$MODEL" --report "$WORK/r.html"
"$P" verify "$WORK/cut.safetensors" --report "$WORK/cut.sarif" >/dev/null 2>&1
grep -q '"executionSuccessful": false' "$WORK/cut.sarif" || fail "SARIF hides that reading failed"
# Every rule is in the documentation, in the words of the program.
while read -r id; do
  grep -q "^| \`$id\` |" "$SOURCE_DIR/docs/security.md" || fail "$id is not in docs/security.md"
done < <(sed -n 's/^ *"id": "\([A-Z0-9-]*\)",$/\1/p' "$WORK/r.sarif")
[ "$(grep -c '^ *"id": "' "$WORK/r.sarif")" -gt 40 ] || fail "SARIF lists no rules"

exit $failed
