# quantize --dry-run: the exact size and every type, without reading a weight or writing a byte.
. "$(dirname "$0")/common.sh"

mkdir "$WORK/out"
bytes_of() { if [ -d "$1" ]; then find "$1" -type f -printf '%s\n' | paste -sd+ | bc; else stat -c %s "$1"; fi; }
field() { grep -oE "\"$2\": *[^,]*" "$1" | sed 's/.*: *//'; }

# check OUTPUT FLAGS...: what a dry run says, what the run does.
check() {
  local out=$WORK/out/$1 size said
  shift
  "$P" quantize "$MODEL" -o "$out" "$@" --dry-run --json >"$WORK/plan.json" 2>"$WORK/stderr" ||
    fail "--dry-run $* ($(cat "$WORK/stderr"))"
  [ -z "$(ls -A "$WORK/out")" ] || fail "--dry-run $* left $(ls -A "$WORK/out")"
  "$P" quantize "$MODEL" -o "$out" "$@" --json >"$WORK/run.json" 2>"$WORK/stderr" ||
    fail "$* ($(cat "$WORK/stderr"))"
  size=$(bytes_of "$out")
  said=$(field "$WORK/plan.json" bytes_out)
  [ "$size" = "$said" ] || fail "$*: $size bytes were written, --dry-run said $said"
  for key in name output_name from to bytes_in bytes fallback shape; do
    # Candidates of a layer have names, too.
    diff <(field "$WORK/plan.json" "$key") <(field "$WORK/run.json" "$key" |
      grep -vxE '"(minmax|rtn|gptq|awq[+](rtn|gptq))"') >"$WORK/diff" ||
      fail "$*: \"$key\" differs: $(head -5 "$WORK/diff")"
  done
  # On top of what is there: the same answer, and the output stays.
  "$P" quantize "$MODEL" -o "$out" "$@" --dry-run --json 2>/dev/null >"$WORK/again.json"
  [ "$(field "$WORK/again.json" bytes_out)" = "$size" ] || fail "$*: another size over the output"
  [ "$(bytes_of "$out")" = "$size" ] || fail "--dry-run changed the output"
  rm -r "$out"
}

for type in q4_k_m q2_k q4_0 q8_0 f16; do check a.gguf --type $type --method minmax; done
check a.gguf --type q5_k_s --pure --method minmax
check a.gguf --type q4_k_m --tensor-type 'ffn_down=q6_k' --keep 'blk\.1\.' --method minmax
check a.gguf --type q4_0 --tokens 2048
check folder --type int4 --method rtn
check folder --type int8 --asymmetric --group-size 32 --method minmax
check folder --to safetensors --type f16
check one.safetensors --type f32

# What it takes: memory is never above what was foretold, time is no nonsense.
plan() { sed -n '/"plan": {/,$p' "$WORK/plan.json" | grep -oE "\"$1\": *[^,]*" | sed 's/.*: *//'; }
foretold() {
  local out=$WORK/out/$1 real
  shift
  "$P" quantize "$MODEL" -o "$out" "$@" --dry-run --json >"$WORK/plan.json" 2>/dev/null
  "$P" quantize "$MODEL" -o "$out" "$@" --json >"$WORK/run.json" 2>/dev/null || fail "$*"
  real=$(field "$WORK/run.json" peak_rss_bytes)
  [ "$real" -le "$(plan peak_rss_bytes)" ] || fail "$*: peak $real, not $(plan peak_rss_bytes)"
  for key in scratch_bytes output_bytes seconds reading forward hessian factor quantize measure \
    writing; do
    [ -n "$(plan $key)" ] || fail "$*: the plan has no $key"
  done
  [ "$(plan output_bytes)" = "$(bytes_of "$out")" ] || fail "$*: another output_bytes"
  rm -r "$out"
}
foretold a.gguf --type q4_k_m --method gptq --tokens 4096
[ "$(plan forward)" != 0 ] || fail "a calibrated run has no forward pass"
[ "$(plan scratch_bytes)" -gt 0 ] || fail "a calibrated run keeps nothing beside the output"
foretold folder --to gptq --method rtn
case $(plan forward) in 0 | 0.0) ;; *) fail "a plain run has a forward pass" ;; esac

