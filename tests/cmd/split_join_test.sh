# split and join: the borders of files change, and nothing else.
. "$(dirname "$0")/common.sh"

run() { "$P" "$@" >"$WORK/stdout" 2>"$WORK/stderr" || fail "$* ($(cat "$WORK/stderr"))"; }
nothing_left() {
  ls -A "$WORK" | grep -q "$1" && fail "left behind: $(ls -A "$WORK")"
  ls -A "$WORK" | grep -q partial && fail "a temporary file was left behind: $(ls -A "$WORK")"
}
same_bytes() { cmp "$1" "$2" || fail "$2 is not $1"; }

# A GGUF file of this program: there and back gives the same bytes, whichever part is named.
run convert "$MODEL" -o "$WORK/f.gguf"
run quantize "$MODEL" -o "$WORK/q.gguf" --method rtn
for model in f q; do
  for size in 300K 1MB 1Gi; do
    rm -f "$WORK"/part-*
    run split "$WORK/$model.gguf" -o "$WORK/part" --shard-size $size
    parts=("$WORK"/part-*-of-*.gguf)
    count=${#parts[@]}
    [ "$count" -gt 1 ] || [ $size = 1Gi ] || fail "$size: $count parts"
    run join "${parts[$((count / 2))]}" -o "$WORK/back.gguf" --force
    same_bytes "$WORK/$model.gguf" "$WORK/back.gguf"
    run compare "$WORK/$model.gguf" "${parts[0]}" --fail-above max_abs_error=0
    # No part passes the limit, but for a tensor that does so alone.
    "$P" inspect "${parts[0]}" --json >"$WORK/list.json" || fail "inspect"
    [ "$(grep -o '"file":"[^"]*"' "$WORK/list.json" | sort -u | wc -l)" = "$count" ] ||
      fail "$size: inspect does not see $count files"
  done
done
# Parts of parts, and a name with its suffix.
run split "$WORK/q.gguf" -o "$WORK/coarse.gguf" --shard-size 1.5MB
run split "$WORK/coarse-00001-of-00002.gguf" -o "$WORK/fine" --shard-size 500KB --json
grep -q '"files":\[{"file":"[^"]*fine-00001-of-0000[0-9].gguf","tensors":[1-9]' "$WORK/stdout" ||
  fail "the result lists no files: $(cat "$WORK/stdout")"
grep -q '"schema":"pennyweight.split/1"' "$WORK/stdout" || fail "no document: $(cat "$WORK/stdout")"
mkdir "$WORK/folder"
mv "$WORK"/fine-* "$WORK/folder"
run join "$WORK/folder" -o "$WORK/fine.gguf"
same_bytes "$WORK/q.gguf" "$WORK/fine.gguf"

# Safetensors: a file, and a folder with what is beside the weights.
run convert "$MODEL" -o "$WORK/f.safetensors"
run split "$WORK/f.safetensors" -o "$WORK/shards" --shard-size 2MB
[ "$(ls "$WORK/shards" | wc -l)" = 6 ] || fail "not five shards and an index: $(ls "$WORK/shards")"
run join "$WORK/shards" -o "$WORK/back.safetensors" --json
same_bytes "$WORK/f.safetensors" "$WORK/back.safetensors"
grep -q '"tensors":39,' "$WORK/stdout" || fail "the result has no tensors: $(cat "$WORK/stdout")"
run join "$WORK/shards/model-00003-of-00005.safetensors" -o "$WORK/x-00001-of-00002.safetensors"
same_bytes "$WORK/f.safetensors" "$WORK/x-00001-of-00002.safetensors"
run split "$MODEL" -o "$WORK/hf" --shard-size 2MB
for file in config.json tokenizer.json tokenizer.model generation_config.json; do
  same_bytes "$MODEL/$file" "$WORK/hf/$file"
done
run eval "$WORK/hf" --text "$SOURCE_DIR/README.md" --reference "$MODEL"
run join "$WORK/hf" -o "$WORK/hf-back"
[ "$(ls "$WORK/hf-back" | grep -c safetensors)" = 1 ] || fail "not one file: $(ls "$WORK/hf-back")"
same_bytes "$WORK/f.safetensors" "$WORK/hf-back/model.safetensors"
same_bytes "$MODEL/config.json" "$WORK/hf-back/config.json"

# Quantized parts of tensors are stored tensors like any other.
run quantize "$MODEL" -o "$WORK/int4" --type int4 --method rtn
run split "$WORK/int4" -o "$WORK/int4-shards" --shard-size 700KB
same_bytes "$WORK/int4/config.json" "$WORK/int4-shards/config.json"
run compare "$WORK/int4" "$WORK/int4-shards" --fail-above max_abs_error=0
run join "$WORK/int4-shards" -o "$WORK/int4-back"
same_bytes "$WORK/int4/model.safetensors" "$WORK/int4-back/model.safetensors"

# What is missing, wrong, or there already.
rm -f "$WORK"/part-*
run split "$WORK/q.gguf" -o "$WORK/part" --shard-size 1M
rm "$WORK/part-00002-of-00003.gguf"
expect 2 part-00002-of-00003.gguf missing hint: -- join "$WORK/part-00001-of-00003.gguf" -o "$WORK/no.gguf"
rm "$WORK/shards/model-00002-of-00005.safetensors"
expect 2 model-00002-of-00005 "not there" -- join "$WORK/shards" -o "$WORK/no.safetensors"
expect 2 model-00002-of-00005 missing -- \
  join "$WORK/shards/model-00001-of-00005.safetensors" -o "$WORK/no.safetensors"
cp "$WORK/coarse-00002-of-00002.gguf" "$WORK/twin-00001-of-00002.gguf"
cp "$WORK/coarse-00001-of-00002.gguf" "$WORK/twin-00002-of-00002.gguf"
expect 2 twin-00001-of-00002.gguf "this is part 2 of 2" hint: -- \
  join "$WORK/twin-00001-of-00002.gguf" -o "$WORK/no.gguf"
run split "$WORK/f.gguf" -o "$WORK/mixed" --shard-size 7M
cp "$WORK/coarse-00002-of-00002.gguf" "$WORK/mixed-00002-of-00002.gguf"
expect 2 mixed-00002-of-00002.gguf "in two parts" -- join "$WORK/mixed-00001-of-00002.gguf" -o "$WORK/no.gguf"
cp "$WORK/part-00001-of-00003.gguf" "$WORK/folder/other-00001-of-00003.gguf"
expect 2 "several split models" hint: -- join "$WORK/folder" -o "$WORK/no.gguf"
for size in 0 0M many 5GBB 5KK -1 ''; do
  expect 2 -- split "$WORK/q.gguf" -o "$WORK/no" --shard-size "$size"
  expect 2 -- split "$WORK/f.safetensors" -o "$WORK/no" --shard-size "$size"
done
expect 2 "0 bytes" "hint: --shard-size" -- split "$WORK/q.gguf" -o "$WORK/no" --shard-size 0
expect 2 "no output" "pennyweight split" -- split "$WORK/q.gguf"
expect 2 "names one file" hint: -- split "$WORK/f.safetensors" -o "$WORK/no.safetensors"
expect 2 "is a folder" hint: -- split "$WORK/q.gguf" -o "$WORK/folder" --force
expect 2 "is a folder" hint: -- join "$WORK/coarse-00001-of-00002.gguf" -o "$WORK/folder" --force
expect 2 "pennyweight convert" -- join "$WORK/coarse-00001-of-00002.gguf" -o "$WORK/no.safetensors"
expect 2 "pennyweight convert" -- join "$WORK/hf" -o "$WORK/no.gguf"
expect 2 nowhere -- split "$WORK/nowhere" -o "$WORK/no"
expect 2 README.md -- split "$SOURCE_DIR/README.md" -o "$WORK/no"
(ulimit -n 80 && expect 2 "files may be open" "larger --shard-size" -- split "$WORK/q.gguf" -o "$WORK/no" \
  --shard-size 1; exit $failed) || failed=1
nothing_left '^no'

# An output that exists, or is the input.
rm "$WORK"/part-*
printf precious >"$WORK/part-00003-of-00003.gguf"
expect 2 part-00003-of-00003.gguf exists --force -- split "$WORK/q.gguf" -o "$WORK/part" --shard-size 1M
[ "$(cat "$WORK/part-00003-of-00003.gguf")" = precious ] || fail "an existing part was touched"
[ ! -e "$WORK/part-00002-of-00003.gguf" ] || fail "a part appeared without the others"
run split "$WORK/q.gguf" -o "$WORK/part" --shard-size 1M --force
run join "$WORK/part-00001-of-00003.gguf" -o "$WORK/back.gguf" --force
same_bytes "$WORK/q.gguf" "$WORK/back.gguf"
expect 2 back.gguf exists --force -- join "$WORK/part-00001-of-00003.gguf" -o "$WORK/back.gguf"
expect 2 hf exists --force -- split "$MODEL" -o "$WORK/hf" --shard-size 2M
before=$(cat "$WORK"/part-* "$WORK/hf/"*.safetensors | sha256sum)
expect 2 "one of the inputs" -- split "$WORK/part-00001-of-00003.gguf" -o "$WORK/part" \
  --shard-size 1M --force
expect 2 "one of the inputs" -- join "$WORK/part-00001-of-00003.gguf" \
  -o "$WORK/part-00002-of-00003.gguf" --force
expect 2 input -- split "$WORK/hf" -o "$WORK/hf" --shard-size 1M --force
expect 2 input -- join "$WORK/hf" -o "$WORK/hf/model-00001-of-00005.safetensors" --force
[ "$before" = "$(cat "$WORK"/part-* "$WORK/hf/"*.safetensors | sha256sum)" ] ||
  fail "an input was changed"

# A part that is cut off.
truncate -s -1000 "$WORK/part-00002-of-00003.gguf"
expect 2 part-00002-of-00003.gguf offset -- join "$WORK/part-00001-of-00003.gguf" -o "$WORK/no.gguf"
nothing_left '^no'

# Stopped: 130, no part stands there, and --resume makes what an undisturbed run makes.
"$MAKE_LLAMA" "$WORK/large" "$MODEL" layers=10 || fail "make_llama"
run convert "$WORK/large" -o "$WORK/large.gguf"
for input in large large.gguf; do
  run split "$WORK/$input" -o "$WORK/whole" --shard-size 5M
  "$P" split "$WORK/$input" -o "$WORK/stopped" --shard-size 5M >/dev/null 2>/dev/null &
  job=$!
  for _ in $(seq 200); do
    ls -A "$WORK" | grep -q partial && break
    sleep 0.01
  done
  kill -INT $job
  wait $job
  status=$?
  [ $status = 130 ] || fail "stopped with exit $status"
  ls "$WORK" | grep -q '^stopped' && fail "stopped, but there: $(ls "$WORK")"
  run split "$WORK/$input" -o "$WORK/stopped" --shard-size 5M --resume
  for part in "$WORK"/whole*; do
    diff -r "$part" "${part/whole/stopped}" || fail "resumed: other bytes"
  done
  ls -A "$WORK" | grep -F .pennyweight. && fail "left beside the parts"
  rm -r "$WORK"/whole* "$WORK"/stopped*
done

exit $failed
