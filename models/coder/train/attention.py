"""Who may look at whom, and three ways to compute it: plain products, fused attention with a mask, flex attention.

One stream of S = L positions (autoregressive: blocks of one token) or two, S = 2L, [noised ; clean] (BD3-LM):
  a clean position sees the clean positions of its own block and of earlier ones;
  a noised position sees the noised ones of its own block and the clean ones of EARLIER blocks.
Both only inside their piece. Shapes: q [N, H, S, E], k and v [N, G, S, E]; doc and block numbers [N, S].
"""
import math

import torch
import torch.nn.functional as F

try:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
except ImportError:                                                    # PyTorch before 2.5
    create_block_mask = flex_attention = None


def rule(doc, block, length, two):
    """see(n, head, q, k) -> bool, on numbers or index tensors. two: the streams are [noised ; clean]."""
    def one_stream(n, h, q, k):
        return (doc[n, q] == doc[n, k]) & (block[n, k] <= block[n, q])

    def two_streams(n, h, q, k):
        noisy_q, noisy_k = q < length, k < length
        own = noisy_k & (block[n, k] == block[n, q])
        earlier = (k >= length) & (block[n, k] < block[n, q])
        clean = (k >= length) & (block[n, k] <= block[n, q])
        return (doc[n, q] == doc[n, k]) & ((noisy_q & (own | earlier)) | ((q >= length) & clean))

    return two_streams if two else one_stream


def dense(doc, block, length, two):
    """The rule as a boolean mask [N, 1, S, S]."""
    n, s = doc.shape
    at = torch.arange(s, device=doc.device)
    number = torch.arange(n, device=doc.device).view(n, 1, 1)
    return rule(doc, block, length, two)(number, None, at.view(1, s, 1), at.view(1, 1, s))[:, None]


def plain(q, k, v, see):
    """Softmax of masked products in fp32; the reference that the others are held against."""
    n, h, s, e = q.shape
    r = h // k.shape[1]
    k, v = k.repeat_interleave(r, 1), v.repeat_interleave(r, 1)
    scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(e)
    return torch.softmax(scores.masked_fill(~see, -1e9), -1).to(v.dtype) @ v


def fused(q, k, v, see):
    r = q.shape[1] // k.shape[1]
    return F.scaled_dot_product_attention(q, k.repeat_interleave(r, 1), v.repeat_interleave(r, 1), attn_mask=see)


def flex(q, k, v, see):
    # contiguous: with views, compiled inside a layer, PyTorch 2.13's CPU kernel gave wrong numbers for grouped queries
    return flex_attention(q.contiguous(), k.contiguous(), v.contiguous(), block_mask=see, enable_gqa=True)


def path(name, device, compiled):
    """(prepare, attend) of a path: prepare(doc, block, length, two) -> see, once a batch; attend(q, k, v, see) in every layer.
    compiled: attend will be called inside torch.compile. Raises RuntimeError where this PyTorch lacks the path."""
    if name == "plain":
        return dense, plain
    if name == "sdpa":
        if not hasattr(F, "scaled_dot_product_attention"):
            raise RuntimeError("this PyTorch has no scaled_dot_product_attention (2.0 and later have)")
        return dense, fused
    if name != "flex":
        raise ValueError(f"attention path: got {name}, allowed are plain, sdpa, flex")
    if flex_attention is None:
        raise RuntimeError("this PyTorch has no flex attention (2.5 and later have)")
    on_gpu = device != "cpu"
    # uncompiled, both would materialise all S x S scores
    make = torch.compile(create_block_mask, dynamic=False) if on_gpu else create_block_mask
    attend = torch.compile(flex, dynamic=False) if on_gpu and not compiled else flex

    def prepare(doc, block, length, two):
        n, s = doc.shape
        return make(rule(doc, block, length, two), n, None, s, s, device=str(doc.device))

    return prepare, attend
