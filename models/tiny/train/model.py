"""The model: a Qwen3-shaped transformer with three ways to look at a sequence.

Pre-norm RMSNorm, RMSNorm on the queries and keys of each head, grouped-query attention, half-split
RoPE, SwiGLU, tied embeddings, no biases. All weights live in ONE flat fp32 tensor, so that worker
processes share them, the optimiser walks them and a checkpoint is one copy; `q`, `k`, `v` (and
`gate`, `up`) lie side by side in it, so that the fused product needs no second copy.

Shapes in the comments: N rows, L positions, D hidden size, H query heads, G key/value heads,
E head size, F intermediate size, V vocabulary, B block length.
"""
import math
from dataclasses import dataclass, asdict

import torch
import torch.nn.functional as F

EOT, PAD, MASK, FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE = 0, 1, 2, 5, 6, 7
BLOCK_LENGTHS = (4, 8, 16, 32)
HAS_SDPA = hasattr(F, "scaled_dot_product_attention")


@dataclass
class Shape:
    """The numbers that fix every tensor."""
    vocab: int = 4096
    d: int = 192
    layers: int = 6
    heads: int = 6
    kv_heads: int = 3
    head_dim: int = 32
    ffn: int = 512
    length: int = 512
    eps: float = 1e-6
    theta: float = 10000.0

    def table(self):
        """[(name, shape)] of the fused tensors in the order they lie in the flat tensor."""
        qkv, out = (self.heads + 2 * self.kv_heads) * self.head_dim, [("embed", (self.vocab, self.d))]
        for i in range(self.layers):
            out += [(f"{i}.norm1", (self.d,)), (f"{i}.qkv", (qkv, self.d)), (f"{i}.q_norm", (self.head_dim,)),
                    (f"{i}.k_norm", (self.head_dim,)), (f"{i}.o", (self.d, self.heads * self.head_dim)),
                    (f"{i}.norm2", (self.d,)), (f"{i}.gate_up", (2 * self.ffn, self.d)), (f"{i}.down", (self.d, self.ffn))]
        return out + [("norm", (self.d,))]

    def size(self):
        return sum(math.prod(s) for _, s in self.table())

    def parts(self, name):
        """Row counts of the matrices fused in `name`: Muon treats each one by itself."""
        kind = name.split(".")[-1]
        if kind == "qkv":
            return [self.heads * self.head_dim] + [self.kv_heads * self.head_dim] * 2
        return [self.ffn] * 2 if kind == "gate_up" else None


class RMSNorm(torch.autograd.Function):
    """y = x / rms(x) * w over the last axis, with a backward of few passes."""
    @staticmethod
    def forward(ctx, x, w, eps):
        r = torch.rsqrt(x.square().mean(-1, keepdim=True).add_(eps))
        xn = x * r
        ctx.save_for_backward(xn, r, w)
        return xn * w

    @staticmethod
    def backward(ctx, dy):
        xn, r, w = ctx.saved_tensors
        t = dy * xn
        dw = t.reshape(-1, t.shape[-1]).sum(0)
        inner = (t @ w).unsqueeze(-1).div_(w.shape[0])                 # mean of (dy * w) * xn
        return (dy * w).addcmul_(xn, inner, value=-1).mul_(r), dw, None


class SwiGLU(torch.autograd.Function):
    """silu(gate) * up, where gate and up are the halves of the last axis; silu is recomputed in backward."""
    @staticmethod
    def forward(ctx, gu):
        g, u = gu.chunk(2, -1)
        ctx.save_for_backward(gu)
        return F.silu(g).mul_(u)

    @staticmethod
    def backward(ctx, dy):
        gu, = ctx.saved_tensors
        g, u = gu.chunk(2, -1)
        out = torch.empty_like(gu)
        dg, du = out.chunk(2, -1)
        torch.mul(dy, F.silu(g), out=du)
        dg.copy_(torch.ops.aten.silu_backward(dy * u, g))
        return out


def rope_tables(length, dim, theta, device=None):
    """cos and sin, each [length, dim / 2]."""
    inv = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    a = torch.outer(torch.arange(length, dtype=torch.float64), inv)
    return a.cos().float().to(device), a.sin().float().to(device)


