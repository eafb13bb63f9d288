#!/bin/bash
# Builds everything and runs every test. With --interop it also installs the real clients (llama.cpp
# through node-llama-cpp, gguf, transformers, compressed-tensors), at pinned versions and under
# build/interop, and lets them load what pennyweight writes, and runs every fuzzer for a minute
# (clang). The last lines are ctest's summary.
set -euo pipefail
cd "$(dirname "$0")/.."
source_dir=$PWD
interop_dir=$source_dir/build/interop

interop=no
for argument in "$@"; do
  case $argument in
    --interop) interop=yes ;;
    *) echo "usage: scripts/test.sh [--interop]" >&2; exit 2 ;;
  esac
done

# Runs a command silently; shows everything when it fails.
quietly() {
  local log
  log=$(mktemp)
  if ! "$@" >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    echo "test.sh: failed: $*" >&2
    return 1
  fi
  rm -f "$log"
}

# The other pinned versions are in tests/interop: requirements.txt and package.json.
torch=2.13.0
node_fallback=22.22.0

setup_python() {
  local requirements=tests/interop/requirements.txt gptq=tests/interop/requirements-gptq.txt stamp
  stamp=$interop_dir/python-$torch-$(cat "$requirements" "$gptq" | cksum | cut -d' ' -f1)
  export PYTHON=$interop_dir/venv/bin/python
  [ -f "$stamp" ] && return
  echo "test.sh: installing Python packages under build/interop" >&2
  rm -rf "$interop_dir/venv"
  python3 -m venv "$interop_dir/venv"
  # A CPU build where the index offers one; then nothing pulls in the large default build.
  quietly "$PYTHON" -m pip install "torch==$torch+cpu" 2>/dev/null ||
    quietly "$PYTHON" -m pip install "torch==$torch"
  quietly "$PYTHON" -m pip install -r "$requirements"
  # gptq_outputs.py has a decoder of its own where these do not install.
  quietly "$PYTHON" -m pip install --no-deps -r "$gptq" ||
    echo "test.sh: GPTQ and AWQ are not loaded in transformers" >&2
  touch "$stamp"
}

# "x64" or "arm64", as npm packages name the machine.
machine() {
  case $(uname -m) in
    aarch64) echo arm64 ;;
    *) echo x64 ;;
  esac
}

# The system's Node when it is new enough, else the one of the npm package node-linux-*.
find_node() {
  NODE=$(command -v node || true)
  local major=0
  [ -n "$NODE" ] && major=$("$NODE" -p 'process.versions.node.split(".")[0]')
  if [ "$major" -lt 20 ]; then
    local package
    package=node-linux-$(machine)
    NODE=$interop_dir/node/node_modules/$package/bin/node
    if [ ! -x "$NODE" ]; then
      echo "test.sh: installing Node $node_fallback under build/interop" >&2
      mkdir -p "$interop_dir/node"
      (cd "$interop_dir/node" && quietly npm install --no-audit --no-fund --ignore-scripts \
        --prefix . "$package@$node_fallback")
    fi
  fi
  export NODE
}

# Prebuilt llama.cpp from registry packages only: no build, no download by an install script.
setup_node() {
  find_node
  local version stamp
  version=$("$NODE" -p 'require("./tests/interop/package.json").dependencies["node-llama-cpp"]')
  stamp=$interop_dir/npm-$version
  [ -f "$stamp" ] && return
  echo "test.sh: installing node-llama-cpp under build/interop" >&2
  rm -rf "$interop_dir/npm"
  mkdir -p "$interop_dir/npm"
  (cd "$interop_dir/npm" && quietly npm install --no-audit --no-fund --ignore-scripts \
    --omit=optional --prefix . "node-llama-cpp@$version" \
    "@node-llama-cpp/linux-$(machine)@$version")
  touch "$stamp"
}

if [ "$interop" = yes ]; then
  extra=(python3 python3-venv)
  command -v npm >/dev/null 2>&1 || extra+=(npm)
  extra+=(clang-16 libclang-rt-16-dev)
  scripts/setup.sh "${extra[@]}"
else
  scripts/setup.sh
fi

quietly cmake --preset release -DPENNYWEIGHT_TESTS=ON
cmake --build --preset release

interop_status=0
fuzz_status=0
if [ "$interop" = yes ]; then
  mkdir -p "$interop_dir"
  setup_python
  setup_node
  export PENNYWEIGHT=$source_dir/build/release/pennyweight SOURCE_DIR=$source_dir
  export INTEROP_DIR=$interop_dir/npm
  bash tests/interop/run.sh || interop_status=$?
  if [ "$interop_status" != 0 ]; then
    echo "test.sh: interop failed with status $interop_status" >&2
  fi
  scripts/fuzz.sh 60 || fuzz_status=$?
fi

if [ ! -d ../shared/models ]; then
  echo "test.sh: SKIPPED what needs the models and texts of ../shared, which is absent" >&2
fi
# Last, so that its summary closes the output; a failure of either fails the run.
ctest --preset release
[ "$fuzz_status" = 0 ] || exit "$fuzz_status"
exit "$interop_status"
