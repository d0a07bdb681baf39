#!/bin/bash
# Check and time the Triton kernels on a machine with a GPU, in at most nine minutes: benchmarks/gpu_check.sh [FOLDER]
# Each part's log is in the folder; its end is printed. The last line tells which parts failed.
set -u
out=${1:-gpu-check}
python=${PYTHON:-python3}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
export PYTHONPATH=src:tests
workers=$("$python" -c "import xdist" 2>"/dev/null" && echo "-n 14") # Side by side where pytest-xdist is installed.
failed=""

part() { # name, seconds, lines to print, command...
    local name=$1 seconds=$2 lines=$3 begin=$SECONDS
    shift 3
    timeout "$seconds" "$@" >"$out/$name.log" 2>&1
    local status=$?
    echo "== $name: status $status, $((SECONDS - begin)) s"
    tail -n "$lines" "$out/$name.log" | cut -c -400
    [ $status -eq 0 ] || failed="$failed $name"
}

part versions 60 8 "$python" -c "import torch, triton, empool
print(torch.__version__, triton.__version__, torch.version.cuda, torch.cuda.get_device_name())"
part tests 230 25 env OMP_NUM_THREADS=1 EMPOOL_REQUIRE=triton \
    "$python" -m pytest -q $workers -p no:cacheprovider --durations 5 tests/test_triton.py
part timing 100 60 "$python" benchmarks/gpu_timing.py --json "$out/timing.json"
part bench 140 70 "$python" -m empool.lab.bench --device cuda --quick --json "$out/bench.json"
echo "failed:${failed:- none}"
[ -z "$failed" ]
