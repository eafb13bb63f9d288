# A run that is killed, interrupted, or out of space: never a file under the final name unless it is
# whole, and --resume gives the bytes of an undisturbed run. KILLS: how often each command is killed.
. "$(dirname "$0")/common.sh"

kills=${KILLS:-3}
RANDOM=${SEED:-$$}
echo "seed $RANDOM"
run() { "$P" "$@" >"$WORK/stdout" 2>"$WORK/stderr" || fail "$* ($(cat "$WORK/stderr"))"; }
beside() { ls -A "$WORK/out" | grep -F .pennyweight. || true; }
# The figures of a report: all of it but times and memory.
figures() { sed -E 's/"(seconds|peak_rss_bytes)": [^,}]*//g' "$1"; }

# killed NAME COMMAND...: COMMAND -o out/NAME is killed at a random moment, then resumed.
killed() {
  local name=$1 begin end span at
  shift
  mkdir -p "$WORK/whole" "$WORK/out"
  begin=$(date +%s%N)
  run "$@" -o "$WORK/whole/$name" --report "$WORK/whole.json" --force
  end=$(date +%s%N)
  span=$(((end - begin) / 1000000))
  for _ in $(seq "$kills"); do
    at=$((RANDOM % span + 1))
    "$P" "$@" -o "$WORK/out/$name" >/dev/null 2>&1 &
    job=$!
    sleep "$(printf '%d.%03d' $((at / 1000)) $((at % 1000)))"
    kill -9 $job 2>/dev/null
    wait $job 2>/dev/null
    if [ -e "$WORK/out/$name" ]; then
      diff -r "$WORK/whole/$name" "$WORK/out/$name" ||
        fail "$name: killed after $at ms, not whole under its name"
      rm -rf "$WORK/out/$name"
    fi
    run "$@" -o "$WORK/out/$name" --resume --report "$WORK/out.json" --force
    diff -r "$WORK/whole/$name" "$WORK/out/$name" ||
      fail "$name: killed after $at ms and resumed: other bytes"
    diff <(figures "$WORK/whole.json") <(figures "$WORK/out.json") >"$WORK/diff" ||
      fail "$name: killed after $at ms and resumed: another report: $(head -5 "$WORK/diff")"
    [ -z "$(beside)" ] || fail "$name: left beside it: $(beside)"
    rm -rf "$WORK/out/$name" "$WORK/out.json"
  done
}

"$MAKE_LLAMA" "$WORK/large" "$MODEL" layers=8 || fail "make_llama"
killed file.safetensors convert "$WORK/large" --dtype f32
killed folder convert "$WORK/large" --dtype f16 --shard-size 30M
killed file.gguf convert "$WORK/large" --dtype f16
killed rtn.gguf quantize "$WORK/large" --type q8_0 --method minmax
killed minmax-gptq quantize "$WORK/large" --to gptq --method minmax
killed gptq.gguf quantize "$MODEL" --type q4_0 --method gptq --tokens 2048
# Candidates and folds: nine windows, of which one is held out.
killed auto.gguf quantize "$MODEL" --type q4_0 --tokens 4608
killed awq-int4 quantize "$MODEL" --type int4 --method awq --tokens 4608
killed gptq-int4 quantize "$MODEL" --type int4 --method gptq --tokens 2048

# stop NAME COMMAND...: interrupted when its first results are on the disk.
stop() {
  local name=$1
  shift
  "$P" "$@" -o "$WORK/out/$name" >/dev/null 2>"$WORK/stderr" &
  job=$!
  for _ in $(seq 500); do
    [ "$(stat -c %s "$WORK/out/.$name.pennyweight.journal" 2>/dev/null || echo 0)" -gt 3000 ] && break
    sleep 0.01
  done
  kill -INT $job
  wait $job
  status=$?
  [ $status = 130 ] || fail "interrupted with exit $status ($(cat "$WORK/stderr"))"
  [ ! -e "$WORK/out/$name" ] || fail "interrupted, but there under its name"
}

# Ctrl-C names the command that goes on, and that does.
# Also where the output is made inside of the model's folder.
copy_model inside
"$P" quantize "$WORK/inside" -o "$WORK/inside/q.gguf" --type q4_0 --method gptq --tokens 2048 \
  >/dev/null 2>&1 &
job=$!
for _ in $(seq 500); do
  [ "$(stat -c %s "$WORK/inside/.q.gguf.pennyweight.journal" 2>/dev/null || echo 0)" -gt 3000 ] && break
  sleep 0.01
done
kill -9 $job
wait $job 2>/dev/null
run quantize "$WORK/inside" -o "$WORK/inside/q.gguf" --type q4_0 --method gptq --tokens 2048 --resume
grep -q "nothing to resume" "$WORK/stderr" && fail "nothing to resume inside of the model's folder"
run quantize "$WORK/inside" -o "$WORK/whole/inside.gguf" --type q4_0 --method gptq --tokens 2048
cmp "$WORK/whole/inside.gguf" "$WORK/inside/q.gguf" || fail "resumed inside: other bytes"
stop gptq.gguf quantize "$MODEL" --type q4_0 --method gptq --tokens 2048
grep -q "go on with: pennyweight quantize .*--resume" "$WORK/stderr" ||
  fail "no command to resume: $(cat "$WORK/stderr")"
