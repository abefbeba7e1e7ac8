"""Held-out bits per byte: exact for the autoregressive phase, the ELBO estimate for block diffusion.

  python3 evaluate.py CHECKPOINT DATA_DIR TOKENIZER_DIR [DOCUMENTS] [DRAWS]

A document is scored alone, after <|endoftext|>, its own end included; bytes are those of its UTF-8 text. The
block-diffusion figure is an upper bound in expectation: per block, (maskable positions) x (mean cross-entropy of the masked
ones), n ~ U{1..m}. It pays for the end tokens that fill the last block too. Masks come from a fixed seed.
"""
import json
import math
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F

from data import draw_masks, opening, pad, up
from model import BLOCK_LENGTHS, EOT, MASK, from_checkpoint


def load(path, tok, limit=None):
    """[(ids, bytes, group)] of the held-out file, evenly spread when limited."""
    with open(path, encoding="utf-8") as f:
        docs = [json.loads(line) for line in f]
    if limit and limit < len(docs):
        docs = [docs[i] for i in np.linspace(0, len(docs) - 1, limit).astype(int)]
    return [([EOT] + tok.encode(d["text"]) + [EOT], len(d["text"].encode()), d["group"]) for d in docs]


def batches(docs, tokens=2048):
    """(ids [N, L], real [N, L], bytes) of documents of like length."""
    groups = {}
    for ids, size, _ in docs:
        groups.setdefault(up(len(ids)), []).append((ids, size))
    for length, rows in sorted(groups.items()):
        n = max(1, tokens // length)
        for i in range(0, len(rows), n):
            part = rows[i:i + n]
            real = [[False] + [True] * (len(r) - 1) + [False] * (length - len(r)) for r, _ in part]
            yield torch.tensor([pad(r, length) for r, _ in part]), torch.tensor(real), sum(s for _, s in part)


@torch.no_grad()
def bits(model, docs, block=0, draws=1, seed=7):
    """(bits per byte, nats per real token); block 0 is the exact autoregressive figure."""
    nats = size = count = 0
    rng = np.random.default_rng(seed)
    for ids, real, nbytes in batches(docs):
        size, count = size + nbytes, count + int(real.sum())
        ids, real = ids.to(model.device), real.to(model.device)
        if not block:
            keep = torch.zeros_like(real)
            keep[:, :-1] = real[:, 1:]
            logits = model.head(model.hidden(ids, model.bias("causal", ids.shape[1]), keep))
            nats += float(F.cross_entropy(logits.float(), ids[real], reduction="sum"))
            continue
        starts = opening(ids, real)
        room = (~starts).view(-1, block).sum(-1).repeat_interleave(block).view(ids.shape)
        for _ in range(draws):
            hide, weight, _ = (t.to(ids.device) if torch.is_tensor(t) else t for t in draw_masks(real.cpu(), starts.cpu(), block, rng))
            x = model.noisy_hidden(ids.masked_fill(hide, MASK), ids, block, hide)
            ce = F.cross_entropy(model.head(x).float(), ids[hide], reduction="none")
            nats += float((ce * weight[hide] * room[hide]).sum()) / draws
    return nats / math.log(2) / size, nats / count


def main():
    from tokenizer import Tokenizer
    if not 4 <= len(sys.argv) <= 6:
        sys.exit("usage: evaluate.py CHECKPOINT DATA_DIR TOKENIZER_DIR [DOCUMENTS] [DRAWS]")
    torch.set_num_threads(1)
    model, ck = from_checkpoint(sys.argv[1])
    tok = Tokenizer(os.path.join(sys.argv[3], "tokenizer.json"))
    docs = load(os.path.join(sys.argv[2], "val.jsonl"), tok, int(sys.argv[4]) if len(sys.argv) > 4 else None)
    draws = int(sys.argv[5]) if len(sys.argv) > 5 else 4
    out = {"step": ck["step"], "phase": ck["phase"], "documents": len(docs), "bytes": sum(d[1] for d in docs), "draws": draws}
    for group in ("util", "docfunc", None):
        part = [d for d in docs if group in (None, d[2])]
        row = {"autoregressive": [round(x, 4) for x in bits(model, part)]} if ck["phase"] == "ar" else {}
        if ck["phase"] == "bd":
            row = {f"block {b}": [round(x, 4) for x in bits(model, part, b, draws)] for b in BLOCK_LENGTHS}
        out[group or "all"] = row
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
