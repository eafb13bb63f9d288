# Statistics through the binary: the same bytes for any -j and --memory, every kind of file is read
# again and weighs a quantization, and what cannot be is said.
. "$(dirname "$0")/common.sh"

run() { "$P" "$@" >"$WORK/stdout" 2>"$WORK/stderr" || fail "$* ($(cat "$WORK/stderr"))"; }
some=(--calib "$SOURCE_DIR/calib/text/prose.txt" --tokens 4096 --context 256)
cd "$WORK" || exit 1

run calibrate "$MODEL" -o a.gguf "${some[@]}" -j 1
run calibrate "$MODEL" -o a.dat "${some[@]}"
run calibrate "$MODEL" -o a.stats "${some[@]}" --hessians -j 1 --json
for key in output format model context windows tokens texts inputs unseen bytes peak_rss_bytes; do
  grep -q "\"$key\":" stdout || fail "the result has no $key"
done
grep -q '"weights":\["model.layers.0.self_attn.q_proj.weight","model.layers.0.self_attn.k_proj.weight"' \
  stdout || fail "the input of q, k and v is not one row"
grep -q '"tokens":4096' stdout || fail "tokens are not told"

# -j and --memory; the least memory has no room for hidden states or two Hessians.
run calibrate "$MODEL" -o b.gguf "${some[@]}" -j 2
cmp a.gguf b.gguf || fail "-j changes an imatrix"
"$P" calibrate "$MODEL" -o none "${some[@]}" --hessians --memory 1M 2>stderr
least=$(grep -oE -- '--memory [0-9]+M' stderr | grep -oE '[0-9]+M')
run calibrate "$MODEL" -o b.stats "${some[@]}" --hessians -j 2 --memory "${least:-0}"
cmp a.stats b.stats || fail "-j and --memory change statistics"

# The same sums in every kind: the weights they give are the same, but for the legacy kind's words.
run quantize "$MODEL" -o q1.gguf --imatrix a.gguf --report q1.json
grep -q "the model is not run" stderr || fail "auto with --imatrix does not say what it does"
grep -q '"method": *"rtn"' q1.json || fail "the method is not rtn"
grep -q 'auto without --calib: rtn, weighted by --imatrix' q1.json || fail "the fallback is not told"
grep -q '"tokens": *4096' q1.json || fail "the report has no tokens"
run quantize "$MODEL" -o q2.gguf --imatrix a.stats
run compare q1.gguf q2.gguf --fail-above weight_rel_mse=0.0001
run quantize "$MODEL" -o q3.gguf --imatrix a.dat
run compare q1.gguf q3.gguf --fail-above weight_rel_mse=0.0001
run quantize "$MODEL" -o plain.gguf --method rtn --type q4_k --pure
run quantize "$MODEL" -o weighted.gguf --imatrix a.gguf --type q4_k --pure
expect 1 "is above" -- compare plain.gguf weighted.gguf --fail-above weight_rel_mse=0.0001

# Twice the same file is the same weights; merging adds windows and tokens, and needs no text.
run calibrate "$MODEL" -o twice.stats --merge a.stats --merge a.stats --hessians --json
grep -q '"tokens":8192' stdout || fail "merging does not add tokens: $(cat stdout)"
run quantize "$MODEL" -o q4.gguf --imatrix twice.stats
run compare q2.gguf q4.gguf --fail-above weight_rel_mse=0.000001
run calibrate "$MODEL" -o more.gguf "${some[@]}" --merge a.stats --json
grep -q '"windows":32' stdout || fail "merging does not add windows"
run calibrate "$MODEL" -o back.dat --merge a.gguf
run calibrate "$MODEL" -o built_in.stats --tokens 1024 --context 128 --hessians -q