# For people: a row a tensor, why, and the size.
"$P" quantize "$MODEL" -o "$WORK/out/a.gguf" --dry-run --tensor-type 'ffn_up=q8_0' >"$WORK/stdout" 2>/dev/null
for word in "model.layers.3.mlp.down_proj.weight" "q4_k_m has a rule for ffn_down" "asked for" \
  "norms are not quantized" "nothing was written" "memory: up to" "disk:"; do
  grep -qF -- "$word" "$WORK/stdout" || fail "the table does not say \"$word\""
done

# No weight is read: a model that cannot be quantized has a plan all the same.
copy_model nan
file=$WORK/nan/model.safetensors
offset=$("$P" inspect "$WORK/nan" --json |
  grep -oE '"name":"model.layers.1.mlp.up_proj.weight"[^}]*' | grep -oE '"offset":[0-9]+' | grep -oE '[0-9]+')
printf '\xc0\x7f' | dd of="$file" bs=1 seek=$((offset + 2 * 517)) conv=notrunc status=none
"$P" quantize "$WORK/nan" -o "$WORK/out/n.gguf" --dry-run >/dev/null 2>&1 || fail "a weight was read"
for method in rtn minmax gptq; do
  expect 2 "NaN at element 517 (row 2, column 5)" "model.layers.1.mlp.up_proj.weight" \
    "--allow-nan" -- quantize "$WORK/nan" -o "$WORK/out/n.gguf" --method $method --tokens 2048
done

# --allow-nan: zero in what is quantized, counted; kept in what is plain.
norm=$("$P" inspect "$WORK/nan" --json |
  grep -oE '"name":"model.layers.2.input_layernorm.weight"[^}]*' | grep -oE '"offset":[0-9]+' | grep -oE '[0-9]+')
for method in rtn gptq; do
  "$P" quantize "$WORK/nan" -o "$WORK/n.gguf" --force --allow-nan --method $method --tokens 2048 \
    --json >"$WORK/run.json" 2>"$WORK/stderr" || fail "--allow-nan $method: $(cat "$WORK/stderr")"
  grep -q '"fallback": *"1 NaN or infinite, quantized as zero"' "$WORK/run.json" || fail "not counted"
  grep -q "up_proj.weight: 1 NaN or infinite" "$WORK/stderr" || fail "the count is not said"
  "$P" verify "$WORK/n.gguf" >/dev/null 2>&1 || fail "$method: NaN is in the output"
done
printf '\x80\x7f' | dd of="$file" bs=1 seek="$norm" conv=notrunc status=none
expect 2 "infinity at element 0" input_layernorm -- \
  quantize "$WORK/nan" -o "$WORK/out/n.gguf" --method rtn --keep 'up_proj'
"$P" quantize "$WORK/nan" -o "$WORK/n.gguf" --force --allow-nan --method rtn --json \
  >"$WORK/run.json" 2>"$WORK/stderr" || fail "--allow-nan with a norm: $(cat "$WORK/stderr")"
grep -q '"fallback": *"1 NaN or infinite, kept as they are"' "$WORK/run.json" || fail "norm not told"
grep -q '"weight_rel_mse": *null' "$WORK/run.json" && fail "a figure was lost"
"$P" verify "$WORK/n.gguf" >"$WORK/stdout" 2>&1 && fail "the infinity of a norm was not kept"
grep -q "input_layernorm\|attn_norm" "$WORK/stdout" || fail "another tensor holds it: $(cat "$WORK/stdout")"

expect 2 "--dry-run writes nothing" "--json" -- \
  quantize "$MODEL" -o "$WORK/out/a.gguf" --dry-run --report "$WORK/r.json"
expect 2 "the output is" -- quantize "$MODEL" -o "$MODEL" --type int4 --dry-run
expect 2 "--effort is one of" "best" -- quantize "$MODEL" -o "$WORK/out/a.gguf" --effort bset
[ -z "$(ls -A "$WORK/out")" ] || fail "something was left: $(ls -A "$WORK/out")"

exit $failed
