#!/bin/bash
# Check and time the Triton kernels on a machine with a GPU, in at most nine minutes: benchmarks/gpu_check.sh [FOLDER]
# Needs Python with PyTorch, Triton and pytest; nothing installed or built from here. Each part's log is in the folder,
# its end is printed, and a part that fails stops no other. The last line tells which parts failed.
set -u
out=${1:-gpu-check}
python=${PYTHON:-python3}
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH=$PWD/src:$PWD/tests PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export EMPOOL_EXTENSION=0               # The reference serves the CPU, whatever was built here for another PyTorch.
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 # Other projects' plugins warn, and warnings are errors here.
caches=$(mktemp -d)
trap 'rm -rf "$caches"' EXIT
export TRITON_CACHE_DIR=$caches/triton TORCHINDUCTOR_CACHE_DIR=$caches/inductor
workers=()
"$python" -c "import xdist" 2>"/dev/null" && workers=(-p xdist -n 14) # Side by side where pytest-xdist is installed.
failed=""

part() { # name, seconds, lines to print, command...
    local name=$1 seconds=$2 lines=$3 begin=$SECONDS
    shift 3
    timeout -k 5 "$seconds" "$@" >"$out/$name.log" 2>&1
    local status=$?
    echo "== $name: status $status, $((SECONDS - begin)) s"
    tail -n "$lines" "$out/$name.log" | cut -c -400
    [ $status -eq 0 ] || failed="$failed $name"
}

part versions 40 8 "$python" -c "import torch, triton, empool
print(torch.__version__, triton.__version__, torch.version.cuda, torch.cuda.get_device_name())
print(empool.kernels()['rank_draw'])"
part tests 220 25 env OMP_NUM_THREADS=1 TORCHINDUCTOR_COMPILE_THREADS=1 EMPOOL_REQUIRE=triton \
    "$python" -m pytest -q "${workers[@]}" -p no:cacheprovider --durations 5 tests/test_triton.py tests/test_traced.py
part timing 70 60 "$python" benchmarks/gpu_timing.py --json "$out/timing.json"
part compile 85 10 "$python" benchmarks/gpu_compile.py --json "$out/compile.json"
part bench 105 70 "$python" -m empool.bench --device cuda --quick --json "$out/bench.json"
echo "failed:${failed:- none}"
[ -z "$failed" ]
