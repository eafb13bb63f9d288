# Hostile files against the program: an error with a place, in bounded memory, and nothing of the
# file steers the terminal.
. "$(dirname "$0")/common.sh"

# A little-endian number of 8 bytes.
u64() {
  local value=$1 i
  for ((i = 0; i < 8; i++)); do
    printf "\\x$(printf %02x $((value & 255)))"
    value=$((value >> 8))
  done
}

# safetensors HEADER DATA > file
safetensors() {
  u64 "$(printf %s "$1" | wc -c)"
  printf '%s%s' "$1" "$2"
}

# G6: what is no regular file is refused at once; a pipe is not waited for.
mkfifo "$WORK/pipe.safetensors"
expect 2 pipe.safetensors "regular file" -- inspect "$WORK/pipe.safetensors"
expect 2 /dev/zero "regular file" -- inspect /dev/zero
mkdir "$WORK/empty"
expect 2 empty -- inspect "$WORK/empty"

# G8: the content decides.
safetensors '{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}' abcd >"$WORK/x.gguf"
expect 0 -- inspect "$WORK/x.gguf" --json
grep -q '"format":"safetensors"' "$WORK/stdout" || fail "not read as safetensors"

# S30: control characters of a name are printed escaped, in tables, messages and JSON.
safetensors '{"a\n\u001b[31m":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}' abcd >"$WORK/esc"
expect 0 -- inspect "$WORK/esc"
grep -q 'a\\x0a\\x1b\[31m' "$WORK/stderr" "$WORK/stdout" || fail "the name is not printed escaped"
safetensors '{"a\u001b[31m":{"dtype":"U8","shape":[4],"data_offsets":[0,8]}}' abcd >"$WORK/esc"
expect 2 -- inspect "$WORK/esc"
grep -q "$(printf '\033')" "$WORK/stdout" "$WORK/stderr" && fail "an escape reached the terminal"
expect 2 -- inspect "$WORK/esc" --json
grep -q "$(printf '\033')" "$WORK/stdout" "$WORK/stderr" && fail "an escape is in the JSON"

# A hundred thousand tensors are listed; a million on one range are refused.
awk 'BEGIN {
  printf "{"
  for (i = 0; i < 100000; i++)
    printf "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}", i ? "," : "", i, i, i + 1
  printf "}"
}' >"$WORK/header"
{ u64 "$(wc -c <"$WORK/header")"; cat "$WORK/header"; head -c 100000 /dev/zero; } >"$WORK/many"
expect 0 -- inspect "$WORK/many" --json
grep -q '"name":"t99999"' "$WORK/stdout" || fail "the last of many tensors is not listed"

# S9 with a limit on memory: a machine's worth of it would be needed to believe the header.
awk 'BEGIN {
  printf "{"
  for (i = 0; i < 1000000; i++)
    printf "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}", i ? "," : "", i
  printf "}"
}' >"$WORK/header"
{ u64 "$(wc -c <"$WORK/header")"; cat "$WORK/header"; printf x; } >"$WORK/bomb"
kib=$(($(wc -c <"$WORK/bomb") * 4 / 1024 + 65536))
# Address space is more than what is held: stacks, libraries and what the allocator keeps.
limit=$((kib * 2 + 400000))
if (ulimit -v $limit && "$P" --help >/dev/null 2>&1); then
  (ulimit -v $limit && expect 2 overlaps -- inspect "$WORK/bomb" && exit $failed) ||
    fail "a million tensors on one range"
else
  echo "SKIPPED: the program itself does not run in $limit KiB of address space (a sanitizer?)"
fi

exit $failed
