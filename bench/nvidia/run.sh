#!/usr/bin/env bash
# A whole session on a machine with an NVIDIA card: devices, the device tests, conformance, reference models, benchmarks.
#
#   OUT=results bench/nvidia/run.sh [STEP…]
#
# Steps: devices tests conformance models bench vulkan (default: all). Needs Node, dist/ and build/ in the folder of the
# project, and python3 with PyTorch; nothing is fetched. Everything goes below $OUT (default build/nvidia): logs, and the
# rows that belong in bench/results/. Each step has its own time limit ($LIMIT seconds, default 500) and may fail without
# ending the others; the last line of output says what became of each. Exit code 1 if one failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=$(mkdir -p "${OUT:-build/nvidia}" && cd "${OUT:-build/nvidia}" && pwd)
limit=${LIMIT:-500}
device=${DEVICE:-cuda}
summary=()
failed=0

step() { # NAME COMMAND…
  local name=$1 start=$SECONDS code=0
  shift
  timeout -k 10 "$limit" "$@" > "$out/$name.log" 2>&1 || code=$?
  tail -n 4 "$out/$name.log"
  if [ "$code" = 0 ]; then summary+=("$name ok $((SECONDS - start)) s"); else summary+=("$name FAILED ($code)"); failed=1; fi
}

bench() { # SUITE [FLAGS…]
  local suite=$1
  shift
  step "bench-$suite-${*: -1}" node dist/bench/main.js "$suite" --out "$out" "$@"
}

steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(devices tests conformance models bench vulkan)
for one in "${steps[@]}"; do
  case $one in
    devices) step devices node dist/cli/main.js devices --probe --json ;;
    tests) step tests node_modules/.bin/vitest run --project device ;;
    conformance)
      data=${TUTTI_ONNX_DATA:-../shared/onnx}
      if [ -d "$data/node" ]; then
        step conformance node dist/cli/main.js conformance "$data/node" --device "$device" --json
      else
        summary+=("conformance skipped: no data at $data")
      fi
      ;;
    models) bench models --device "$device" ;;
    bench) for suite in gemm attention rows map conv dispatch; do bench "$suite" --device "$device"; done ;;
    vulkan) for suite in gemm rows map; do bench "$suite" --device vulkan; done ;;
    *)
      echo "no such step: $one" >&2
      exit 2
      ;;
  esac
done
nvidia-smi --query-gpu=name,driver_version,clocks.sm,temperature.gpu --format=csv > "$out/card.csv" 2>&1 || true
printf '%s\n' "${summary[@]}" | tee "$out/summary.txt"
exit "$failed"
