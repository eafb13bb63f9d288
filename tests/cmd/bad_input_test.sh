# Bad input is an everyday input: exit 2, what and where and what to do, nothing left behind.
. "$(dirname "$0")/common.sh"

nothing_left() {
  [ ! -e "$1" ] || fail "$1 was left behind"
  ls -A "$WORK" | grep -q partial && fail "a temporary file was left behind: $(ls -A "$WORK")"
}

# A truncated shard.
copy_model cut
truncate -s -1000 "$WORK/cut/model.safetensors"
expect 2 model.safetensors offset -- quantize "$WORK/cut" -o "$WORK/a.gguf" --method rtn
nothing_left "$WORK/a.gguf"

# An index that names a missing shard.
copy_model shards
rm "$WORK/shards/model.safetensors"
echo '{"metadata":{},"weight_map":{"model.norm.weight":"model-00001-of-00002.safetensors"}}' \
  >"$WORK/shards/model.safetensors.index.json"
expect 2 model-00001-of-00002.safetensors hint: -- quantize "$WORK/shards" -o "$WORK/a.gguf"
nothing_left "$WORK/a.gguf"

# A config without a key that is needed.
copy_model config
sed -i '/"num_attention_heads"/d' "$WORK/config/config.json"
expect 2 num_attention_heads config.json "add the key" -- quantize "$WORK/config" -o "$WORK/a.gguf" --method gptq
nothing_left "$WORK/a.gguf"

# A family that is not known cannot be run.
copy_model family
sed -i 's/LlamaForCausalLM/MambaForCausalLM/; s/"llama"/"mamba"/' "$WORK/family/config.json"
expect 2 MambaForCausalLM "use --method rtn" -- quantize "$WORK/family" -o "$WORK/out" --method gptq
nothing_left "$WORK/out"

# Outputs: one that exists, one that is the input.
echo precious >"$WORK/there.gguf"
expect 2 there.gguf exists --force -- quantize "$MODEL" -o "$WORK/there.gguf" --method rtn
[ "$(cat "$WORK/there.gguf")" = precious ] || fail "an existing output was touched"
copy_model same
before=$(sha256sum <"$WORK/same/model.safetensors")
expect 2 same input -- quantize "$WORK/same" -o "$WORK/same" --method rtn --force
expect 2 model.safetensors input -- quantize "$WORK/same" -o "$WORK/same/model.safetensors" \
  --method rtn --force --type f16
ln "$WORK/same/model.safetensors" "$WORK/link.safetensors"
expect 2 link.safetensors input -- quantize "$WORK/same" -o "$WORK/link.safetensors" --force --type f16
[ "$before" = "$(sha256sum <"$WORK/same/model.safetensors")" ] || fail "the input was changed"

# Words that are nearly right.
expect 2 "did you mean" -- quantise "$MODEL" -o "$WORK/a.gguf"
expect 2 "did you mean --threads" -- quantize "$MODEL" -o "$WORK/a.gguf" --threds 2
expect 2 q4_k -- quantize "$MODEL" -o "$WORK/a.gguf" --type q4_km
expect 2 down_prj -- quantize "$MODEL" -o "$WORK/a.gguf" --method rtn --tensor-type 'down_prj=q6_k'
expect 2 "limit of 256" -- eval "$MODEL" --text "$SOURCE_DIR/README.md" --context 512
expect 2 nowhere "no such file" -- inspect "$WORK/nowhere"
expect 2 "the limit is 1 MB" "hint: use --memory" -- quantize "$MODEL" -o "$WORK/a.gguf" \
  --method gptq --memory 1M
nothing_left "$WORK/a.gguf"

# Files that are not what they seem.
printf 'version https://git-lfs.github.com/spec/v1\n' >"$WORK/lfs.safetensors"
expect 2 git-lfs -- inspect "$WORK/lfs.safetensors"
head -c 64 "$MODEL/model.safetensors" >"$WORK/head.safetensors"
expect 2 head.safetensors -- inspect "$WORK/head.safetensors"

# With --json the same failure is one document on stdout.
expect 2 -- inspect "$WORK/nowhere" --json
grep -q '"error":{"code":"not_found"' "$WORK/stdout" || fail "no error document: $(cat "$WORK/stdout")"

exit $failed
