"""The vectorised training pass equals block-by-block inference; the mask draw keeps its promises. Run: python3 test_masks.py"""
import numpy as np
import torch

from data import draw_masks, opening
from model import BLOCK_LENGTHS, MASK, Model, RMSNorm, Rotate, Shape, SwiGLU, rope_tables

SMALL = Shape(vocab=300, d=32, layers=3, heads=4, kv_heads=2, head_dim=8, ffn=48, length=64)


def test_vectorised_pass_equals_block_by_block():
    model = Model(SMALL).init(0)
    ids = torch.randint(16, 300, (3, 64), generator=torch.Generator().manual_seed(1))
    for block in BLOCK_LENGTHS:
        hide = torch.rand(ids.shape, generator=torch.Generator().manual_seed(block)) < 0.5
        noisy = ids.masked_fill(hide, MASK)
        fast = model.head(model.noisy_hidden(noisy, ids, block, hide))
        slow = torch.zeros(3, 64, 300)
        for at in range(0, 64, block):                                 # earlier blocks clean, this one noisy, nothing after it
            seq = torch.cat([ids[:, :at], noisy[:, at:at + block]], 1)
            slow[:, at:at + block] = model.logits(seq, block)[:, at:]
        assert torch.allclose(fast, slow[hide], atol=1e-5), (block, (fast - slow[hide]).abs().max())


def test_draw_masks_weighs_every_live_block_once():
    ids = torch.full((4, 64), 20)
    ids[:, 0] = 0
    ids[:, 40:] = 0
    real = torch.zeros(4, 64, dtype=torch.bool)
    real[:, 1:41] = True
    starts = opening(ids, real)
    assert starts.sum() == 4 and starts[:, 0].all()
    for block in BLOCK_LENGTHS:
        hide, weight, live = draw_masks(real, starts, block, np.random.default_rng(0))
        assert not hide[starts].any() and live == 4 * -(-41 // block)
        sums = weight.view(-1, block).sum(-1)
        assert torch.allclose(sums[sums > 0], torch.ones(live)) and (sums > 0).sum() == live
        assert not hide.view(-1, block)[~real.view(-1, block).any(-1)].any()


def test_hand_written_gradients_are_right():
    gen = torch.Generator().manual_seed(0)
    rand = lambda *s: torch.randn(*s, generator=gen, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: RMSNorm.apply(x, w, 1e-6), (rand(3, 5, 8), rand(8)))
    assert torch.autograd.gradcheck(SwiGLU.apply, (rand(3, 8),))
    cos, sin = (t.double()[:, None] for t in rope_tables(5, 8, 1e4))
    assert torch.autograd.gradcheck(lambda x: Rotate.apply(x, cos, sin), (rand(2, 5, 3, 8),))


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print("ok", name)
