"""The schedule, the optimiser and the average."""
import unittest

import torch

from muon import Optimiser, orthogonalise
from net import MUON_KINDS, Net
from plan import Plan, flops_per_token
import tiny
from test_attention import SMALL


class Schedule(unittest.TestCase):
    plan = Plan(ar=100, end=400, cool=100, warm=20)

    def test_warms_up_holds_and_cools_down(self):
        scale = [self.plan.scale(s) for s in range(400)]
        self.assertEqual((scale[0], scale[9], scale[19], scale[20], scale[299], scale[300]), (1 / 20, 0.5, 1, 1, 1, 1))
        self.assertAlmostEqual(scale[350], 0.5)
        self.assertAlmostEqual(scale[399], 0.01)
        self.assertEqual(self.plan.scale(400), 0)

    def test_stages_follow_each_other(self):
        self.assertEqual([self.plan.stage(s) for s in (0, 99, 100, 299, 300, 399)], ["ar", "ar", "bd", "bd", "cool", "cool"])
        self.assertEqual(self.plan.coming(99, {"ar": 99}, 3), [("ar", 99), ("bd", 0), ("bd", 1)])
        self.assertEqual(self.plan.coming(398, {"cool": 98}, 10), [("cool", 98), ("cool", 99)])

    def test_landing_moves_the_end_and_keeps_what_fits_of_the_cooldown(self):
        for step, left, end, cool in ((200, 50, 250, 50), (200, 150, 350, 100), (350, 200, 550, 100)):
            new = self.plan.land(step, left)
            self.assertEqual((new.end, new.cool, new.ar), (end, cool, 100))
            self.assertEqual(new.scale(step) <= 1 and new.scale(end), 0)

    def test_an_impossible_plan_is_refused(self):
        for plan in (Plan(10, 5, 0, 0), Plan(0, 5, 6, 0), Plan(-1, 5, 0, 0)):
            with self.assertRaises(SystemExit):
                plan.check()

    def test_flops_count_the_matrices(self):
        net = Net(SMALL)
        matrices = sum(net.layout.view(net.master, k).numel() for k in (*MUON_KINDS, "embed"))
        self.assertEqual(flops_per_token(SMALL, "ar"), 6 * matrices)
        self.assertGreater(flops_per_token(SMALL, "bd"), 1.5 * flops_per_token(SMALL, "ar") - 6 * SMALL.vocab * SMALL.d)


class Steps(unittest.TestCase):
    def test_orthogonalise_equals_one_matrix_at_a_time(self):
        for shape in ((3, 16, 32), (2, 32, 16)):
            g = torch.randn(shape, generator=torch.Generator().manual_seed(1))
            self.assertTrue(torch.allclose(orthogonalise(g), torch.stack([tiny.orthogonalise(x) for x in g]), atol=1e-5))

    def one(self, **options):
        net = Net(SMALL).init(0)
        opt = Optimiser(net, **options)
        gen = torch.Generator().manual_seed(3)
        net.grad.copy_(torch.randn(net.grad.shape, generator=gen))
        return net, opt

    def test_adam_and_muon_move_the_right_tensors(self):
        net, opt = self.one(decay=0.0, clip=1e9)
        before, a = net.master.clone(), net.layout.adam
        opt.gather()
        self.assertFalse(net.grad.any())
        norm = opt.step(1.0, 1)
        moved = net.master - before
        self.assertAlmostEqual(float(norm), float(torch.randn(before.shape, generator=torch.Generator().manual_seed(3)).norm()), places=1)
        self.assertTrue(torch.allclose(moved[:a].abs(), torch.full((a,), 2e-3), rtol=1e-2))        # Adam's first step: lr x sign
        o = net.layout.view(moved, "o")[0]
        values = torch.linalg.svdvals(o / (0.02 * max(1, o.shape[0] / o.shape[1]) ** 0.5))
        self.assertTrue(((values > 0.5) & (values < 1.4)).all(), values)
        self.assertTrue(torch.equal(net.work, net.master))

    def test_a_gradient_that_is_not_finite_changes_nothing(self):
        net, opt = self.one(decay=0.0)
        net.grad[5] = float("nan")
        before = net.master.clone()
        opt.gather()
        norm = opt.step(1.0, 1)
        self.assertFalse(torch.isfinite(norm))
        self.assertTrue(torch.equal(net.master, before))

    def test_the_average_follows_the_weights(self):
        net, opt = self.one(ema_decay=0.9)
        ema = net.master.clone()
        for k in range(30):
            net.grad.fill_(0.01 * (-1) ** k)
            opt.gather()
            opt.step(1.0, k + 1)
            d = min(0.9, (2 + k) / (11 + k))
            ema = d * ema + (1 - d) * net.master
        self.assertTrue(torch.allclose(opt.ema, ema, atol=1e-6))
        self.assertFalse(torch.allclose(opt.ema, net.master, atol=1e-6))


if __name__ == "__main__":
    unittest.main()
