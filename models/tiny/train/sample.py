"""Naive generation, to look at: no cache, block by block, greedy, confidence threshold.

  python3 sample.py CHECKPOINT TOKENIZER_DIR [BLOCK_LENGTH] [THRESHOLD] [PROMPT ...]

The prompt may end inside a block: its tokens are the given positions of that block, the rest starts masked. In
each pass every masked position whose best token reaches the threshold is accepted, and always the best one.
"""
import os
import sys

import torch

from model import BLOCK_LENGTHS, EOT, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, MASK, PAD, from_checkpoint
from tokenizer import Tokenizer

PROMPTS = (
    "function isString(",
    "/**\n * Returns the sum of two numbers.\n */\nfunction add(a, b) {\n",
    "export function clamp(value: number, min: number, max: number) {",
    "/**\n * Checks if the array is empty.\n */\nexport function isEmpty(",
    "function capitalize(str) {\n",
)


@torch.no_grad()
def generate(model, prompt, block, threshold=0.9, new_tokens=160):
    """Continue `prompt` (ids). Returns (new ids without the end, passes, stopped): stopped means <|endoftext|> came."""
    ids, passes = list(prompt), 0
    while len(ids) < min(model.shape.length, len(prompt) + new_tokens):
        start = len(ids) // block * block
        row = torch.tensor([ids + [MASK] * (start + block - len(ids))])
        while True:
            masked = row[0, start:] == MASK
            if not masked.any():
                break
            logits = model.logits(row, block)[0, start:]
            logits[:, [MASK, PAD]] = -1e9                              # never an answer
            confidence, token = logits.softmax(-1).max(-1)
            confidence[~masked] = -1
            accept = confidence >= threshold
            accept[confidence.argmax()] = True
            row[0, start:][accept] = token[accept]
            passes += 1
        fresh = row[0, len(ids):].tolist()
        if EOT in fresh:
            return ids[len(prompt):] + fresh[:fresh.index(EOT)], passes, True
        ids += fresh
    return ids[len(prompt):], passes, False


def main():
    if len(sys.argv) < 3:
        sys.exit("usage: sample.py CHECKPOINT TOKENIZER_DIR [BLOCK_LENGTH] [THRESHOLD] [PROMPT ...]")
    torch.set_num_threads(1)
    model, _ = from_checkpoint(sys.argv[1])
    tok = Tokenizer(os.path.join(sys.argv[2], "tokenizer.json"))
    block = int(sys.argv[3]) if len(sys.argv) > 3 else 16
    if block not in BLOCK_LENGTHS:
        sys.exit(f"BLOCK_LENGTH: got {block}, allowed are {', '.join(map(str, BLOCK_LENGTHS))}")
    threshold = float(sys.argv[4]) if len(sys.argv) > 4 else 0.9
    prompts = sys.argv[5:] or PROMPTS
    for prompt in prompts:
        ids, passes, stopped = generate(model, [EOT] + tok.encode(prompt), block, threshold)
        print(f"{prompt}«{tok.decode(ids)}»  [{len(ids)} tokens, {passes} passes{', stopped' if stopped else ''}]\n-----")
    if not sys.argv[5:]:
        fim = [EOT, FIM_PREFIX] + tok.encode("function max(a, b) {\n") + [FIM_SUFFIX] + tok.encode("\n}") + [FIM_MIDDLE]
        ids, passes, _ = generate(model, fim, block, threshold, 64)
        print(f"infill: function max(a, b) {{\n«{tok.decode(ids)}»\n}}  [{len(ids)} tokens, {passes} passes]")


if __name__ == "__main__":
    main()
