#!/usr/bin/env bash
# Build one wheel and run the tests of the compiled ops from it under several versions of PyTorch and of Python.
#
#     tools/check_wheel.sh                                              the oldest that is tested for, and the newest
#     tools/check_wheel.sh "torch==2.13.0+cpu" "python3.13: torch torchvision"
#
# Each argument is one fresh environment: the packages that pip installs into it, optionally after "INTERPRETER:" (default
# $PYTHON, python3). The wheel is built with the PyTorch of the project's environment, .venv (BUILD_PYTHON= for another).
# Tests that compare with torchvision are skipped if it does not load. Environments and logs go to $OUTPUT (default: a
# temporary folder that is removed at the end). Exit status: the number of environments that failed.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=${PYTHON:-python3}
build_python=${BUILD_PYTHON:-$root/.venv/bin/python}
if [ -n "${OUTPUT:-}" ]; then
  mkdir -p "$OUTPUT"
  output=$(cd "$OUTPUT" && pwd)
else
  output=$(mktemp -d)
  trap 'rm -rf "$output"' EXIT
fi
if [ $# -eq 0 ]; then
  set -- "torch==2.10.0" "torch torchvision"
fi

# Copy the sources without build outputs, so that the build is clean and the tests cannot import the checkout.
mkdir -p "$output/source" "$output/tests_only"
git ls-files -z --cached --others --exclude-standard | xargs -0 tar -c --ignore-failed-read | tar -x -C "$output/source"
cp -r "$output/source/tests" "$output/tests_only/"

started=$SECONDS
(cd "$output/source" && "$build_python" -m pip wheel --quiet --no-build-isolation --no-deps -w "$output/wheel" .) \
  >"$output/build.log" 2>&1 || { tail -n 30 "$output/build.log"; exit 1; }
wheel=$(ls "$output"/wheel/*.whl)
echo "$(basename "$wheel"), built in $((SECONDS - started)) s with PyTorch $("$build_python" -c "import torch; print(torch.__version__)")"

failures=0
rows=()
number=0
for entry in "$@"; do
  number=$((number + 1))
  interpreter=$python
  requirements=$entry
  if [[ $entry == *:* ]]; then
    interpreter=${entry%%:*}
    requirements=${entry#*:}
  fi
  environment=$output/environment_$number
  log=$output/environment_$number.log
  in_environment=$environment/bin/python
  result=failed
  # --no-deps: the ops need PyTorch only
  # shellcheck disable=SC2086
  if "$interpreter" -m venv --clear "$environment" &&
    "$in_environment" -m pip install --quiet $requirements numpy pycocotools pytest hypothesis &&
    "$in_environment" -m pip install --quiet --no-deps "$wheel" &&
    (
      cd "$output/tests_only"
      "$in_environment" - <<'PYTHON'
import sys
from pathlib import Path

from maskrcnn_benchmark import layers

print(layers.__file__, layers.extension_status())
assert Path(sys.prefix) in Path(layers.__file__).parents, "not the installed package"
assert layers.extension_status().startswith("compiled"), layers.extension_status()
PYTHON
      "$in_environment" -m pytest -q -rs --import-mode=importlib -p no:cacheprovider -o pythonpath=. \
        -o "markers=slow: takes more than about three seconds" \
        tests/layers/test_{roi_align,multi_level_roi_align,nms,candidates,host_kernels,mask_ops}.py
    )
  then
    result=passed
  else
    failures=$((failures + 1))
  fi >"$log" 2>&1
  if [ $result = failed ]; then
    tail -n 30 "$log"
  fi
  versions=$("$in_environment" -c "import platform, torch; print(platform.python_version(), '|', torch.__version__)" || echo "$interpreter | $requirements")
  rows+=("| $versions | $result | $(tail -n 1 "$log" | tr -d '=') |")
done
printf '| Python | PyTorch | result | tests |\n|---|---|---|---|\n'
printf '%s\n' "${rows[@]}"
exit "$failures"
