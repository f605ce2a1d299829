#!/usr/bin/env bash
# Build the CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer and run the tests of the ops with them.
#
#     tools/sanitize.sh [pytest argument ...]        arguments replace the selection of tests
#
# Runs once per instruction set of the processor, since the kernels differ. Builds in build/sanitize; the installed build
# stays as it is. Needs GCC on Linux (CXX= for another compiler). An out-of-bounds access, use after free, signed
# overflow, misaligned access or the like ends the run with a report and a non-zero exit status.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$PWD/.venv/bin/python}
folder=build/sanitize
compiler=${CXX:-g++}

SANITIZE=1 "$python" setup.py --quiet build --build-base "$folder" --build-lib "$folder/lib"
rm -rf "$folder/lib/tests"
cp -r tests "$folder/lib/"
cd "$folder/lib"

# Preload the sanitizer's runtime, and the C++ library, through which the runtime intercepts exceptions.
runtime="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libubsan.so) $("$compiler" -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1:abort_on_error=1 # leaks: Python keeps memory until it exits
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export OMP_NUM_THREADS=2

run() {  # run INSTRUCTIONS PYTEST_ARGUMENT...; pytest must not capture the reports, which are not written through Python
  local capability=$1
  shift
  echo "== $capability"
  ATEN_CPU_CAPABILITY=$capability LD_PRELOAD=$runtime "$python" -c "
import pathlib, sys, pytest, torch
from maskrcnn_benchmark import _C
assert pathlib.Path(_C.__file__).is_relative_to(pathlib.Path.cwd()), _C.__file__
sys.exit(pytest.main(sys.argv[1:]))" \
    -q --capture=sys --import-mode=importlib -p no:cacheprovider -p no:faulthandler -o pythonpath=. \
    -o "markers=slow: takes more than about three seconds" "$@"
}

ops=(tests/layers/test_roi_align.py tests/layers/test_multi_level_roi_align.py tests/layers/test_nms.py)
of_the_host=(tests/layers/test_{candidates,host_kernels,mask_ops,keypoint_ops}.py)
if [ $# -gt 0 ]; then
  run avx512 "$@"
  exit
fi
# Left out: tests of PyTorch's tracing, and large cases.
run avx512 "${ops[@]}" "${of_the_host[@]}" -m "not slow" \
  -k "not registration and not compiles and not numerically and not ten_thousand and (not reference or slow_reference)"
for capability in avx2 default; do
  run "$capability" "${ops[@]}" -m "not slow" \
    -k "every_type or many or plain_loops or greedy_loop or groups or harmless or nothing or other_types"
  run "$capability" "${of_the_host[@]}" -m "not slow" -k "not registration and not compiles and (not reference or slow_reference)"
done
