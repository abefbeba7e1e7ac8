"""The two training losses of one micro-batch."""
import torch
import torch.nn.functional as F

from data import draw_masks, opening
from model import MASK


def ar_loss(model, ids, real):
    """Mean next-token cross-entropy over the real targets. ids, real [N, L]."""
    keep = torch.zeros_like(real)
    keep[:, :-1] = real[:, 1:]
    logits = model.head(model.hidden(ids, model.bias("causal", ids.shape[1]), keep))
    return F.cross_entropy(logits.float(), ids[real])                  # row-major order pairs keep with real


def bd_loss(model, ids, real, block, rng):
    """Block-diffusion loss: mean over live blocks of the mean cross-entropy of their masked tokens."""
    hide, weight, live = draw_masks(real.cpu(), opening(ids, real).cpu(), block, rng)
    hide, weight = hide.to(ids.device), weight.to(ids.device)
    x = model.noisy_hidden(ids.masked_fill(hide, MASK), ids, block, hide)
    ce = F.cross_entropy(model.head(x).float(), ids[hide], reduction="none")
    return (ce * weight[hide]).sum() / live
