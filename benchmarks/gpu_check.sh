#!/bin/bash
# Check and time the Triton kernels on a machine with a GPU: benchmarks/gpu_check.sh [FOLDER [PART...]]
# Parts: versions timing tests compile, and sanitize where there is compute-sanitizer (the default, 425 s at most in all);
# bench (100 s), counters (120 s, as it may compile first).
# Needs Python with PyTorch, Triton and pytest; nothing installed or built from here. Each part has a time limit of its
# own, and stops no other. FOLDER gets check.log, every part's output, and timing.json, compile.json, bench.json and
# counters.json, which are written as their parts go. The last line tells which parts failed.
set -u
out=${1:-gpu-check}
shift
parts=${*:-versions timing tests compile $(command -v compute-sanitizer >/dev/null && echo sanitize)}
python=${PYTHON:-python3}
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH=$PWD/src:$PWD/tests PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export EMPOOL_EXTENSION=0               # The reference serves the CPU, whatever was built here for another PyTorch.
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 # Other projects' plugins warn, and warnings are errors here.
export OMP_NUM_THREADS=1 TORCHINDUCTOR_COMPILE_THREADS=1
caches=$(mktemp -d)
trap 'rm -rf "$caches"' EXIT
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$caches/triton} TORCHINDUCTOR_CACHE_DIR=$caches/inductor
workers=()
cores=$("$python" -c "import os; print(min(16, max(4, len(os.sched_getaffinity(0)))))") # nproc would heed OMP_NUM_THREADS.
"$python" -c "import xdist" 2>"/dev/null" && workers=(-p xdist -n $((cores - 2)) --dist worksteal) # Side by side, where it is.
failed=""

part() { # name, seconds, lines to print, command...
    local name=$1 seconds=$2 lines=$3 begin=$SECONDS
    shift 3
    [[ " $parts " == *" $name "* ]] || return
    echo "== $name" >>"$out/check.log"
    local before=$(($(wc -l <"$out/check.log") + 1))
    timeout -s INT -k 5 "$seconds" "$@" >>"$out/check.log" 2>&1
    local status=$?
    echo "== $name: status $status, $((SECONDS - begin)) s"
    tail -n "+$before" "$out/check.log" | tail -n "$lines" | cut -c -400
    [ $status -eq 0 ] || failed="$failed $name"
}

part versions 25 9 bash -c "nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit \
    --format=csv; '$python' -c 'import torch, triton, empool
print(torch.__version__, triton.__version__, torch.version.cuda, torch.cuda.get_device_name())
print(empool.kernels()[\"rank_draw\"])'"
[ -z "$failed" ] || { echo "failed: versions (PyTorch finds no GPU here, or not all that is needed)"; exit 1; }
part timing 150 45 "$python" benchmarks/gpu_timing.py --quick --json "$out/timing.json"
part tests 140 40 env EMPOOL_REQUIRE=triton EMPOOL_QUICK=1 "$python" -m pytest -v "${workers[@]}" -p no:cacheprovider \
    --tb short --durations 5 tests/test_gpu.py tests/test_triton.py -k "not test_interpreted"
part compile 50 10 "$python" benchmarks/gpu_compile.py --json "$out/compile.json"
part sanitize 60 20 compute-sanitizer --error-exitcode 9 "$python" -m pytest -q -p no:cacheprovider \
    tests/test_gpu.py -k "test_vmap_with_one_seed or test_every_element_is_written"
part bench 100 70 "$python" -m empool.bench --device cuda --quick --json "$out/bench.json"
part counters 120 30 "$python" benchmarks/gpu_counters.py --json "$out/counters.json"
echo "failed:${failed:- none}"
[ -z "$failed" ]
