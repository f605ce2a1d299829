#!/usr/bin/env bash
# Run the CUDA kernels without a GPU: csrc/cuda compiled for the CPU by tests/cuda_emulation, under the tests of the ops.
#
#     tools/emulate_cuda.sh [pytest argument ...]        arguments replace the selection of tests
#
# Builds in build/emulated; the installed build stays as it is. Needs GCC on Linux (CXX= for another compiler). Threads and
# blocks run in order first, then in random orders (CUDA_EMULATION_SEED), then under AddressSanitizer and
# UndefinedBehaviorSanitizer if the compiler has them, which find out-of-bounds and misaligned access and overflow.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=${PYTHON:-$PWD/.venv/bin/python}
compiler=${CXX:-g++}
runtime=
export OMP_NUM_THREADS=2
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1:abort_on_error=1 # leaks: Python keeps memory until it exits
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1

build() {  # build FOLDER [--sanitize]
  "$python" tests/cuda_emulation/build.py "$@" 2> >(grep -v "No CUDA runtime is found" >&2)
}

run() {  # run SEED FOLDER PYTEST_ARGUMENT...
  local seed=$1 folder=$2
  shift 2
  echo "== $folder, order of threads $seed"
  (cd "$root/$folder/lib" && CUDA_EMULATION_SEED=$seed LD_PRELOAD=$runtime "$python" -c "
import pathlib, sys, pytest, torch
from maskrcnn_benchmark import _C
assert pathlib.Path(_C.__file__).is_relative_to(pathlib.Path.cwd()), _C.__file__
sys.exit(pytest.main(sys.argv[1:]))" \
    -q --capture=sys --import-mode=importlib -p no:cacheprovider -p no:faulthandler -o pythonpath=. \
    -o "markers=slow: takes more than about three seconds" "$@")
}

build build/emulated
if [ $# -gt 0 ]; then
  run "${CUDA_EMULATION_SEED:-0}" build/emulated "$@"
  exit
fi

ops=(tests/layers/test_roi_align.py tests/layers/test_multi_level_roi_align.py tests/layers/test_nms.py)
# Left out: large cases ("slow"); all but the four hundred largest of the ten thousand cases of NMS, for time; behaviour of
# the CPU only, such as the error for an image index out of range and gradients that are deterministic by default.
common="not 2600 and not 2000 and not images_that_are_not_there and not without_being_asked"
run 0 build/emulated "${ops[@]}" -m "not slow" -k "$common"
# Cases that depend on the order of threads or stress memory access. Whole results are compared, so races show.
important="$common and (every_type or many or plain_loops or greedy_loop or groups or harmless or nothing or other_types"
important+=" or one_level_at_a_time or padded or not_finite or deterministic)"
for seed in 1 2; do
  run "$seed" build/emulated "${ops[@]}" -m "not slow" -k "$important"
done
if [ -e "$("$compiler" -print-file-name=libasan.so)" ]; then
  build build/emulated_sanitized --sanitize
  # Preload the sanitizer's runtime, and the C++ library, through which the runtime intercepts exceptions.
  runtime="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libubsan.so) $("$compiler" -print-file-name=libstdc++.so)"
  run 3 build/emulated_sanitized "${ops[@]}" -m "not slow" -k "$important"
fi
