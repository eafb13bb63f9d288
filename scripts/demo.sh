#!/bin/sh
# Builds pennyweight, shrinks the model in testdata/ to a GGUF file, and shows what that cost.
# Leaves build/demo/: the model, report.json and report.csv.
set -eu
cd "$(dirname "$0")/.."

scripts/setup.sh
if [ ! -f build/release/build.ninja ]; then
  echo "demo: configuring" >&2
  mkdir -p build
  cmake --preset release -DPENNYWEIGHT_TESTS=OFF >build/configure.log 2>&1 || {
    cat build/configure.log >&2
    rm -f build/configure.log
    exit 1
  }
  rm -f build/configure.log
fi
echo "demo: building" >&2
cmake --build build/release --target pennyweight >&2

mkdir -p build/demo
model=build/demo/pd-llama-4M-q4_k_m.gguf
echo "demo: pennyweight quantize testdata/pd-llama-4M -o $model" >&2
build/release/pennyweight quantize testdata/pd-llama-4M -o "$model" --force \
  --report build/demo/report.json --report build/demo/report.csv

echo
echo "the model:   $model"
echo "the reports: build/demo/report.json build/demo/report.csv"
