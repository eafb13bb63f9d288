# PENNYWEIGHT_ISA: a name that is none, or a path that this CPU lacks, is refused by every command;
# the paths that are there write the same bytes where nothing is calibrated.
. "$(dirname "$0")/common.sh"

export PENNYWEIGHT_ISA=avx9
expect 2 "it takes avx2, avx3, amx or bf16" -- types
"$P" types --json 2>/dev/null | grep -q '"code": *"usage"' || fail "an unknown path is an error of usage"
if ! grep -qw amx_bf16 /proc/cpuinfo; then
  export PENNYWEIGHT_ISA=amx
  expect 2 "unset PENNYWEIGHT_ISA" -- types
fi
unset PENNYWEIGHT_ISA

"$MAKE_LLAMA" "$WORK/model" "$MODEL" layers=1 vocab=8000 || fail "make_llama"
paths=("" bf16)
grep -qw avx2 /proc/cpuinfo && paths+=(avx2)
grep -qw avx512bw /proc/cpuinfo && paths+=(avx3)
for path in "${paths[@]}"; do
  PENNYWEIGHT_ISA=$path "$P" quantize "$WORK/model" -o "$WORK/out$path.gguf" --type q4_0 \
    --method minmax -q || fail "quantize with PENNYWEIGHT_ISA=$path"
  cmp "$WORK/out.gguf" "$WORK/out$path.gguf" || fail "other bytes with PENNYWEIGHT_ISA=$path"
done

exit $failed
