# Sourced by the script tests: PENNYWEIGHT is the binary, SOURCE_DIR the checkout.
set -u
P=${PENNYWEIGHT:?path of the binary}
MODEL=${SOURCE_DIR:?path of the checkout}/testdata/pd-llama-4M
SHARED=$SOURCE_DIR/../shared
WORK=$(mktemp -d)
trap 'chmod -R u+w "$WORK"; rm -rf "$WORK"' EXIT
failed=0

fail() {
  echo "FAILED: $*"
  failed=1
}

# expect CODE WORD... -- ARGUMENTS: the exit code, and every WORD in what is said on stderr.
expect() {
  local code=$1 words=() status
  shift
  while [ "$1" != -- ]; do
    words+=("$1")
    shift
  done
  shift
  "$P" "$@" >"$WORK/stdout" 2>"$WORK/stderr"
  status=$?
  [ "$status" = "$code" ] || fail "exit $status, not $code: $* ($(head -c 300 "$WORK/stderr"))"
  for word in "${words[@]+"${words[@]}"}"; do
    grep -qF -- "$word" "$WORK/stderr" || fail "\"$word\" is not said by: $* ($(cat "$WORK/stderr"))"
  done
}

# A copy of the model that may be changed.
copy_model() {
  cp -r "$MODEL" "$WORK/$1"
  chmod -R u+w "$WORK/$1"
}