# A new run does not throw away what is there unasked.
expect 2 "--resume" "--force" -- quantize "$MODEL" -o "$WORK/out/gptq.gguf" --type q4_0 --method gptq --tokens 2048
# Other options are another output, and the one that differs is named.
expect 2 "--type: it was" q4_0 q5_0 -- quantize "$MODEL" -o "$WORK/out/gptq.gguf" --type q5_0 --method gptq --tokens 2048 --resume
copy_model other
touch -d '2001-01-01' "$WORK/other/model.safetensors"
expect 2 "input model.safetensors: it was" -- quantize "$WORK/other" -o "$WORK/out/gptq.gguf" --type q4_0 --method gptq --tokens 2048 --resume
# A damaged partial file: what the journal says of it is not believed.
partial=$WORK/out/.gptq.gguf.pennyweight.partial
cp "$WORK/out/.gptq.gguf.pennyweight.journal" "$WORK/journal"
printf 'damage' | dd of="$partial" bs=1 seek=1000000 conv=notrunc 2>/dev/null
run quantize "$MODEL" -o "$WORK/out/gptq.gguf" --type q4_0 --method gptq --tokens 2048 --resume
cmp "$WORK/whole/gptq.gguf" "$WORK/out/gptq.gguf" || fail "resumed on a damaged file: other bytes"
# An input that is written to meanwhile: what was made of it gets no name.
"$P" quantize "$WORK/other" -o "$WORK/out/torn.gguf" --type q4_0 --method gptq --tokens 2048 \
  >/dev/null 2>"$WORK/stderr" &
job=$!
for _ in $(seq 500); do
  [ -e "$WORK/out/.torn.gguf.pennyweight.journal" ] && break
  sleep 0.01
done
touch -d '2002-02-02' "$WORK/other/model.safetensors"
wait $job
status=$?
[ $status = 2 ] || fail "exit $status after the input changed"
grep -q "the input changed while it was read" "$WORK/stderr" || fail "$(cat "$WORK/stderr")"
[ ! -e "$WORK/out/torn.gguf" ] && ! beside | grep -q torn || fail "made of a changed input: $(beside)"
# A journal with a torn end, and one of nonsense.
stop file.gguf convert "$WORK/large" --dtype f16
truncate -s -7 "$WORK/out/.file.gguf.pennyweight.journal"
run convert "$WORK/large" -o "$WORK/out/file.gguf" --dtype f16 --resume
cmp "$WORK/whole/file.gguf" "$WORK/out/file.gguf" || fail "resumed on a torn journal: other bytes"
rm "$WORK/out/file.gguf"
head -c 5000 /dev/urandom >"$WORK/out/.file.gguf.pennyweight.journal"
expect 0 "nothing to resume" -- convert "$WORK/large" -o "$WORK/out/file.gguf" --dtype f16 --resume
cmp "$WORK/whole/file.gguf" "$WORK/out/file.gguf" || fail "after a nonsense journal: other bytes"
rm "$WORK/out/file.gguf"
# Two runs do not write the same output.
(flock 9; expect 2 "another run" -- convert "$WORK/large" -o "$WORK/out/file.gguf" --dtype f16; exit $failed) \
  9>"$WORK/out/.file.gguf.pennyweight.journal" || failed=1
rm -f "$WORK/out/.file.gguf.pennyweight.journal"

# No room: said before the work when the disk tells, else kept and gone on with.
small=$WORK/small
mkdir "$small"
if mount -t tmpfs -o size=60M tmpfs "$small" 2>/dev/null; then
  trap 'umount "$small"; chmod -R u+w "$WORK"; rm -rf "$WORK"' EXIT
  expect 2 "free some space" -- convert "$WORK/large" -o "$small/file.gguf" --dtype f16
  [ -z "$(ls -A "$small")" ] || fail "left on a full disk: $(ls -A "$small")"
  before=$(cat "$WORK/large"/* | cksum)
  export LD_PRELOAD=$NO_RESERVE
  for name in file.gguf folder; do
    arguments=(convert "$WORK/large" -o "$small/$name" --dtype f16)
    [ $name = folder ] && arguments+=(--shard-size 30M)
    mount -o remount,size=60M "$small"
    expect 2 "No space left" "free some space, then go on with: pennyweight convert" -- "${arguments[@]}"
    [ ! -e "$small/$name" ] || fail "half written under its name"
    mount -o remount,size=400M "$small"
    run "${arguments[@]}" --resume
    grep -q "nothing to resume" "$WORK/stderr" && fail "nothing was kept of the full disk"
    diff -r "$WORK/whole/$name" "$small/$name" || fail "resumed after a full disk: other bytes"
    rm -rf "${small:?}/$name"
  done
  unset LD_PRELOAD
  [ "$before" = "$(cat "$WORK/large"/* | cksum)" ] || fail "the source changed"
else
  echo "SKIPPED: a full disk (a tmpfs cannot be mounted here)"
fi

exit $failed
