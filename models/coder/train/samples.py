"""Look at what a checkpoint writes: python3 samples.py RUN_DIR DATA_DIR [BLOCK_LENGTH] [THRESHOLD] [TOKENS] [OUT_JSON]

Naive generation of models/tiny/train/sample.py (no cache), the averaged weights, temperature 0: the sample prompts of recipe.json
and gaps to fill. OUT_JSON gets the texts, for generate.ts to compare.
"""
import json
import os
import sys

import torch

from measure import from_checkpoint
from tiny import BLOCK_LENGTHS, EOT, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, ROOT, Tokenizer, generate

GAPS = (("function max(a, b) {\n", "\n}\n"), ("export function sum(values: number[]): number {\n  let total = 0;\n  for (const value of values) {\n", "\n  }\n  return total;\n}\n"),
        ("const names = users.filter((user) => user.active).", ";\n"))


def main():
    if not 3 <= len(sys.argv) <= 7:
        sys.exit("usage: samples.py RUN_DIR DATA_DIR [BLOCK_LENGTH] [THRESHOLD] [TOKENS] [OUT_JSON]")
    given = sys.argv[3:] + ["16", "0.9", "160", ""][len(sys.argv) - 3:]
    block, threshold, tokens = int(given[0]), float(given[1]), int(given[2])
    if block not in BLOCK_LENGTHS:
        sys.exit(f"BLOCK_LENGTH: got {block}, allowed are {', '.join(map(str, BLOCK_LENGTHS))}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    net, ck = from_checkpoint(os.path.join(sys.argv[1], "checkpoint.pt"), device=device)
    tok = Tokenizer(os.path.join(sys.argv[2], "tokenizer", "tokenizer.json"))
    with open(os.path.join(ROOT, "models", "coder", "recipe.json")) as f:
        prompts = json.load(f)["samplePrompts"]
    print(f"step {ck['step']}, stage {ck['stage']}, block {block}, threshold {threshold}")
    out = []
    for prefix, suffix in [*((p, None) for p in prompts), *GAPS]:
        enc = tok.encode
        before = [EOT] + enc(prefix) if suffix is None else [EOT, FIM_PREFIX, *enc(prefix), FIM_SUFFIX, *enc(suffix), FIM_MIDDLE]
        ids, passes, stopped = generate(net, before, block, threshold, tokens)
        print(f"{prefix}«{tok.decode(ids)}»{suffix or ''}  [{len(ids)} tokens, {passes} passes{', stopped' if stopped else ''}]\n-----")
        out.append({"prompt": prefix, **({} if suffix is None else {"suffix": suffix}), "text": tok.decode(ids), "tokens": len(ids)})
    if given[3]:
        with open(given[3], "w") as f:
            json.dump({"blockLength": block, "confidenceThreshold": threshold, "cases": out}, f, indent=1)


if __name__ == "__main__":
    main()
