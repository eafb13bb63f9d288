#!/bin/bash
# The architecture, checked by grep: which folder may include which, which library is seen where,
# and that only cmd/ prints or exits. Usage: check.sh REPOSITORY. Prints file:line of each breach;
# exit 1 when there is any. Before that it checks itself on a bad tree, where it must find all.
set -u

breaches=0

# breach RULE < lines "file:number:text"
breach() {
  local rule=$1 line
  while IFS= read -r line; do
    [ -z "$line" ] && continue
    echo "$line    <- $rule"
    breaches=$((breaches + 1))
  done
}

# find_lines PATTERN FOLDER...: matches in C++ sources, without what is in // comments and strings.
find_lines() {
  local pattern=$1
  shift
  local folder folders=()
  for folder in "$@"; do [ -d "$folder" ] && folders+=("$folder"); done
  [ ${#folders[@]} -eq 0 ] && return
  find "${folders[@]}" -type f \( -name '*.h' -o -name '*.cc' \) -print0 | sort -z |
    PATTERN=$pattern xargs -0 -r awk '
      {
        code = $0
        if (code !~ /^[ \t]*#[ \t]*include/) gsub(/"([^"\\]|\\.)*"/, "\"\"", code)
        sub(/\/\/.*/, "", code)
        if (code ~ ENVIRON["PATTERN"]) print FILENAME ":" FNR ":" $0
      }'
}

check_tree() {
  breaches=0
  # cmd -> calib -> quant -> lib; formats -> lib only. Tests and tools may include anything.
  local include='^[ \t]*#[ \t]*include[ \t]*"'
  breach 'lib includes only lib' < <(find_lines "$include(formats|quant|calib|cmd)/" lib)
  breach 'formats includes only lib' < <(find_lines "$include(quant|calib|cmd)/" formats)
  breach 'quant includes only lib' < <(find_lines "$include(formats|calib|cmd)/" quant)
  breach 'calib includes only quant and lib' < <(find_lines "$include(formats|cmd)/" calib)
  breach 'nothing includes tests' < <(find_lines "${include}tests/" lib formats quant calib cmd)
  breach 'includes are relative to the root' < <(find_lines "${include}[^/\"]*\"" lib formats quant calib)

  local below=(lib formats quant calib)
  breach 'only cmd prints' < <(find_lines \
    '(^|[^A-Za-z0-9_])(std::c(out|err|log)|(std::)?(printf|fprintf|puts|fputs|putchar|perror)[ \t]*\(|fmt::print)' \
    "${below[@]}")
  breach 'only cmd exits' < <(find_lines \
    '(^|[^A-Za-z0-9_.>])(std::)?(exit|_exit|_Exit|quick_exit|abort|terminate)[ \t]*\(' "${below[@]}")

  breach 'nlohmann only in lib/json.cc' < <(find_lines '(<nlohmann/|nlohmann::)' "${below[@]}" cmd |
    grep -v '^lib/json\.cc:')
  breach 'oneTBB only in lib/parallel.cc' < <(find_lines '(<(one)?(api/)?tbb[/.]|tbb::)' "${below[@]}" cmd |
    grep -v '^lib/parallel\.cc:')
  breach 'CLI11 only in cmd' < <(find_lines '(<CLI/|"CLI/|CLI::)' "${below[@]}")
}

# A tree with one breach of each rule, and lines that only look like one.
self_test() {
  local tree
  tree=$(mktemp -d)
  mkdir -p "$tree"/{lib,formats,quant,calib,cmd}
  printf '#include "formats/readers.h"\n#include <nlohmann/json.hpp>\n' >"$tree/lib/a.cc"
  printf '#include "quant/mix.h"\nvoid F() { std::cerr << 1; }\n' >"$tree/formats/b.cc"
  printf '#include "calib/forward.h"\n  tbb::parallel_for(0, 1);\n' >"$tree/quant/c.cc"
  printf '#include "cmd/open.h"\n#include "forward.h"\n#include <CLI/CLI.hpp>\n' >"$tree/calib/d.cc"
  printf 'void G() { std::abort(); }\n  exit(1);\n  printf("x");\n' >"$tree/calib/e.h"
  printf '#include "tests/x.h"\n' >"$tree/cmd/f.cc"
  local expected=13
  printf '%s\n' '#include <oneapi/tbb.h>' >"$tree/lib/parallel.cc"
  printf '%s\n' '#include <nlohmann/json.hpp>' >"$tree/lib/json.cc"
  printf '%s\n' '// never exit( or printf( here' 'Error("call abort()");' 'snprintf(b, 1, "");' \
    'queue.exit();' 'bool should_exit(int);' >"$tree/lib/fine.cc"
  printf '%s\n' '#include <CLI/CLI.hpp>' 'std::cout << 1; exit(2);' >"$tree/cmd/fine.cc"
  local output
  output=$(cd "$tree" && check_tree && echo "total $breaches")
  rm -rf "$tree"
  if ! grep -qx "total $expected" <<<"$output" || grep -qE '^[a-z]+/(fine|json|parallel)\.cc:' <<<"$output"
  then
    echo "the check itself is broken: on a tree with $expected breaches it found:"
    echo "$output"
    return 1
  fi
}

self_test || exit 1
cd "${1:?usage: check.sh REPOSITORY}" || exit 1
check_tree
if [ "$breaches" -gt 0 ]; then
  echo "$breaches breaches of the layering"
  exit 1
fi
echo "layering: no breach"
