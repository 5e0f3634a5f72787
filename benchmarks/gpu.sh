#!/usr/bin/env bash
# What a GPU has to say: tests, steps, input path, prediction, a search; each with a time limit of its own. A line of JSON
# for each that came to its end, and all of them in OUT/gpu.json. Without a GPU it shows that the programs work.
#
#   bash benchmarks/gpu.sh [--minutes 8] [--data pneumoniamnist_28.npz] [--out FOLDER] [PART...]
#
# PART is any of: tests steps packing input predict search. Default: all. `search` alone needs Ray. What torch.compile
# adds, and what it costs that numbers come again, take minutes of their own: python benchmarks/steps.py --compile, and
# --any-algorithm (with benchmarks and platform in PYTHONPATH).
set -uo pipefail
cd "$(dirname "$0")/.."
minutes=8 data="" out=${OUT:-build/gpu} parts=()
while (($#)); do
  case $1 in
    --minutes) minutes=$2; shift 2 ;;
    --data) data=$(realpath "$2"); shift 2 ;;
    --out) out=$2; shift 2 ;;
    tests | steps | packing | input | predict | search) parts+=("$1"); shift ;;
    *) echo "unknown: $1; see the first lines of $0" >&2; exit 2 ;;
  esac
done
((${#parts[@]})) || parts=(tests steps packing input predict search)
mkdir -p "$out"
export PYTHONPATH=$PWD/platform:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
device=$($python -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')
quick=$([[ $device == cuda ]] || echo --quick)
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null || echo "no GPU: $device"

# The search has most of the time; the rest is divided.
share() { $python -c "print(max(40, round(60 * $minutes * $1)))"; }
run() { # NAME SHARE COMMAND...
  local name=$1 limit; limit=$(share "$2"); shift 2
  echo "== $name, at most $limit s: $*"
  local started=$SECONDS
  timeout -k 10 "$limit" "$@" 2>&1 | tee "$out/$name.log" | tail -n 40
  local status=${PIPESTATUS[0]} last
  last=$(tail -n 1 "$out/$name.log")
  [[ $last == "{"* ]] || last=null
  echo "{\"part\": \"$name\", \"status\": $status, \"seconds\": $((SECONDS - started)), \"figures\": $last}" | tee "$out/$name.json"
}

for part in "${parts[@]}"; do
  case $part in
    tests) run tests 0.12 $python -m pytest -q -rs -s -m gpu tests/train tests/predict ;;
    steps) run steps 0.1 $python benchmarks/steps.py $quick ;;
    packing) run packing 0.12 $python benchmarks/packing.py $quick ;;
    input) run input 0.12 $python benchmarks/input_path.py --quick ;;
    predict) run predict 0.12 $python benchmarks/predict.py --quick --device "$device" --no-memory ;;
    search) run search 0.42 $python benchmarks/gpu_search.py $quick ${data:+--data "$data"} --minutes "$($python -c "print($minutes * 0.33)")" ;;
  esac
done
$python - "$out" <<'END'
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
found = {name: json.loads((out / f"{name}.json").read_text()) for name in ("tests", "steps", "packing", "input", "predict", "search") if (out / f"{name}.json").exists()}
(out / "gpu.json").write_text(json.dumps(found, indent=1))
for name, each in found.items():
    print(f"{name:8} {'ended' if each['status'] == 0 else 'status ' + str(each['status'])} after {each['seconds']} s")
END
