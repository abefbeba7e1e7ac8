"""Masks against a naive double loop, all paths against each other, the vectorised pass against block-by-block inference."""
import unittest

import torch

import attention
from net import Net, Runner, to_device
from tiny import BLOCK_LENGTHS, MASK, Shape

SMALL = Shape(vocab=300, d=32, layers=3, heads=4, kv_heads=2, head_dim=16, ffn=64, length=64)


def naive(doc, block, length, two):
    """The rule of attention.py's head comment, in words turned into loops."""
    n, s = doc.shape
    see = torch.zeros(n, 1, s, s, dtype=torch.bool)
    for row in range(n):
        for q in range(s):
            for k in range(s):
                if doc[row, q] != doc[row, k]:
                    continue
                bq, bk = block[row, q], block[row, k]
                if not two:
                    see[row, 0, q, k] = bool(bk <= bq)
                elif q < length and k < length:                        # noised looks at noised: its own block
                    see[row, 0, q, k] = bool(bk == bq)
                elif q < length:                                       # noised looks at clean: earlier blocks
                    see[row, 0, q, k] = bool(bk < bq)
                elif k >= length:                                      # clean looks at clean: its own and earlier blocks
                    see[row, 0, q, k] = bool(bk <= bq)
    return see


def example(length=64, seed=0):
    """doc [3, L] with pieces that begin on the 32-grid, block numbers of lengths 4, 16, 32."""
    doc = torch.zeros(3, length, dtype=torch.int32)
    doc[1, 32:] = 1
    block = torch.arange(length, dtype=torch.int32)[None] // torch.tensor([[4], [16], [32]], dtype=torch.int32)
    return doc, block


class Masks(unittest.TestCase):
    def test_equal_the_double_loop(self):
        doc, block = example()
        for two in (False, True):
            d, b = (torch.cat([t, t], 1) if two else t for t in (doc, block))
            see = attention.dense(d, b, 64, two)
            self.assertTrue(torch.equal(see, naive(d, b, 64, two)))
            self.assertTrue(see.any(-1).all(), "a position that sees nothing gives NaN")

    def test_flex_block_mask_holds_what_the_rule_says(self):
        if attention.flex_attention is None:
            self.skipTest("this PyTorch has no flex attention")
        doc, block = example(128)
        d, b = torch.cat([doc, doc], 1), torch.cat([block, block], 1)
        prepare, attend = attention.path("flex", "cpu", False)
        see = prepare(d, b, 128, True)
        q, k, v = (torch.randn(3, h, 256, 16, generator=torch.Generator().manual_seed(h)) for h in (4, 2, 2))
        with torch.no_grad():
            want = attention.plain(q, k, v, attention.dense(d, b, 128, True))
            self.assertLess(float((attend(q, k, v, see) - want).abs().max()), 1e-5)


def batch(block, seed=1):
    """What to_device makes, from random tokens: one piece a row."""
    gen = torch.Generator().manual_seed(seed)
    ids = torch.randint(16, 300, (3, 64), generator=gen)
    hide = torch.rand(ids.shape, generator=gen) < 0.5
    weight = torch.rand(ids.shape, generator=gen)
    import numpy as np
    return {"ids": ids.numpy().astype(np.uint16), "hide": hide.numpy(), "target": ids.numpy().astype(np.uint16), "weight": (weight * hide).numpy(),
            "doc": np.zeros((3, 64), np.int16), "block": np.full(3, block, np.int16)}


class Passes(unittest.TestCase):
    def setUp(self):
        self.net = Net(SMALL).init(0)

    def test_vectorised_pass_equals_block_by_block_inference(self):
        for block in BLOCK_LENGTHS:
            b = batch(block)
            fast = Runner(self.net, "plain", False).rows(to_device(b, "cpu"))
            ids, hide, weight = (torch.from_numpy(b[k].astype("int64") if k == "ids" else b[k]) for k in ("ids", "hide", "weight"))
            noisy, slow = ids.masked_fill(hide, MASK), torch.zeros(3)
            for at in range(0, 64, block):
                seq = torch.cat([ids[:, :at], noisy[:, at:at + block]], 1)         # earlier blocks clean, this one noised
                logits = self.net.logits(seq, block)[:, at:]
                ce = torch.nn.functional.cross_entropy(logits.reshape(-1, 300), ids[:, at:at + block].reshape(-1), reduction="none")
                slow += (ce.view(3, -1) * weight[:, at:at + block]).sum(1)
            self.assertTrue(torch.allclose(fast, slow, rtol=1e-4), (block, fast, slow))

    def test_pieces_of_a_row_do_not_see_each_other(self):
        b = batch(16)
        b["doc"][:, 32:] = 1
        runner = Runner(self.net, "plain", False)
        together = runner.rows(to_device(b, "cpu"))
        first, second = ({**b, "weight": b["weight"] * keep} for keep in (b["doc"] == 0, b["doc"] == 1))
        other = {**second, "ids": b["ids"].copy()}
        other["ids"][:, :32] = 77                                      # another first piece must not change the second's loss
        alone = runner.rows(to_device(first, "cpu")) + runner.rows(to_device(other, "cpu"))
        self.assertTrue(torch.allclose(together, alone, rtol=1e-4))

    def test_sdpa_equals_plain_with_gradients(self):
        if not hasattr(torch.nn.functional, "scaled_dot_product_attention"):
            self.skipTest("this PyTorch has no scaled_dot_product_attention")
        grads = []
        for name in ("plain", "sdpa"):
            Runner(self.net, name, False).rows(to_device(batch(8), "cpu")).sum().backward()
            grads.append(self.net.grad.clone())
            self.net.grad.zero_()
        self.assertLess(float((grads[0] - grads[1]).norm() / grads[0].norm()), 1e-4)


class Smoke(unittest.TestCase):
    def test_a_path_that_leaks_the_answer_is_refused(self):
        import net
        import smoke
        from smoke import smoke as run
        right, leaky = net.path, None

        def leaky(doc, block, length, two):
            see, at = attention.dense(doc, block, length, two).clone(), torch.arange(length)
            see[:, 0, at, at + length] = True                          # a noised position sees its own clean token
            return see

        b, model = batch(8), Net(SMALL).init(0)
        rows = []
        net.path = lambda name, device, compiled: (leaky, attention.plain) if name == "sdpa" else right(name, device, compiled)
        try:
            found = run(model, {**b, "weight": b["weight"] / b["weight"].sum()}, "bd", 60, lambda kind, **row: rows.extend(row["table"]), ["sdpa", "plain"], 1)
        finally:
            net.path = right
        self.assertEqual([(r["path"], r["ok"]) for r in rows], [("sdpa", False), ("plain", True)])
        self.assertIn("disagrees", rows[0]["why"])
        self.assertEqual([r.name for r, _ in found], ["plain"])
        self.assertFalse(model.grad.any(), "the test must leave no gradient behind")
        self.assertGreater(smoke.CHECKED, 0)


if __name__ == "__main__":
    unittest.main()
