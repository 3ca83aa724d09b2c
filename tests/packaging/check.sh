#!/usr/bin/env bash
# Installs the library as a user would, builds the examples against it with pkg-config and with CMake, and runs them on the
# real model, from another folder and without ORT_DYLIB_PATH: ONNX Runtime lies beside the library.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix
models=$root/target/models
unset ORT_DYLIB_PATH

# Runs its arguments where the tool is there; else says that they were skipped, which CI doesn't allow.
with() {
  local tool=$1
  shift
  if command -v "$tool" >/dev/null; then
    "$@"
  elif [[ -n ${CI:-} ]]; then
    echo "tests/packaging: $tool is missing" >&2
    exit 1
  else
    echo "skipped: $tool is missing"
  fi
}

by_pkg_config() {
  local flags
  flags=$(PKG_CONFIG_PATH=$prefix/lib/pkgconfig pkg-config --cflags --libs foreturn)
  # Unquoted on purpose: flags are several words.
  for compiler in gcc clang; do
    for example in rank custom_metric; do
      with "$compiler" "$compiler" -std=c11 -Wall -Wextra -Werror -pedantic "$root/examples/c/$example.c" $flags \
        -Wl,-rpath,"$prefix/lib" -o "$work/$example-$compiler"
    done
  done
  g++ -std=c++17 -Wall -Wextra -Werror -pedantic "$root/examples/cpp/serve.cpp" $flags -pthread \
    -Wl,-rpath,"$prefix/lib" -o "$work/serve"
}

# The lines of docs/c-api.md that compile, as they stand there but for the prefix.
as_documented() {
  local lines
  lines=$(grep -E '^(cc|c\+\+) .* -o ' "$root/docs/c-api.md")
  [[ $(wc -l <<<"$lines") -ge 3 ]] || { echo "tests/packaging: docs/c-api.md has too few lines that compile" >&2; exit 1; }
  cp "$root"/examples/c/*.c "$root"/examples/cpp/*.cpp "$work"
  (cd "$work" && PKG_CONFIG_PATH=$prefix/lib/pkgconfig bash -euo pipefail -c "${lines//\/opt\/foreturn/$prefix}")
  "$work/rank" "$root/examples/foreturn.toml" "$root/tests/packaging/request.json"
  local answer
  answer=$("$work/quickstart" "$models/smollm2-135m-instruct" 60000)
  echo "in time: $answer"
  [[ -n $answer ]]
  # A step of this model takes longer than a millisecond.
  answer=$("$work/quickstart" "$models/smollm2-135m-instruct" 1 2>"$work/late")
  echo "late: $answer ($(<"$work/late"))"
  [[ $answer == "Wait a day." ]] && grep -q "the deadline passed" "$work/late"
}

by_cmake() {
  cmake -S "$root/tests/packaging" -B "$work/build" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_BUILD_TYPE=Release >"$work/cmake.log" ||
    { cat "$work/cmake.log" >&2; exit 1; }
  cmake --build "$work/build" >>"$work/cmake.log" 2>&1 || { cat "$work/cmake.log" >&2; exit 1; }
  "$work/build/custom_metric" "$models/smollm2-135m-instruct"
}

python3 "$root/tools/package.py" install --prefix "$prefix"
for notice in LICENSE-MIT LICENSE-APACHE THIRD-PARTY-NOTICES rust-standard-library.html onnxruntime/{LICENSE,ThirdPartyNotices.txt}; do
  [[ -s $prefix/share/doc/foreturn/$notice ]] || { echo "tests/packaging: $notice is not installed" >&2; exit 1; }
done
with pkg-config by_pkg_config
cd "$work"
for compiler in gcc clang; do
  for example in rank custom_metric; do
    [[ -x $work/$example-$compiler ]] || continue
    echo "== $example, built by $compiler"
    case $example in
      rank) "$work/rank-$compiler" "$root/examples/foreturn.toml" "$root/tests/packaging/request.json" ;;
      custom_metric) "$work/custom_metric-$compiler" "$models/smollm2-135m-instruct" ;;
    esac
  done
done
if [[ -x $work/serve ]]; then
  echo "== serve"
  "$work/serve" "$models/smollm2-135m-instruct" --requests 8 --deadline-ms 60000
fi
echo "== as documented"
with pkg-config as_documented
with cmake by_cmake
