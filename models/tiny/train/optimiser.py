"""Muon for the matrices and AdamW for embeddings and norms, over one flat tensor, sharded by tensor among workers.

Each worker owns some of the tensors: it alone sums their gradients, updates them and their state.
"""
import math

import torch

MOMENTUM, BETA1, BETA2, EPS = 0.95, 0.9, 0.95, 1e-8


def orthogonalise(g, steps=5):
    """Newton-Schulz iteration: a matrix with the singular vectors of g and singular values near 1."""
    a, b, c = 3.4445, -4.7750, 2.0315                                  # the quintic's coefficients from Muon's paper
    x = g / (g.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.t() if tall else x
    for _ in range(steps):
        s = x @ x.t()
        x = torch.addmm(x, torch.addmm(s, s, s, beta=b, alpha=c), x, beta=a)
    return x.t() if tall else x


class Optimiser:
    """State lives in flat tensors [P] shared by all workers: `m` (momentum, or Adam's first moment) and `v` (second moment)."""

    def __init__(self, shape, flat, grads, m, v, rank, workers, muon_lr, lr, decay):
        self.shape, self.muon_lr, self.lr, self.decay = shape, muon_lr, lr, decay
        items, at = [], 0
        for name, s in shape.table():
            n = math.prod(s)
            muon = len(s) == 2 and name != "embed"
            cost = n * (6 if muon else 1)
            items.append((cost, name, slice(at, at + n), s, muon))
            at += n
        load, mine = [0] * workers, []
        for item in sorted(items, key=lambda t: (-t[0], t[1])):        # greedy: the dearest tensor to the least loaded worker
            r = load.index(min(load))
            load[r] += item[0]
            if r == rank:
                mine.append(item)
        self.mine = [(name, where, s, muon) for _, name, where, s, muon in mine]
        self.flat, self.grads, self.m, self.v = flat, grads, m, v

    @torch.no_grad()
    def reduce(self, count):
        """Mean gradient of the tensors owned here, left in the first buffer. Returns its squared norm."""
        total = 0.0
        for _, where, _, _ in self.mine:
            g = self.grads[0][where]
            for other in self.grads[1:]:
                g.add_(other[where])
            g.div_(count)
            total += float(g.dot(g))
        return total

    @torch.no_grad()
    def step(self, scale, clip, step):
        """Update what is owned here. scale: the schedule's factor in 0..1; clip: factor on the gradient; step from 1."""
        for name, where, s, muon in self.mine:
            g, p, m = self.grads[0][where].mul_(clip), self.flat[where], self.m[where]
            if muon:
                m.lerp_(g, 1 - MOMENTUM)
                update, rows = g.lerp(m, MOMENTUM).view(s), self.shape.parts(name) or [s[0]]
                p.mul_(1 - self.muon_lr * scale * self.decay)
                for w, u in zip(p.view(s).split(rows), update.split(rows)):
                    w.add_(orthogonalise(u), alpha=-self.muon_lr * scale * max(1, u.shape[0] / u.shape[1]) ** 0.5)
            else:
                v = self.v[where]
                m.lerp_(g, 1 - BETA1)
                v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
                bias1, bias2 = 1 - BETA1 ** step, 1 - BETA2 ** step
                p.addcdiv_(m, (v / bias2).sqrt_().add_(EPS), value=-self.lr * scale / bias1)
            for buffer in self.grads:
                buffer[where].zero_()
