#!/usr/bin/env bash
# The whole suite on CuPy, for a machine with a GPU and no package index.
#
# It needs Python 3.11 or newer with CuPy, NumPy, pytest and hypothesis, and beside this
# checkout's files a folder wheels/ with the rest, made where there is an index:
#
#     pip download --no-deps --only-binary=:all: --python-version 3.12 -d wheels \
#         array-api-compat safetensors tqdm threadpoolctl
#
# Then, on the machine with the GPU:
#
#     tests/on_a_gpu.sh [RESULTS]
#
# RESULTS, a folder, gets the log, the errors by station and the driver's own words.
# LIBRARY=strict runs the same way where there is no GPU, which is how it is tried out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
library="${LIBRARY:-cupy}"
results="$(mkdir -p "${1:-gpu-results}" && cd "${1:-gpu-results}" && pwd)"

site="$(mktemp -d)"
trap 'rm -rf "$site"' EXIT
python -m pip install --quiet --no-index --no-deps --target "$site" wheels/*.whl
export PYTHONPATH="$site:$PWD" OMP_NUM_THREADS=1 CUPY_TF32=0

if [[ "$library" == cupy ]]; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$results/device.csv"
fi
python -m pytest -p no:cacheprovider --library "$library" --measure "$results/$library.json" \
    --durations=20 2>&1 | tee "$results/$library.log"