class Rotate(torch.autograd.Function):
    """Half-split RoPE on [N, L, heads, E] with tables [L, 1, E/2]; its backward turns the other way."""
    @staticmethod
    def turn(x, cos, sin):
        a, b = x.chunk(2, -1)
        out = torch.empty_like(x)
        p, q = out.chunk(2, -1)
        torch.mul(a, cos, out=p).addcmul_(b, sin, value=-1)
        torch.mul(b, cos, out=q).addcmul_(a, sin)
        return out

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return Rotate.turn(x, cos, sin)

    @staticmethod
    def backward(ctx, dy):
        cos, sin = ctx.saved_tensors
        return Rotate.turn(dy.contiguous(), cos, -sin), None, None


def masks(length, block, device=None):
    """Boolean masks (True = may look): block-causal [L, L] and noisy [L, 2L].

    Noisy queries see the CLEAN copies of earlier blocks (first L keys) and their own noisy block (last L keys).
    """
    b = torch.arange(length, device=device) // block
    causal = b[:, None] >= b[None, :]
    return causal, torch.cat([b[:, None] > b[None, :], b[:, None] == b[None, :]], 1)


class Model:
    """Views of one flat tensor, and the passes over them. Not an nn.Module: there is nothing to register."""

    def __init__(self, shape, flat=None, grad=None, device="cpu"):
        """flat: fp32 [shape.size()], shared by the caller or made here; grad: the same size, gradients accumulate in it."""
        self.shape, self.device = shape, device
        self.flat = torch.zeros(shape.size(), device=device) if flat is None else flat
        self.p, at = {}, 0
        for name, s in shape.table():
            n = math.prod(s)
            w = self.flat[at:at + n].view(s)
            if grad is not None:
                w = w.detach().requires_grad_()
                w.grad = grad[at:at + n].view(s)
            self.p[name] = w
            at += n
        cos, sin = rope_tables(shape.length, shape.head_dim, shape.theta, device)
        self.cos, self.sin = cos[:, None], sin[:, None]                # [L, 1, E/2]
        self.kept = {}                                                 # additive masks by (kind, L, B); written here only

    def init(self, seed):
        """Random weights: what feeds the residual stream starts small (depth-scaled)."""
        gen, c = torch.Generator().manual_seed(seed), self.shape
        for name, w in self.p.items():
            kind = name.split(".")[-1]
            with torch.no_grad():
                if w.dim() == 1:
                    w.fill_(1.0)
                else:
                    std = 0.02 if kind == "embed" else 0.5 / math.sqrt(w.shape[1])
                    std = std / math.sqrt(2 * c.layers) if kind in ("o", "down") else std
                    w.copy_(torch.randn(w.shape, generator=gen) * std)
        return self

    def bias(self, kind, length, block=0):
        """The additive mask [Lq, Lk] of 'causal', 'block' or 'noisy', made once per size."""
        key = (kind, length, block)
        if key not in self.kept:
            see = torch.ones(length, length).tril().bool() if kind == "causal" else masks(length, block)[kind == "noisy"]
            self.kept[key] = torch.zeros(see.shape).masked_fill(~see, -1e9).to(self.device)
        return self.kept[key]

    def qkv(self, i, x, positions):
        """x [N, L, D] -> q [N, L, H, E], k [N, L, G, E], v [N, L, G, E], rotated to `positions` (slice)."""
        c, p = self.shape, self.p
        n, l, _ = x.shape
        h = RMSNorm.apply(x, p[f"{i}.norm1"], c.eps)
        a = F.linear(h, p[f"{i}.qkv"]).view(n, l, c.heads + 2 * c.kv_heads, c.head_dim)
        q, k, v = a.split([c.heads, c.kv_heads, c.kv_heads], 2)
        cos, sin = self.cos[positions], self.sin[positions]
        q = Rotate.apply(RMSNorm.apply(q.float(), p[f"{i}.q_norm"], c.eps), cos, sin)
        k = Rotate.apply(RMSNorm.apply(k.float(), p[f"{i}.k_norm"], c.eps), cos, sin)
        return q.to(v.dtype), k.to(v.dtype), v

    def attend(self, q, k, v, bias):
        """q [N, Lq, H, E], k and v [N, Lk, G, E], bias [Lq, Lk] -> [N, Lq, H * E]. Query heads of a group share one product."""
        n, lq, h, e = q.shape
        lk, g = k.shape[1], k.shape[2]
        r = h // g
        if HAS_SDPA and q.is_cuda:
            k, v = (t.repeat_interleave(r, 2).transpose(1, 2) for t in (k, v))
            a = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=bias.to(q.dtype))
            return a.transpose(1, 2).reshape(n, lq, h * e)
        q = q.view(n, lq, g, r, e).permute(0, 2, 3, 1, 4).reshape(n * g, r * lq, e)
        k = k.permute(0, 2, 3, 1).reshape(n * g, e, lk)
        v = v.transpose(1, 2).reshape(n * g, lk, e)
        s = torch.baddbmm(bias.repeat(r, 1).expand(n * g, -1, -1), q, k, alpha=1 / math.sqrt(e))
        a = torch.bmm(torch.softmax(s, -1), v)
        return a.view(n, g, r, lq, e).permute(0, 3, 1, 2, 4).reshape(n, lq, h * e)

    def finish(self, i, x, a):
        """Attention output a [..., H * E] and residual x [..., D] -> the layer's output [..., D]."""
        p = self.p
        x = x + F.linear(a, p[f"{i}.o"])
        h = RMSNorm.apply(x, p[f"{i}.norm2"], self.shape.eps)
        return x + F.linear(SwiGLU.apply(F.linear(h, p[f"{i}.gate_up"])), p[f"{i}.down"])

    def head(self, x):
        """Hidden states [..., D] -> logits [..., V]."""
        return F.linear(RMSNorm.apply(x.float(), self.p["norm"], self.shape.eps), self.p["embed"])

    def hidden(self, ids, bias, keep=None):
        """One stream: ids [N, L] under an additive mask [L, L] -> hidden [N, L, D], or [n, D] at the True places of keep [N, L]."""
        x, c = F.embedding(ids, self.p["embed"]), self.shape
        where = slice(0, ids.shape[1])
        for i in range(c.layers):
            q, k, v = self.qkv(i, x, where)
            a = self.attend(q, k, v, bias)
            if keep is not None and i + 1 == c.layers:                 # nobody reads the other rows of the last layer
                a, x = a[keep], x[keep]
            x = self.finish(i, x, a)
        return x

    def noisy_hidden(self, noisy, clean, block, keep):
        """BD3-LM's vectorised pass: noisy and clean [N, L] -> hidden [n, D] of the noisy copy at the True places of keep [N, L]."""
        c, n, l = self.shape, noisy.shape[0], noisy.shape[1]
        see_clean, see_noisy = self.bias("block", l, block), self.bias("noisy", l, block)
        x = F.embedding(torch.cat([noisy, clean]), self.p["embed"])    # [2N, L, D]: noisy rows first
        for i in range(c.layers):
            q, k, v = self.qkv(i, x, slice(0, l))
            at = self.attend(q[:n], torch.cat([k[n:], k[:n]], 1), torch.cat([v[n:], v[:n]], 1), see_noisy)
            if i + 1 == c.layers:                                      # the clean copy ends here: only its keys were needed
                return self.finish(i, x[:n][keep], at[keep])
            x = self.finish(i, x, torch.cat([at, self.attend(q[n:], k[n:], v[n:], see_clean)]))

    def logits(self, ids, block):
        """What inference computes: ids [N, L] (masks where undecided), block-causal attention -> logits [N, L, V]."""
        return self.head(self.hidden(ids, self.bias("block", ids.shape[1], block)))


def from_checkpoint(path, device="cpu"):
    """A model with the weights of a checkpoint written by train.py, rounded to bf16 as they are published, so that every
    figure, sample and golden value speaks of the exported weights. Returns (model, checkpoint)."""
    ck = torch.load(path, map_location="cpu")
    return Model(Shape(**ck["shape"]), flat=ck["flat"].bfloat16().float().to(device), device=device), ck


def shape_dict(shape):
    return asdict(shape)
