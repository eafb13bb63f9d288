# The table of types: what it lists is what quantize takes.
. "$(dirname "$0")/common.sh"

"$P" types >"$WORK/stdout" 2>"$WORK/stderr" || fail "types"
for word in q4_k_m int4 compressed-tensors gguf "4.5 " "Llama-3-8B"; do
  grep -qF -- "$word" "$WORK/stdout" || fail "types does not print \"$word\""
done
"$P" types --json >"$WORK/types.json" || fail "types --json"
[ "$(grep -c '"schema":"pennyweight.types/1"' "$WORK/types.json")" = 1 ] || fail "no schema"
for key in types mixes layouts families bits_per_weight importance needs_importance gptq writable; do
  grep -q "\"$key\"" "$WORK/types.json" || fail "the document has no $key"
done

# Every mix of the table is taken, whatever its layout; a name outside it is not.
mixes=$(awk '/^mix /{on=1;next} on&&NF==0{exit} on&&!/^-/{print $1}' "$WORK/stdout")
[ "$(echo "$mixes" | wc -w)" -ge 16 ] || fail "few mixes: $mixes"
for mix in $mixes; do
  case $mix in
    int4 | int8) out=$WORK/out ;;
    int* | fp* | nf4) continue ;;  # their layouts have tests of their own
    *) out=$WORK/out.gguf ;;
  esac
  "$P" quantize "$MODEL" -o "$out" --type "$mix" --method minmax --force --quiet \
    2>"$WORK/stderr" || fail "$mix is in the table, but: $(cat "$WORK/stderr")"
done
expect 2 "there is no type or mix named" "did you mean" -- \
  quantize "$MODEL" -o "$WORK/none.gguf" --type q4_k_x
expect 2 "takes no input" -- types "$MODEL"
expect 2 "types has no flag --tpye" -- types --tpye

exit $failed