# gptq by Hessians of a file: better than rtn by the same file, and it needs them.
run quantize "$MODEL" -o g.gguf --imatrix a.stats --method gptq --type q3_k_m --report g.json
run quantize "$MODEL" -o r.gguf --imatrix a.stats --method rtn --type q3_k_m
grep -q '"method": *"gptq"' g.json || fail "no matrix was done by gptq"
grep -q '"output_rel_error": *[0-9]' g.json || fail "no output error by the file's Hessians"
kl() {
  "$P" eval "$1" --reference "$MODEL" --text "$SOURCE_DIR/calib/text/dialogue.txt" --tokens 4096 \
    --context 256 --json | grep -oE '"kl_mean":[0-9.e-]+' | cut -d: -f2
}
g=$(kl g.gguf) r=$(kl r.gguf)
awk -v g="$g" -v r="$r" 'BEGIN { exit !(g > 0 && g < r) }' || fail "gptq $g is no better than rtn $r"
run quantize "$MODEL" -o g2 --type int4 --imatrix twice.stats --method gptq
run quantize "$MODEL" -o g3 --type int4 --imatrix a.stats --imatrix a.stats --method gptq -j 1
run compare g2 g3 --fail-above weight_rel_mse=0
expect 2 "gptq needs Hessians" "--hessians" -- quantize "$MODEL" -o n.gguf --imatrix a.gguf --method gptq

# What is missing is named, and matters to --strict only; a wrong width names both.
byte() { printf "\\$(printf '%03o' "$1")"; }
number() { byte $(($1 % 256)) && byte $(($1 / 256)) && byte 0 && byte 0; }
legacy() { # legacy NAME WIDTH: one entry of ones
  number 1 && number ${#1} && printf '%s' "$1" && number 1 && number "$2"
  for _ in $(seq "$2"); do printf '\000\000\200\077'; done
}
hidden=$(grep -o '"hidden_size": *[0-9]*' "$MODEL/config.json" | grep -oE '[0-9]+$')
legacy blk.0.attn_q.weight "$hidden" >one.dat
run quantize "$MODEL" -o m.gguf --imatrix one.dat --report m.csv
grep -q "no entry in the statistics: unweighted: .*model.layers.0.self_attn.k_proj.weight" stderr ||
  fail "missing entries are not named: $(cat stderr)"
grep -q "and [0-9]* more" stderr || fail "the rest of the missing entries is not counted"
expect 1 "no entry in the statistics" -- \
  quantize "$MODEL" -o m2.gguf --imatrix one.dat --strict
cmp m.gguf m2.gguf || fail "--strict changes the bytes"
run quantize "$MODEL" -o m3.gguf --imatrix a.gguf --strict
legacy blk.0.attn_q.weight $((hidden - 1)) >narrow.dat
expect 2 "q_proj" "$((hidden - 1)) channels" "$hidden columns" -- \
  quantize "$MODEL" -o n.gguf --imatrix narrow.dat
legacy blk.77.attn_q.weight "$hidden" >stranger.dat
expect 0 "that the model does not have: model.layers.77" -- \
  quantize "$MODEL" -o m4.gguf --imatrix stranger.dat
expect 2 "statistics are of another one" -- calibrate "$MODEL" -o n.stats --merge stranger.dat
expect 2 "nosuch.gguf" -- quantize "$MODEL" -o n.gguf --imatrix nosuch.gguf
expect 2 "neither statistics nor an importance matrix" -- \
  quantize "$MODEL" -o n.gguf --imatrix "$SOURCE_DIR/README.md"
expect 2 "minmax weighs nothing" -- quantize "$MODEL" -o n.gguf --imatrix a.gguf --method minmax
[ ! -e n.gguf ] || fail "an output in spite of an error"

# Commands that cannot be.
expect 2 "exists" -- calibrate "$MODEL" -o a.gguf "${some[@]}"
run calibrate "$MODEL" -o a.gguf "${some[@]}" --force
cmp a.gguf b.gguf || fail "--force changes the bytes"
expect 2 "one of the inputs" -- calibrate "$MODEL" -o a.stats --merge a.stats --force
expect 2 "no room for Hessians" -- calibrate "$MODEL" -o n.gguf --hessians "${some[@]}"
expect 2 "needs --calib" -- calibrate "$MODEL" -o n.gguf --merge a.gguf --tokens 100
expect 2 "no Hessians to add" -- calibrate "$MODEL" -o n.stats --merge a.gguf --hessians
expect 2 "no output was named" -- calibrate "$MODEL"
head -c 3000 a.stats >cut.stats
expect 2 "behind the end of the file" -- calibrate "$MODEL" -o n.stats --merge cut.stats

exit $failed
