# --memory is a promise: a calibrated run stays under it, and says
# so truthfully. The limit makes the hidden states spill to a scratch file.
. "$(dirname "$0")/common.sh"

"$MAKE_LLAMA" "$WORK/model" "$MODEL" layers=2 vocab=8000 || fail "make_llama"
LIMIT=350
"$P" quantize "$WORK/model" -o "$WORK/out.gguf" --method gptq --type q4_k_m --tokens 12288 \
  --memory ${LIMIT}M --json >"$WORK/result.json" 2>"$WORK/stderr" || fail "$(cat "$WORK/stderr")"
peak=$(grep -oE '"peak_rss_bytes": *[0-9]+' "$WORK/result.json" | grep -oE '[0-9]+')
[ "${peak:-0}" -gt 0 ] && [ "$peak" -lt ${LIMIT}000000 ] || fail "peak $peak is not under ${LIMIT}M"
ls -A "$WORK" | grep -qE 'partial|scratch' && fail "scratch was left behind"

# Not even one layer fits: refused before any work, with what would be enough.
expect 2 "hint: use --memory" -- quantize "$WORK/model" -o "$WORK/none.gguf" --method gptq --memory 50M
[ ! -e "$WORK/none.gguf" ] || fail "an output was left behind"

# Without calibration memory is a few tiles, whatever the tensors: here two of 30 million weights
# each, which are 61 MB as they are stored and 123 MB as floats.
"$MAKE_LLAMA" "$WORK/wide" "$MODEL" layers=1 vocab=40000 || fail "make_llama"
for type in q8_0 int8; do
  "$P" quantize "$WORK/wide" -o "$WORK/$type.gguf" --to "$([ $type = int8 ] && echo compressed-tensors || echo gguf)" \
    --method minmax --type $type -j 2 --json >"$WORK/result.json" 2>"$WORK/stderr" || fail "$(cat "$WORK/stderr")"
  peak=$(grep -oE '"peak_rss_bytes": *[0-9]+' "$WORK/result.json" | grep -oE '[0-9]+')
  [ "${peak:-0}" -gt 0 ] && [ "$peak" -lt 32000000 ] || fail "$type: peak $peak is not under 32 MB"
done
# Threads are what gives way to a limit, and the bytes stay the same.
"$P" quantize "$WORK/wide" -o "$WORK/limited.gguf" --method minmax --type q8_0 -j 64 --memory 40M \
  --json >"$WORK/result.json" 2>"$WORK/stderr" || fail "$(cat "$WORK/stderr")"
peak=$(grep -oE '"peak_rss_bytes": *[0-9]+' "$WORK/result.json" | grep -oE '[0-9]+')
[ "${peak:-0}" -gt 0 ] && [ "$peak" -lt 40000000 ] || fail "-j 64: peak $peak is not under 40 MB"
cmp "$WORK/q8_0.gguf" "$WORK/limited.gguf" || fail "other bytes under a limit"
expect 2 "hint: use --memory" -- quantize "$WORK/wide" -o "$WORK/none.gguf" --method minmax --memory 12M

exit $failed
