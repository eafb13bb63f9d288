#!/usr/bin/env bash
# Real clients load what the finished binary writes. Prints `N passed, N failed` at the end; the exit
# code is 0 when every script passed.
# Environment: PENNYWEIGHT (the binary), SOURCE_DIR, PYTHON (with requirements.txt installed), NODE
# (20 or newer), INTEROP_DIR (where package.json was installed: it holds node_modules).
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export SOURCE_DIR=${SOURCE_DIR:-$(cd "$here/../.." && pwd)}
export PENNYWEIGHT=${PENNYWEIGHT:-$SOURCE_DIR/build/release/pennyweight}
export INTEROP_DIR=${INTEROP_DIR:-$SOURCE_DIR/build/interop/npm}
PYTHON=${PYTHON:-python3}
NODE=${NODE:-node}
# The clients never ask the network for a model.
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1 TOKENIZERS_PARALLELISM=false

if [[ ! -x $PENNYWEIGHT ]]; then
  echo "no binary at $PENNYWEIGHT: build it, or set PENNYWEIGHT" >&2
  exit 2
fi

passed=0
failed=0
run() {
  local name=$1
  shift
  echo "== $name"
  if "$@"; then
    passed=$((passed + 1))
  else
    echo "FAILED  $name (exit code $?)"
    failed=$((failed + 1))
  fi
}

run report_is_true.py "$PYTHON" "$here/report_is_true.py"
run compressed_tensors_logits.py "$PYTHON" "$here/compressed_tensors_logits.py"
run convert_outputs.py "$PYTHON" "$here/convert_outputs.py"
run byte_bpe.py "$PYTHON" "$here/byte_bpe.py"
run quantized_inputs.py "$PYTHON" "$here/quantized_inputs.py"
run quantized_outputs.py "$PYTHON" "$here/quantized_outputs.py"
run gptq_outputs.py "$PYTHON" "$here/gptq_outputs.py"
run pytorch_checkpoints.py "$PYTHON" "$here/pytorch_checkpoints.py"
run imatrix.py "$PYTHON" "$here/imatrix.py"
run containers.py "$PYTHON" "$here/containers.py"
run malicious_pickles.py "$PYTHON" "$here/malicious_pickles.py" --check
run llama_cpp.mjs "$NODE" "$here/llama_cpp.mjs"

echo "$passed passed, $failed failed"
[[ $failed -eq 0 ]]
