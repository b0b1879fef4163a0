#!/usr/bin/env bash
# Everything that can only be measured on a GPU, in one call of less than 8 minutes.
#
#   benchmarks/gpu.sh                      # results in benchmarks/results/
#   OUT=/some/folder PYTHON=python3.12 benchmarks/gpu.sh
#
# Needs torch with CUDA, triton, torchvision and pytest, and nothing else; the package need not be
# installed. Each part has a limit of its own, keeps its log in $OUT/<part>.log, and takes nothing
# from the others when it fails. $OUT/gpu.txt says how each ended; the exit status is that of the
# worst.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-benchmarks/results}
mkdir -p "$OUT"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
worst=0

# part <name> <most seconds> <words for Python...>
part() {
    local name=$1 limit=$2 start=$SECONDS status=0
    shift 2
    echo "== $name: $PYTHON $*"
    timeout --kill-after=5 "$limit" "$PYTHON" "$@" >"$OUT/$name.log" 2>&1 || status=$?
    tail -n 12 "$OUT/$name.log" | cut -c 1-2000
    printf '%-12s status %3d, %3d of %3d s\n' "$name" "$status" "$((SECONDS - start))" "$limit" |
        tee -a "$OUT/gpu.txt"
    ((status > worst)) && worst=$status
    return 0
}

model=(benchmarks/model.py --quick --device cuda --precision bf16)
date -u >"$OUT/gpu.txt"
part tests 70 -m pytest -m gpu -p no:cacheprovider --continue-on-collection-errors tests
part S 80 "${model[@]}" --results "$OUT/gpu_S"
part kernels 75 benchmarks/kernels.py --blocks 0 4 --results "$OUT"
part S_compiled 120 "${model[@]}" --compile --results "$OUT/gpu_S_compiled"
part B 50 "${model[@]}" --model B --batch 8 --results "$OUT/gpu_B"
part L 65 "${model[@]}" --model L --batch 2 --checkpointing blocks --results "$OUT/gpu_L"
exit "$worst"
