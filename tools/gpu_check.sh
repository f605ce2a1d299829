#!/usr/bin/env bash
# Build, test and benchmark everything that uses a GPU, in under nine minutes, in an environment with PyTorch.
#
#     tools/gpu_check.sh [output folder]
#
# Uses python3 (PYTHON= for another) and installs nothing. A step that fails does not stop the next; the exit status is the
# number of steps that failed.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
output=${1:-output/gpu_check}
mkdir -p "$output"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
failures=0

step() {  # step NAME SECONDS COMMAND...: run with a time limit, keep the log, count failures
  local name=$1 limit=$2 started=$SECONDS
  shift 2
  echo "== $name"
  if timeout "$limit" "$@" >"$output/$name.log" 2>&1; then
    echo "   passed in $((SECONDS - started)) s"
  else
    echo "   FAILED ($?) after $((SECONDS - started)) s; the end of $output/$name.log:"
    failures=$((failures + 1))
    tail -n 25 "$output/$name.log"
  fi
}

"$python" -c "import torch, sys; sys.exit(not torch.cuda.is_available())" 2>/dev/null || {
  echo "$python has no PyTorch that sees a GPU; set PYTHON=<interpreter> to use another" >&2
  exit 1
}
"$python" -m maskrcnn_benchmark.utils.collect_env | tee "$output/environment.txt"
step build 125 env FORCE_CUDA=1 "$python" setup.py build_ext --inplace
step tests 110 "$python" -m pytest -q -x -k cuda tests/layers tests/structures tests/modeling
if command -v compute-sanitizer >/dev/null; then
  step sanitizer 40 compute-sanitizer --error-exitcode 1 "$python" -m pytest -q -k "cuda" tests/layers/test_nms.py
fi
step benchmark 75 "$python" benchmarks/ops.py --device cuda --seconds 0.7
step refine_cost 30 "$python" benchmarks/refine_cost.py --device cuda --dtype bfloat16 --repetitions 5
step synchronisations 30 "$python" benchmarks/synchronisations.py
step data 20 "$python" tools/make_people_dataset.py --output "$output/datasets/people" --train 200 --val 20
for dtype in float32 bfloat16 float16; do
  step "train_$dtype" 35 env MASKRCNN_BENCHMARK_DATASETS="$output/datasets" "$python" tools/train_net.py --no-resume \
    --config-file configs/quick/hrnet_refine_people.yaml MODEL.DEVICE cuda DTYPE "$dtype" SOLVER.MAX_ITER 150 \
    SOLVER.CHECKPOINT_PERIOD 1000 OUTPUT_DIR "$output/train_$dtype"
  grep -h "iter: 140" "$output/train_$dtype/log.txt" 2>/dev/null
done
cat "$output/benchmark.log" "$output/refine_cost.log" "$output/synchronisations.log" 2>/dev/null
echo "$failures steps failed; logs are in $output"
exit "$failures"
