"""The block-diffusion bound without any draw: over all places of masks of every block, so for short blocks only.

  python3 exact.py CHECKPOINT TOKENIZER_DIR HELDOUT_JSON [DOCUMENTS] [BLOCK]

Weights are rounded to bf16, as published. tests/eval/bits_test.ts holds the engine to this figure.
"""
import json
import math
import os
import sys

import torch
import torch.nn.functional as F

from data import opening
from evaluate import batches
from model import EOT, MASK, from_checkpoint
from tokenizer import Tokenizer


@torch.no_grad()
def bound(model, docs, block):
    """(bits per byte, bytes). A block with m maskable positions costs the mean over n of (m / n) x (mean over its subsets of size n)."""
    nats = size = 0
    for ids, real, nbytes in batches(docs):
        size += nbytes
        free = ~opening(ids, real).view(-1, block)
        live, room = real.view(-1, block).any(-1), free.sum(-1)
        for subset in range(1, 2 ** block):
            chosen = torch.tensor([bool(subset >> i & 1) for i in range(block)])
            fits = live & (free | ~chosen).all(-1)
            n = int(chosen.sum())
            weight = torch.tensor([1 / (n * math.comb(int(m), n)) if ok else 0.0 for m, ok in zip(room, fits)])
            hide = (chosen & fits[:, None]).view(ids.shape)
            x = model.noisy_hidden(ids.masked_fill(hide, MASK), ids, block, hide)
            ce = F.cross_entropy(model.head(x).float(), ids[hide], reduction="none")
            nats += float((ce * weight.repeat_interleave(block).view(ids.shape)[hide]).sum())
    return nats / math.log(2) / size, size


def main():
    if not 4 <= len(sys.argv) <= 6:
        sys.exit("usage: exact.py CHECKPOINT TOKENIZER_DIR HELDOUT_JSON [DOCUMENTS] [BLOCK]")
    torch.set_num_threads(1)
    model, _ = from_checkpoint(sys.argv[1])
    model.flat.data.copy_(model.flat.data.bfloat16().float())
    tok = Tokenizer(os.path.join(sys.argv[2], "tokenizer.json"))
    with open(sys.argv[3], encoding="utf-8") as f:
        texts = [d["text"] for d in json.load(f)["documents"]][:int(sys.argv[4]) if len(sys.argv) > 4 else None]
    docs = [([EOT] + tok.encode(text) + [EOT], len(text.encode()), None) for text in texts]
    block = int(sys.argv[5]) if len(sys.argv) > 5 else 4
    bits, size = bound(model, docs, block)
    print(f"{len(docs)} documents, {size} bytes, block {block}: {bits:.6f} bits per byte")


if __name__ == "__main__":
    main()
