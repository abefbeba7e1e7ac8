#!/bin/sh
# Remake models/tiny from the corpus folder: tokenizer, data, tests, training, evaluation, export, golden logits, figure.
#   run.sh [CORPUS_DIR] [RUN_DIR]      PYTHON, MINUTES and WORKERS may be set in the environment
# Kill it at any time and run it again: what is done is kept and training resumes at its last checkpoint.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
corpus=$(cd "${1:-$root/../shared/corpus}" && pwd)
run=${2:-$here/run}
mkdir -p "$run"
run=$(cd "$run" && pwd)
python=${PYTHON:-python3}
# One thread a process: on two cores two processes beat one with two threads. glibc's malloc must not return every
# freed activation to the system: page faults cost 15-25 %.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456
cd "$here"
"$python" test_masks.py
[ -f "$run/tokenizer/tokenizer.json" ] || "$python" tokenizer.py "$corpus/tokenizer/bpe8192" "$run/tokenizer" 4096
[ -f "$run/data/data.json" ] || "$python" prepare.py "$corpus" "$run/tokenizer" "$run/data"
"$python" train.py --data "$run/data" --tokenizer "$run/tokenizer" --out "$run" --workers "${WORKERS:-2}" --minutes "${MINUTES:-94}" --ar-share 0.42
"$python" export.py "$run/checkpoint.pt" "$run/tokenizer" "$run/hf"
"$python" evaluate.py "$run/checkpoint-ar.pt" "$run/data" "$run/tokenizer" > "$run/eval-ar.json"
"$python" evaluate.py "$run/checkpoint.pt" "$run/data" "$run/tokenizer" > "$run/eval.json"
"$python" golden.py "$run/checkpoint.pt" "$run/data" "$run/tokenizer" "$run/hf" "$root/models/tiny"
"$python" plot.py "$run/log.jsonl" "$here/loss.svg"
for block in 8 16; do "$python" sample.py "$run/checkpoint.pt" "$run/tokenizer" $block 0.9; done > "$run/samples.txt"
cat "$run/eval-ar.json" "$run/eval.json" "$run/samples.txt"
