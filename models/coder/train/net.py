"""The model: Qwen3-shaped (pre-norm RMSNorm, QK-norm, grouped queries, RoPE, SwiGLU, tied embeddings, no biases).

Three flat tensors: `master` fp32, `work` its copy in the type that is computed with (bf16 on a GPU), `grad` in that type. In
them a kind of matrix lies side by side for all layers, [layers, rows, columns], so that the optimiser takes it in one batch; what
AdamW updates (embedding, norms) comes first. Names and fused matrices are those of models/tiny/train, whose export reads them.
"""
import math

import torch
import torch.nn.functional as F

from attention import path
from tiny import MASK, Shape, rope_tables

CODER = Shape(vocab=8192, d=512, layers=14, heads=8, kv_heads=4, head_dim=64, ffn=1536, length=2048)
TOY = Shape(vocab=8192, d=96, layers=2, heads=4, kv_heads=2, head_dim=32, ffn=256, length=256)
SHAPES = {"coder": CODER, "toy": TOY}
MUON_KINDS = ("qkv", "o", "gate_up", "down")
LAYER = ("norm1", "qkv", "q_norm", "k_norm", "o", "norm2", "gate_up", "down")


class Layout:
    """kinds: {kind: (offset, shape)}, with a leading axis of layers where there is one; adam: how many numbers AdamW owns."""

    def __init__(self, shape):
        table, sizes = shape.table(), {}
        for name, s in table:
            kind = name.split(".")[-1]
            sizes[kind] = (shape.layers, *s) if "." in name else s
        order = [k for k in sizes if k not in MUON_KINDS] + list(MUON_KINDS)
        self.shape, self.kinds, at = shape, {}, 0
        for kind in order:
            if kind == MUON_KINDS[0]:
                self.adam = at
            self.kinds[kind] = (at, sizes[kind])
            at += math.prod(sizes[kind])
        self.size = at

    def view(self, flat, kind):
        at, s = self.kinds[kind]
        return flat[at:at + math.prod(s)].view(s)

    def named(self, flat):
        """{models/tiny's tensor name: view of flat}."""
        out = {}
        for name, _ in self.shape.table():
            kind = name.split(".")[-1]
            w = self.view(flat, kind)
            out[name] = w[int(name.split(".")[0])] if "." in name else w
        return out


def rms(x, w, eps):
    y = x.float()
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * w


def rotate(x, cos, sin):
    """x [N, heads, S, E], cos and sin [S, E/2]."""
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


def make_layer(c, attend):
    """One layer as a function of its tensors: compiled once, it serves all layers."""
    def layer(x, norm1, qkv, q_norm, k_norm, o, norm2, gate_up, down, cos, sin, see, keep):
        n, s, _ = x.shape
        a = F.linear(rms(x, norm1, c.eps), qkv).view(n, s, c.heads + 2 * c.kv_heads, c.head_dim).transpose(1, 2)
        q, k, v = a.split([c.heads, c.kv_heads, c.kv_heads], 1)
        q, k = rotate(rms(q, q_norm, c.eps), cos, sin), rotate(rms(k, k_norm, c.eps), cos, sin)
        a = attend(q, k, v, see).transpose(1, 2).reshape(n, s, c.heads * c.head_dim)
        if keep < s:                                                   # nobody reads the clean copy of the last layer
            a, x = a[:, :keep], x[:, :keep]
        x = x + F.linear(a, o)
        gate, up = F.linear(rms(x, norm2, c.eps), gate_up).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, down)
    return layer


def make_head(c):
    def head(x, norm, embed, target, weight):
        """Weighted cross-entropy of each row, [N]."""
        logits = F.linear(rms(x, norm, c.eps), embed).float()
        ce = F.cross_entropy(logits.view(-1, c.vocab), target.reshape(-1), reduction="none")
        return (ce.view(target.shape) * weight).sum(1)
    return head


