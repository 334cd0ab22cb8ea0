#!/usr/bin/env bash
# All that needs a GPU, for a machine with one and no package index: the suite on CuPy, with
# TF32 off and then on, and benchmarks/gpu.py.
#
# It needs Python 3.11 or newer with CuPy, NumPy, pytest and hypothesis, for the benchmark
# PyTorch with cuDNN (and, optionally, JAX with CUDA and matplotlib), and in this checkout a
# folder wheels/ with the rest, made where there is an index:
#
#     pip download --no-deps --only-binary=:all: --python-version 3.12 -d wheels \
#         array-api-compat safetensors tqdm threadpoolctl
#
# Then, on the machine with the GPU:
#
#     tools/on_a_gpu.sh [RESULTS [PART ...]]
#
# A PART is a variant of the library (plain, tf32) or bench, which takes up to 8 minutes;
# without any, all are run. Several calls may share one folder RESULTS. It gets the logs, the
# errors by stage, the tables and the driver's version; cupy.json, written once all variants
# have run, is what goes into backends/measured/. The exit status is 1 if any part failed; the
# others are run all the same.
#
# LIBRARY=strict runs the same way where there is no GPU, which is how it is tried out; a CPU
# then stands in for the GPU in the benchmark, whose numbers then mean nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
library="${LIBRARY:-cupy}"
results="$(mkdir -p "${1:-gpu-results}" && cd "${1:-gpu-results}" && pwd)"
shift || true

site="$(mktemp -d)"
trap 'rm -rf "$site"' EXIT
python -m pip install --quiet --no-index --no-deps --target "$site" wheels/*.whl
# The variables that backends/cupy.toml sets; the tests set those of a variant.
export PYTHONPATH="$site:$PWD" OMP_NUM_THREADS=1 CUPY_TF32=0

parts=("$@")
if [[ ${#parts[@]} -eq 0 ]]; then
    variants="$(python tools/measure.py --variants "$library")"
    mapfile -t parts <<<"$variants"
    parts+=(bench)
fi

if [[ "$library" == cupy ]]; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$results/device.csv"
fi

status=0
for part in "${parts[@]}"; do
    if [[ "$part" != bench ]]; then
        python -m pytest -p no:cacheprovider --full --library "$library" --variant "$part" \
            --measure "$results/$library-$part.json" --durations=20 2>&1 |
            tee "$results/$library-$part.log" || status=1
    elif [[ "$library" == cupy ]]; then
        # The reference on the CPU may have all cores.
        env -u OMP_NUM_THREADS python benchmarks/gpu.py --out "$results" 2>&1 |
            tee "$results/gpu.log" || status=1
    else
        python benchmarks/gpu.py --library numpy --quick --out "$results" 2>&1 |
            tee "$results/gpu-stand-in.log" || status=1
    fi
done

python tools/measure.py --gather "$results" "$library" || status=1
exit "$status"
