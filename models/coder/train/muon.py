"""Muon for the matrices, AdamW for embedding and norms, an average of the weights; all over flat tensors, no synchronisation."""
import torch

from net import MUON_KINDS

MOMENTUM, BETA1, BETA2, EPS = 0.95, 0.9, 0.95, 1e-8
COEFFICIENTS = (3.4445, -4.7750, 2.0315)                               # of the quintic iteration in Muon's paper


def orthogonalise(g, steps=5):
    """Newton-Schulz on a batch [B, rows, columns]: the same singular vectors, singular values near 1."""
    a, b, c = COEFFICIENTS
    x = g.bfloat16() if g.is_cuda else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.transpose(-2, -1) if tall else x
    for _ in range(steps):
        s = x @ x.transpose(-2, -1)
        x = torch.baddbmm(x, torch.baddbmm(s, s, s, beta=b, alpha=c), x, beta=a)
    return (x.transpose(-2, -1) if tall else x).to(g.dtype)


class Optimiser:
    """State: m [P] first moments or momentum, v [adam] second moments, ema [P]. Writer of the master weights."""

    def __init__(self, net, muon_lr=0.02, lr=2e-3, decay=0.05, clip=1.0, ema_decay=0.999):
        self.net, self.muon_lr, self.lr, self.decay, self.clip, self.ema_decay = net, muon_lr, lr, decay, clip, ema_decay
        self.m, self.v = torch.zeros_like(net.master), torch.zeros_like(net.master[:net.layout.adam])
        self.ema = net.master.clone()
        self.total = torch.zeros_like(net.master)                      # the step's gradient in fp32
        self.ema_steps = 0

    @torch.no_grad()
    def gather(self):
        """Add the gradients of a micro-batch and clear them."""
        self.total.add_(self.net.grad)
        self.net.grad.zero_()

    @torch.no_grad()
    def step(self, scale, number):
        """One update with the gathered gradient. scale: the schedule's factor; number: of the step, from 1.
        Returns the gradient's norm as a tensor; a step whose norm is not finite changes nothing but the decay."""
        g, lay, net = self.total, self.net.layout, self.net
        norm = g.norm()
        fine = torch.isfinite(norm)
        factor = torch.where(fine, (self.clip / (norm + 1e-6)).clamp(max=1.0), torch.zeros_like(norm))
        g = torch.where(fine, g * factor, torch.zeros_like(g))
        a = lay.adam
        self.m[:a].lerp_(g[:a], 1 - BETA1)
        self.v.mul_(BETA2).addcmul_(g[:a], g[:a], value=1 - BETA2)
        bias1, bias2 = 1 - BETA1 ** number, 1 - BETA2 ** number
        net.master[:a].addcdiv_(self.m[:a], (self.v / bias2).sqrt_().add_(EPS), value=-self.lr * scale / bias1)
        for kind in MUON_KINDS:
            grad, m, p = (lay.view(t, kind) for t in (g, self.m, net.master))
            m.lerp_(grad, 1 - MOMENTUM)
            update = grad.lerp(m, MOMENTUM)
            rows = net.shape.parts(kind) or [update.shape[1]]
            p.mul_(1 - self.muon_lr * scale * self.decay)
            for w, u in zip(p.split(rows, 1), update.split(rows, 1)):
                w.add_(orthogonalise(u), alpha=-self.muon_lr * scale * max(1, u.shape[1] / u.shape[2]) ** 0.5)
        self.ema_steps += 1
        self.ema.lerp_(net.master, 1 - min(self.ema_decay, (1 + self.ema_steps) / (10 + self.ema_steps)))
        self.total.zero_()
        net.load()
        return norm
