"""Rows, infilling and masks: nothing lost, nothing leaked, the same batch from the same name."""
import tempfile
import unittest

import numpy as np

import toy_data
from feed import STAGES, Cuts, Feed, block_rows, middle
from packed import Packed
from tiny import EOT, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX
from workers import Ahead


class Rows(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.tok = toy_data.write(cls.folder.name)
        cls.packed, cls.cuts = Packed(cls.folder.name), Cuts(cls.tok)
        cls.feed = Feed(cls.packed, cls.cuts, 512, 4, 1)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_a_cut_token_is_the_same_text_in_two_pieces(self):
        for i, ways in self.cuts.ways.items():
            for left, right in ways:
                self.assertEqual(self.tok.decode(left + right), self.tok.decode([i]))
        self.assertTrue(self.cuts.ways and self.cuts.line)

    def test_infilling_gives_back_the_text(self):
        rng, texts = np.random.default_rng(0), [toy_data.text(np.random.default_rng(i), 8) for i in range(20)]
        middles = []
        for k in range(300):
            text = texts[k % 20]
            pre, mid, suf = middle(self.tok.encode(text), self.cuts, rng, body=None if k % 2 else 0)
            self.assertEqual(self.tok.decode(pre) + self.tok.decode(mid) + self.tok.decode(suf), text)
            middles.append(self.tok.decode(mid))
        whole_lines = [m for m in middles if m.startswith("  ") and "\n" not in m]
        self.assertGreater(len(whole_lines), 8)                        # a line without its ends: what an editor asks for
        self.assertLess(sum(not m for m in middles), 30)

    def test_rows_are_well_formed(self):
        for stage in STAGES:
            table = self.feed.table(stage, 0)
            self.assertGreater(len(table), 0)
            for index in range(len(table)):
                ids, doc, real, given = self.feed.row(stage, 0, index)
                self.assertTrue((np.diff(doc)[doc[1:] != 0] >= 0).all())
                self.assertFalse((real & given).any())
                for number in range(1, doc.max() + 1):
                    at = np.flatnonzero(doc == number)
                    self.assertEqual((at[0] % 32, len(at) % 32), (0, 0), "a piece begins and ends on the grid")
                    self.assertTrue((np.diff(at) == 1).all())
                    self.assertEqual(ids[at[0]], EOT)
                    self.assertTrue(given[at[0]])
                    piece, learnt = ids[at], real[at]
                    if FIM_PREFIX in piece:
                        order = [int(np.flatnonzero(piece == m)[0]) for m in (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE)]
                        self.assertEqual(order, sorted(order))
                        self.assertTrue(given[at][order].all() and not learnt[order].any())
                    fill = at[np.flatnonzero(learnt)[-1] + 1:] if learnt.any() else []
                    self.assertLess(len(fill), 32)
                    self.assertTrue((ids[fill] == EOT).all())
                    if len(fill):                                      # fill only where the text really ended
                        self.assertEqual(ids[fill[0] - 1], EOT)

    def test_an_epoch_holds_every_document_about_once(self):
        seen = {}
        for row in self.feed.table("ar", 3):
            for spans, *_ in row:
                for at, n in spans:
                    for k in range(at, at + n):
                        seen[k] = seen.get(k, 0) + 1
        core = [k for at, n in self.packed.docs["core"] for k in range(at, at + n)]
        times = np.array([seen.get(k, 0) for k in core])
        self.assertGreater((times >= 1).mean(), 0.9)                   # tails shorter than half of SHORTEST are left out
        self.assertLess(times.mean(), 1.15)                            # a piece begins where its first line does: some overlap

    def test_a_batch_is_a_function_of_its_name(self):
        other = Feed(self.packed, self.cuts, 512, 4, 1)
        for stage, number in (("ar", 0), ("bd", 7), ("cool", 3)):
            self.feed.batch(stage, number + 50)                        # what was asked before does not matter
            a, b = self.feed.batch(stage, number), other.batch(stage, number)
            for key in a:
                self.assertTrue(np.array_equal(a[key], b[key]), key)
        self.assertFalse(np.array_equal(self.feed.batch("bd", 7)["ids"], Feed(self.packed, self.cuts, 512, 4, 2).batch("bd", 7)["ids"]))

    def test_processes_give_the_same_batches_also_after_a_change_of_plan(self):
        ahead = Ahead(self.feed, 2)
        try:
            asked = [("ar", 0), ("ar", 1), ("bd", 0), ("cool", 4), ("cool", 5)]
            for i, (stage, number) in enumerate(asked):
                coming = [("ar", number + 1), ("ar", number + 2)] if i < 2 else [("cool", number + 1)]
                got, want = ahead.batch(stage, number, coming), self.feed.batch(stage, number)
                self.assertTrue(all(np.array_equal(got[k], want[k]) for k in want), (stage, number))
        finally:
            ahead.close()
        self.assertFalse(any(p.is_alive() for p in ahead.processes))

    def test_masks_weigh_every_live_block_by_its_places(self):
        b = self.feed.batch("bd", 2)
        self.assertTrue(np.array_equal(b["block"], block_rows(4)))
        self.assertAlmostEqual(float(b["weight"].sum()), 1.0, places=5)
        self.assertAlmostEqual(float(b["share"].sum()), 1.0, places=5)
        _, _, real, given = self.feed.stacked("bd", 0, 8, 4)
        for row, block in enumerate(b["block"]):
            live, room = real[row].reshape(-1, block).any(1), (~given[row]).reshape(-1, block).sum(1)
            weight, hide = b["weight"][row].reshape(-1, block), b["hide"][row].reshape(-1, block)
            self.assertTrue(np.array_equal(hide.any(1), live))
            self.assertTrue(np.allclose(weight.sum(1) * b["total"], live * room, atol=1e-2))
        self.assertFalse((b["hide"] & given).any())

    def test_autoregressive_targets_are_the_next_tokens_of_the_piece(self):
        b = self.feed.batch("ar", 1)
        row, at = (int(x) for x in np.argwhere(b["weight"] > 0)[100])
        self.assertEqual(b["target"][row, at], b["ids"][row, at + 1])
        self.assertEqual(b["doc"][row, at], b["doc"][row, at + 1])
        starts = b["weight"][:, :-1][np.diff(b["doc"], axis=1) != 0]
        self.assertFalse(starts.any(), "nobody predicts the opening of the next piece")

    def test_held_out_infilling_learns_the_middle_only(self):
        ids, doc, real, given = self.feed.row("val-infill", 0, 0)
        for number in range(1, doc.max() + 1):
            at = np.flatnonzero(doc == number)
            begin = at[np.flatnonzero(ids[at] == FIM_MIDDLE)[0]]
            self.assertTrue(given[at[0]:begin + 1].all() and real[begin + 1])

    def test_a_damaged_part_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            toy_data.write(folder)
            with open(folder + "/tokens-1.xz", "r+b") as f:
                f.seek(100)
                f.write(b"xxxx")
            with self.assertRaisesRegex(SystemExit, "tokens-1.xz: sha256 differs"):
                Packed(folder)


if __name__ == "__main__":
    unittest.main()
