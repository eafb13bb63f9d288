# --memory is a promise: a calibrated run stays under it, and says
# so truthfully. The limit makes the hidden states spill to a scratch file.
. "$(dirname "$0")/common.sh"

"$MAKE_LLAMA" "$WORK/model" "$MODEL" layers=2 vocab=8000 || fail "make_llama"
LIMIT=290
"$P" quantize "$WORK/model" -o "$WORK/out.gguf" --method gptq --type q4_k_m --tokens 12288 \
  --memory ${LIMIT}M --json >"$WORK/result.json" 2>"$WORK/stderr" || fail "$(cat "$WORK/stderr")"
peak=$(grep -oE '"peak_rss_bytes": *[0-9]+' "$WORK/result.json" | grep -oE '[0-9]+')
[ "${peak:-0}" -gt 0 ] && [ "$peak" -lt ${LIMIT}000000 ] || fail "peak $peak is not under ${LIMIT}M"
ls -A "$WORK" | grep -qE 'partial|scratch' && fail "scratch was left behind"

# Not even one layer fits: refused before any work, with what would be enough.
expect 2 "hint: use --memory" -- quantize "$WORK/model" -o "$WORK/none.gguf" --method gptq --memory 50M
[ ! -e "$WORK/none.gguf" ] || fail "an output was left behind"

exit $failed
