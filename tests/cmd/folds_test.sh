# Models that a rewrite was folded into: compare measures weights in the numbers of the original,
# convert carries the record from container to container, and a damaged one is refused.
. "$(dirname "$0")/common.sh"

run() { "$P" "$@" >"$WORK/stdout" 2>"$WORK/stderr" || fail "$* ($(cat "$WORK/stderr"))"; }
# total: the weight error over all tensors in what --json printed.
total() { grep -oE '"weight_rel_mse": ?[-+0-9.e]+' "$WORK/stdout" | head -1 | grep -oE '[-+0-9.e]+$'; }
# near A B: the same to a thousandth.
near() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a > 0 && a < 1.001 * b && b < 1.001 * a) }'; }

"$FOLD_MODEL" "$MODEL" "$WORK/folded" 1 || fail "fold_model"
[ -s "$WORK/folded/pennyweight.folds.json" ] || fail "the folder has no record"

# The folded weights are the original's, once the folds are undone; without the record they are far.
run compare "$MODEL" "$WORK/folded" --fail-above weight_rel_mse=1e-12 --json
grep -q "recorded folds in .* tensors are undone" "$WORK/stderr" || fail "undoing is not said"
cp -r "$WORK/folded" "$WORK/bare"
rm "$WORK/bare/pennyweight.folds.json"
expect 1 "is above" -- compare "$MODEL" "$WORK/bare" --fail-above weight_rel_mse=0.1:q_proj
# The function is the same either way.
text=$SOURCE_DIR/calib/text/PROVENANCE.md
run compare "$MODEL" "$WORK/folded" --text "$text" --context 64 --fail-above hidden_rel_error=1e-9
run compare "$MODEL" "$WORK/bare" --text "$text" --context 64 --fail-above hidden_rel_error=1e-9

# Through every container and back.
run convert "$WORK/folded" -o "$WORK/folded.gguf"
run convert "$WORK/folded.gguf" -o "$WORK/back"
run convert "$WORK/back" -o "$WORK/one.safetensors"
run convert "$WORK/folded.gguf" -o "$WORK/again.gguf"
run split "$WORK/folded.gguf" -o "$WORK/parts" --shard-size 1M
run join "$WORK"/parts-00001-of-*.gguf -o "$WORK/joined.gguf"
run split "$WORK/back" -o "$WORK/shards" --shard-size 1M
for out in folded.gguf back one.safetensors again.gguf joined.gguf shards; do
  run compare "$MODEL" "$WORK/$out" --fail-above weight_rel_mse=1e-12
  grep -q "folds in .* tensors are undone" "$WORK/stderr" || fail "$out has lost the record"
done
cmp "$WORK/folded/pennyweight.folds.json" "$WORK/back/pennyweight.folds.json" ||
  fail "the record is another one after a way through GGUF"

# Quantized behind the folds: the error is the same against the original and against the folded
# model, whose folds are undone too, and another one in folded numbers.
for out in q.gguf q; do
  type=$([ $out = q ] && echo int4_g32 || echo q4_0)
  run quantize "$WORK/folded" -o "$WORK/$out" --method rtn --type "$type"
  run compare "$MODEL" "$WORK/$out" --json
  original=$(total)
  run compare "$WORK/folded" "$WORK/$out" --json
  near "$(total)" "$original" || fail "$out: $(total) against the folded model, $original before"
  run compare "$WORK/bare" "$WORK/$out" --json
  near "$(total)" "$original" && fail "$out: the folds of $out were not undone"
done

# A damaged record is refused where it is needed, and dropped where it is not.
for bad in '{' '{"version":9,"folds":[]}' \
  '{"version":1,"folds":[{"scale":"AAAA","encoding":"octave16","divided":["nosuch"],"multiplied":[],"repeat":1,"head_dim":1}]}' \
  '{"version":1,"folds":[{"scale":"AADAfw==","encoding":"f32","divided":[],"multiplied":[],"repeat":1,"head_dim":1}]}'; do
  printf '%s' "$bad" >"$WORK/bare/pennyweight.folds.json"
  expect 2 "the record of folds" "pennyweight.folds.json" -- compare "$MODEL" "$WORK/bare"
  expect 0 "the record of folds" "not on record" -- convert "$WORK/bare" -o "$WORK/dropped.gguf" --force
  expect 0 -- inspect "$WORK/bare"
done

exit $failed