class Net:
    """Owner of the weights. `p` are views of `work` that gather gradients in `grad`."""

    def __init__(self, shape, device="cpu", dtype=torch.float32):
        self.shape, self.device, self.layout = shape, device, Layout(shape)
        self.master = torch.zeros(self.layout.size, device=device)
        self.work = torch.zeros(self.layout.size, device=device, dtype=dtype)
        self.grad = torch.zeros_like(self.work)
        grads = self.layout.named(self.grad)
        self.p = {n: w.detach().requires_grad_() for n, w in self.layout.named(self.work).items()}
        for n, w in self.p.items():
            w.grad = grads[n]
        cos, sin = rope_tables(shape.length, shape.head_dim, shape.theta, device)
        self.cos, self.sin = torch.cat([cos, cos]), torch.cat([sin, sin])      # the second stream has the same positions

    def init(self, seed):
        """Random weights: what feeds the residual stream starts small (depth-scaled)."""
        gen = torch.Generator().manual_seed(seed)
        for kind in self.layout.kinds:
            w, s = self.layout.view(self.master, kind), self.layout.kinds[kind][1]
            if "norm" in kind:
                w.fill_(1.0)
                continue
            std = 0.02 if kind == "embed" else 0.5 / math.sqrt(s[-1])
            std = std / math.sqrt(2 * self.shape.layers) if kind in ("o", "down") else std
            w.copy_(torch.randn(s, generator=gen) * std)
        return self.load()

    def load(self, source=None):
        """Compute with `source` (a flat tensor: the averaged weights, say), by default with the master weights."""
        self.work.copy_(self.master if source is None else source)
        return self

    @torch.no_grad()
    def logits(self, ids, block):
        """What inference computes: ids [N, L] under block-causal attention -> fp32 logits [N, L, V] where ids are."""
        where, ids = ids.device, ids.to(self.device)
        n, s = ids.shape
        prepare, attend = path("plain", self.device, False)
        at = torch.arange(s, device=self.device).expand(n, s)
        see, layer, p = prepare(torch.zeros_like(at), at // block, s, False), make_layer(self.shape, attend), self.p
        x = F.embedding(ids, p["embed"])
        for i in range(self.shape.layers):
            x = layer(x, *(p[f"{i}.{k}"] for k in LAYER), self.cos[:s], self.sin[:s], see, s)
        return F.linear(rms(x, p["norm"], self.shape.eps), p["embed"]).float().to(where)


class Runner:
    """The losses of a batch, computed on one attention path."""

    def __init__(self, net, attention, compiled):
        self.net, self.name = net, attention + ("+compile" if compiled else "")
        self.prepare, attend = path(attention, net.device, compiled)
        self.layer, self.head = make_layer(net.shape, attend), make_head(net.shape)
        if compiled:
            if not hasattr(torch, "compile"):
                raise RuntimeError("this PyTorch has no torch.compile (2.0 and later have)")
            self.layer, self.head = torch.compile(self.layer, dynamic=False), torch.compile(self.head, dynamic=False)

    def rows(self, b):
        """b: a batch on the device (see `to_device`). Returns the weighted loss of each row, [N]; their sum is the batch's loss."""
        net, c, p = self.net, self.net.shape, self.net.p
        s, length = b["tokens"].shape[1], b["target"].shape[1]
        see = self.prepare(b["doc"], b["block"], length, s > length)
        cos, sin = (net.cos[:s], net.sin[:s]) if s <= c.length or length == c.length else (
            torch.cat([t[:length]] * 2) for t in (net.cos, net.sin))
        x = F.embedding(b["tokens"], p["embed"])
        for i in range(c.layers):
            x = self.layer(x, *(p[f"{i}.{k}"] for k in LAYER), cos, sin, see, length if i + 1 == c.layers else s)
        return self.head(x, p["norm"], p["embed"], b["target"], b["weight"])


def to_device(batch, device, rows=slice(None)):
    """A batch of feed.py (or some of its rows) as tensors: tokens, doc, block [N, S], target, weight [N, L]."""
    def put(a, dtype):
        t = torch.from_numpy(a[rows].astype("int32") if a.dtype == "uint16" else a[rows])      # uint16 is no type of old PyTorch
        if device != "cpu":
            t = t.pin_memory()                                         # a copy from other memory waits for all that the GPU has to do
        return t.to(device, non_blocking=True).to(dtype)

    ids, doc = put(batch["ids"], torch.long), put(batch["doc"], torch.int32)
    n, length = ids.shape
    blocks = torch.arange(length, device=device, dtype=torch.int32) // put(batch["block"], torch.int32)[:, None]
    tokens = ids
    if batch["hide"] is not None:
        tokens = torch.cat([ids.masked_fill(put(batch["hide"], torch.bool), MASK), ids], 1)
        doc, blocks = torch.cat([doc, doc], 1), torch.cat([blocks, blocks], 1)
    return {"tokens": tokens, "doc": doc.contiguous(), "block": blocks.contiguous(), "target": put(batch["target"], torch.long),
            "weight": put(batch["weight"], torch.float32)}
