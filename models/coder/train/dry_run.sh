#!/bin/sh
# The whole recipe at toy size, from nothing, on one CPU core: tests, data, training with a cut and a trip in parts, evaluation,
# export, conversion, generation with the engine. Ends with "dry run: ok" or with the first thing that is wrong.
#   dry_run.sh [CORPUS_DIR] [WORK_DIR]      PYTHON, DENO, AR_STEPS and STEPS may be set in the environment
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
corpus=$(cd "${1:-$root/../shared/corpus}" && pwd)
work=${2:-$(mktemp -d)}
mkdir -p "$work"
work=$(cd "$work" && pwd)
python=${PYTHON:-python3}
deno=${DENO:-deno}
ar=${AR_STEPS:-120}
steps=${STEPS:-240}
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456
rm -rf "$work/run" "$work/trip" "$work/parts" "$work/data" "$work/hf" "$work/q8" "$work/fp32"
say() { echo "== $*"; }
cd "$here"

say "unit tests"
"$python" -m unittest -q
say "data"
"$python" pack_corpus.py "$work/data" --corpus "$corpus" --documents 150 --parts 3 --preset 3 > "$work/data.log"
"$python" parts.py group "$work/data" 0.6

# the command line of a real leg, but for sizes and for where it stops; it replaces its subshell, so that a signal reaches it
leg() {
  out=$1
  shift
  exec "$python" leg.py --data "$work/data" --out "$out" --shape toy --rows 4 --ar-steps "$ar" --steps "$steps" --cool-steps 60 --warm-steps 10 \
    --eval-minutes 0 --save-minutes 0.2 --log-every 20 --workers 1 --minutes 30 "$@"
}
cut=$((ar + 20))
say "leg 1: $ar autoregressive steps, then block diffusion, stopped at step $cut"
(leg "$work/run" --stop-step "$cut")
say "leg 2: the checkpoint in parts and back, then on to step $((cut + 30)), ended there by a signal"
"$python" parts.py pack "$work/run" "$work/parts" --part-mib 0.4
"$python" parts.py group "$work/parts" 1
"$python" parts.py unpack "$work/parts" "$work/trip"
leg "$work/trip" > "$work/leg2.log" &
job=$!
until grep -q "\"step\": $((cut + 20))," "$work/leg2.log" 2> /dev/null; do
  kill -0 "$job" 2> /dev/null || { cat "$work/leg2.log"; echo "leg 2 died"; exit 1; }
  sleep 1
done
kill -TERM "$job"
wait "$job" || { cat "$work/leg2.log"; echo "leg 2 did not end well after SIGTERM"; exit 1; }
grep -q '"kind": "stopped".*"why": "SIGTERM"' "$work/leg2.log" || { cat "$work/leg2.log"; echo "leg 2 did not say that it stopped"; exit 1; }
say "leg 3: to the end of the plan"
(leg "$work/trip")
grep -q '"kind": "done"' "$work/trip/log.jsonl" || { echo "the plan was not fulfilled"; exit 1; }

say "evaluation, curves, samples"
"$python" measure.py "$work/trip" "$work/data" --batches 2 --draws 1
"$python" draw.py "$work/trip/log.jsonl" "$work/loss.svg"
"$python" samples.py "$work/trip" "$work/data" 16 0.9 48 "$work/samples.json"
say "export, conversion, generation"
"$python" export_hf.py "$work/trip" "$work/data" "$work/hf"
cd "$root"
for dtype in fp32 q8; do $deno task convert "$work/hf" "$work/$dtype" --dtype "$dtype" --recipe models/coder/recipe.json --force; done
$deno run -A models/coder/train/generate.ts "$work/fp32" "$work/samples.json" same
$deno run -A models/coder/train/generate.ts "$work/q8" "$work/samples.json"

# A model that learnt nothing would have passed so far: the losses of both phases must have fallen.
"$python" - "$work/trip/log.jsonl" <<'PY'
import json, sys
rows = [json.loads(l) for l in open(sys.argv[1])]
ar = [r["loss"]["ar"] for r in rows if r["kind"] == "train" and "ar" in r["loss"]]
held = [r["sets"]["functions"]["bd16"][0] for r in rows if r["kind"] == "eval" and "bd16" in r["sets"]["functions"]]
print(f"autoregressive, in training {ar[0]} -> {ar[-1]}; block 16, held-out functions {held[0]} -> {held[-1]}")
assert ar[-1] < ar[0] - 1 and held[-1] < held[0] - 0.2, "the loss did not fall"
PY
say "dry run: ok ($work)"
