# An input wider than 16384: its Hessian lies in panels. With little memory some of them go to a
# scratch file; the bytes stay the same, and the limit holds.
. "$(dirname "$0")/common.sh"

"$MAKE_LLAMA" "$WORK/model" "$MODEL" hidden=32 ffn=16512 layers=1 heads=1 kv_heads=1 vocab=2048 ||
  fail "make_llama"
flags=(--method gptq --type int4_g32 --tokens 512 --context 64)
LIMIT=540  # MB; all of the panels take 670
"$P" quantize "$WORK/model" -o "$WORK/whole" "${flags[@]}" --memory 4G -q 2>"$WORK/stderr" ||
  fail "$(cat "$WORK/stderr")"
"$P" quantize "$WORK/model" -o "$WORK/spilled" "${flags[@]}" --memory ${LIMIT}M --json \
  >"$WORK/result.json" 2>"$WORK/stderr" || fail "$(cat "$WORK/stderr")"
peak=$(grep -oE '"peak_rss_bytes": *[0-9]+' "$WORK/result.json" | grep -oE '[0-9]+')
[ "${peak:-0}" -gt 0 ] && [ "$peak" -lt ${LIMIT}000000 ] || fail "peak $peak is not under ${LIMIT}M"
cmp "$WORK/whole/model.safetensors" "$WORK/spilled/model.safetensors" || fail "other bytes"
grep -q '"method": *"gptq"' "$WORK/result.json" || fail "gptq was not used"
ls -A "$WORK" | grep -qE 'partial|scratch' && fail "scratch was left behind"

# The plan knows it: room beside the output for the panels that do not fit.
"$P" quantize "$WORK/model" -o "$WORK/none" "${flags[@]}" --memory ${LIMIT}M --dry-run --json \
  >"$WORK/plan.json" 2>"$WORK/stderr" || fail "$(cat "$WORK/stderr")"
beside=$(grep -oE '"scratch_bytes": *[0-9]+' "$WORK/plan.json" | grep -oE '[0-9]+')
[ "${beside:-0}" -gt 600000000 ] || fail "the plan says $beside bytes of scratch"

exit $failed
