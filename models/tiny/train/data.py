"""Micro-batches from train.jsonl: rows of one function each, and some rows packed with several.

A sample is <|endoftext|> + tokens + <|endoftext|>, then more <|endoftext|> up to a multiple of 32, so that
every function starts on the block grid of every block length, as it does at inference. Which micro-batch comes
is a pure function of (seed, step, micro index): a resumed run continues with exactly the data it would have seen.
"""
import json
import math

import numpy as np
import torch

from model import EOT, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX

GRID = 32
MARGIN = 10                     # room for the two ends, three infilling markers and the tokens a cut may add
PACKED = ((256, 0.10), (512, 0.06))     # row length and share of the micro-batches that are packed rows


def pad(ids, length):
    return ids + [EOT] * (length - len(ids))


def up(n):
    return -(-n // GRID) * GRID


class Data:
    """Owned by one worker process; batch() is its only entry."""

    def __init__(self, path, tok, seed, fim=0.22, cut=0.4):
        """fim: share of samples rearranged for infilling; cut: share of the rest tokenised in two pieces, as a prompt and its continuation are."""
        self.tok, self.seed, self.fim, self.cut = tok, seed, fim, cut
        groups = {}
        with open(path, encoding="utf-8") as f:
            for line in f:
                r = json.loads(line)
                groups.setdefault(up(r["n"] + MARGIN), []).append((r["text"], r["w"]))
        self.lengths = sorted(groups)
        self.texts = {l: [t for t, _ in groups[l]] for l in self.lengths}
        self.sums = {l: np.cumsum([w for _, w in groups[l]]) for l in self.lengths}
        mass = np.array([self.sums[l][-1] * l for l in self.lengths])
        self.mass = mass / mass.sum()
        rows = np.array([self.sums[l][-1] for l in self.lengths])
        self.rows = rows / rows.sum()

    def pick(self, rng, length):
        s = self.sums[length]
        return self.texts[length][min(int(np.searchsorted(s, rng.random() * s[-1], side="right")), len(s) - 1)]

    def split_point(self, rng, text):
        """Where a user might stop typing: mostly after a bracket, space or line end, often in the first code line."""
        at = 1 + int(rng.integers(len(text) - 1))
        if rng.random() < 0.5 and "*/\n" in text:
            start = text.index("*/\n") + 3
            end = text.find("\n", start)
            at = start + int(rng.integers(1 + max(1, (end if end > 0 else len(text)) - start)))
        if rng.random() < 0.8:
            while at < len(text) and text[at - 1] not in "({[ \n,=:.":
                at += 1
        return min(at, len(text))

    def sample(self, rng, text):
        """Ids of one sample, both ends included."""
        enc = self.tok.encode
        if rng.random() < 0.15:                                        # the same function, exported or not
            if "\nexport function" in "\n" + text:
                text = ("\n" + text).replace("\nexport function", "\nfunction", 1)[1:]
            elif "\nfunction" in "\n" + text:
                text = ("\n" + text).replace("\nfunction", "\nexport function", 1)[1:]
        u = rng.random()
        if u < self.fim:
            lines = [i for i, ch in enumerate(text) if ch == "\n"]
            if rng.random() < 0.5 and len(lines) >= 3:                 # whole lines
                i = int(rng.integers(len(lines) - 1))
                j = min(len(lines) - 1, i + int(rng.geometric(0.4)))
                a, b = lines[i], lines[j]
            else:                                                      # any span of characters
                a, b = sorted(int(x) for x in rng.integers(0, len(text) + 1, 2))
            return [EOT, FIM_PREFIX] + enc(text[:a]) + [FIM_SUFFIX] + enc(text[b:]) + [FIM_MIDDLE] + enc(text[a:b]) + [EOT]
        if u < self.fim + (1 - self.fim) * self.cut:
            at = self.split_point(rng, text)
            return [EOT] + enc(text[:at]) + enc(text[at:]) + [EOT]
        return [EOT] + enc(text) + [EOT]

    def row(self, rng, length):
        """One function in a row of `length`: (ids, real) where real marks the tokens to learn."""
        ids = self.sample(rng, self.pick(rng, length))[:length]
        return pad(ids, length), [False] + [True] * (len(ids) - 1) + [False] * (length - len(ids))

    def packed(self, rng, length):
        ids, real = [], []
        while len(ids) < length:
            s = self.sample(rng, self.pick(rng, int(rng.choice(self.lengths, p=self.rows))))
            n = up(len(s))
            ids += pad(s, n)
            real += [False] + [True] * (len(s) - 1) + [False] * (n - len(s))
        return ids[:length], real[:length]

    def batch(self, step, micro, tokens):
        """ids and real, both [N, L] with N * L near `tokens`, and the random generator to draw masks from."""
        rng = np.random.default_rng((self.seed, step, micro))
        u, length, make = rng.random(), 0, self.row
        for l, share in PACKED:
            if not length and u < share:
                length, make = l, self.packed
            u -= share
        if not length:
            length = int(rng.choice(self.lengths, p=self.mass))
        rows = [make(rng, length) for _ in range(max(1, round(tokens / length)))]
        return torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows]), rng


def draw_masks(real, starts, block, rng):
    """Which positions of the noisy copy are masked, and the weight of each masked one. All [N, L].

    Every block with something to learn gets n ~ U{1..m} masks among its m maskable positions (all but a
    sample's opening <|endoftext|>), n stratified over the micro-batch, and weight 1/n: the block's loss is the mean
    cross-entropy over its masked tokens, an unbiased estimate of the NELBO per token without 1/t weights.
    real: what must be learnt; starts: opening tokens; the fill after a sample's end counts only inside its last block.
    """
    n, l = real.shape
    live = real.view(-1, block).any(-1)                                # [blocks]
    free = ~starts.view(-1, block)                                     # [blocks, B]
    blocks = live.shape[0]
    u = torch.from_numpy((rng.permutation(blocks) + rng.random(blocks)) / blocks)
    room = free.sum(-1)
    count = torch.minimum((u * room).long() + 1, room)
    score = torch.from_numpy(rng.random((blocks, block))).masked_fill(~free, 2.0)
    hide = (score.argsort(1).argsort(1) < count[:, None]) & live[:, None]
    weight = hide / count[:, None].clamp(min=1)
    return hide.view(n, l), weight.float().view(n, l), int(live.sum())


def opening(ids, real):
    """Positions of the samples' opening <|endoftext|>: not real, and the next token is. [N, L]"""
    out = torch.zeros_like(real)
    out[:, :-1] = ~real[:, :-1] & real[:, 1:]
    return out & (ids == EOT)
