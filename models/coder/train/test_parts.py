"""Codecs within their bounds; parts that come back; a run cut and carried goes on as the run that was not."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

import numpy as np
import torch

import parts
from net import TOY, Layout

HERE = os.path.dirname(os.path.abspath(__file__))


class Codecs(unittest.TestCase):
    def test_bounds(self):
        x = (np.random.default_rng(0).standard_normal(10_000) * 0.02).astype(np.float32)
        x[:3] = (0, -0.0, 1e-30)
        for codec in ("fp32", "bf16", "q4"):
            y = parts.decode(codec, parts.encode(codec, x), len(x))
            self.assertEqual(len(y), len(x))
            if codec == "fp32":
                self.assertTrue(np.array_equal(x, y))
            elif codec == "bf16":
                self.assertTrue(np.array_equal(y, torch.from_numpy(x).bfloat16().float().numpy()))
                self.assertLessEqual(float(np.max(np.abs(y - x) / np.maximum(np.abs(x), 1e-38))), 2 ** -8)
            else:
                pad = np.zeros(-len(x) % 64, np.float32)
                top = np.abs(np.concatenate([x, pad])).reshape(-1, 64).max(1).repeat(64)[:len(x)]
                self.assertLessEqual(float((np.abs(y - x) / np.maximum(top, 1e-38)).max()), 1 / 14 * 1.02)

    def test_zeros_and_short_arrays(self):
        for n in (1, 63, 64, 65):
            for codec in ("bf16", "q4"):
                self.assertTrue(np.array_equal(parts.decode(codec, parts.encode(codec, np.zeros(n, np.float32)), n), np.zeros(n)))


class Folders(unittest.TestCase):
    def setUp(self):
        self.kept = tempfile.TemporaryDirectory()
        self.run_dir, self.parts_dir, self.back = (os.path.join(self.kept.name, n) for n in ("run", "parts", "back"))
        os.makedirs(self.run_dir)
        gen, layout = torch.Generator().manual_seed(0), Layout(TOY)
        rand = lambda n: torch.randn(n, generator=gen) * 0.02
        master = rand(layout.size)
        self.ck = {"master": master, "m": rand(layout.size), "v": rand(layout.adam) ** 2, "ema": master + rand(layout.size) * 0.01, "step": 7, "plan": {"ar": 1}, "done": {"ar": 7}}
        torch.save(self.ck, self.run_dir + "/checkpoint.pt")
        with open(self.run_dir + "/log.jsonl", "w") as f:
            f.write('{"kind": "leg"}\n' * 50)

    def tearDown(self):
        self.kept.cleanup()

    def there_and_back(self, profile):
        m = parts.pack(self.run_dir, self.parts_dir, profile, 300_000)
        self.assertTrue(all(p["bytes"] <= 300_000 for p in m["parts"]))
        parts.unpack(self.parts_dir, self.back)
        with open(self.back + "/log.jsonl") as a, open(self.run_dir + "/log.jsonl") as b:
            self.assertEqual(a.read(), b.read())
        return m, torch.load(self.back + "/checkpoint.pt")

    def test_exact_is_exact(self):
        _, ck = self.there_and_back("exact")
        for k, v in self.ck.items():
            self.assertTrue(torch.equal(ck[k], v) if torch.is_tensor(v) else ck[k] == v, k)

    def test_trip_is_small_and_near(self):
        m, ck = self.there_and_back("trip")
        self.assertLess(m["bytes"], 4 * (3 * len(ck["master"]) + len(ck["v"])) / 3.5)    # toy: most of it is embedding
        self.assertTrue(torch.equal(ck["master"], self.ck["master"].bfloat16().float()))
        near = lambda k: float((ck[k] - self.ck[k]).norm() / self.ck[k].norm())
        self.assertLess(near("m"), 0.12)
        self.assertLess(near("v"), 2e-3)
        self.assertLess(float((ck["ema"] - self.ck["ema"]).norm() / (self.ck["ema"] - self.ck["master"]).norm()), 0.15)

    def test_small_is_the_weights(self):
        _, ck = self.there_and_back("small")
        self.assertTrue(torch.equal(ck["master"], ck["ema"]) and not ck["m"].any() and not ck["v"].any())

    def test_missing_and_damaged_parts_are_named(self):
        m = parts.pack(self.run_dir, self.parts_dir, "trip", 300_000)
        os.remove(os.path.join(self.parts_dir, m["parts"][1]["name"]))
        with open(os.path.join(self.parts_dir, m["parts"][2]["name"]), "r+b") as f:
            f.write(b"no")
        with self.assertRaisesRegex(SystemExit, r"part-01.bin: 0 of \d+ bytes; part-02.bin: sha256 differs"):
            parts.unpack(self.parts_dir, self.back)
        self.assertFalse(os.path.exists(self.back + "/checkpoint.pt"))

    def test_loads_hold_every_file_once_within_the_limit(self):
        m = parts.pack(self.run_dir, self.parts_dir, "exact", 300_000)
        loads = parts.loads(self.parts_dir, 1)
        self.assertEqual([n for l in loads for n, _ in l], ["manifest.json", *(p["name"] for p in m["parts"])])
        self.assertTrue(all(sum(s for _, s in l) <= 2 ** 20 for l in loads) and len(loads) > 1)


class Resume(unittest.TestCase):
    """Training as a user runs it, on toy data that the test makes."""

    def leg(self, out, *more):
        code = ("import sys, toy_data, net, leg; from tiny import Shape; leg.Tokenizer = lambda path: toy_data.ByteTokenizer(); sys.argv[0] = 'leg.py'; "
                "net.SHAPES['toy'] = Shape(vocab=300, d=32, layers=2, heads=4, kv_heads=2, head_dim=16, ffn=64, length=128); leg.main()")
        args = ["--data", self.data, "--out", out, "--shape", "toy", "--rows", "4", "--ar-steps", "4", "--steps", "12", "--cool-steps", "4", "--warm-steps", "2",
                "--log-every", "1", "--eval-minutes", "0", "--path", "plain", *more]
        done = subprocess.run([sys.executable, "-c", code, *args], cwd=HERE, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        self.assertEqual(done.returncode, 0, done.stdout[-2000:] + done.stderr[-2000:])
        with open(out + "/log.jsonl") as f:
            rows = [json.loads(line) for line in f]
        return {r["step"]: (r["stage"], r["loss"], r["norm"]) for r in rows if r["kind"] == "train"}

    def test_a_run_that_was_cut_and_carried_goes_on_like_one_that_was_not(self):
        with tempfile.TemporaryDirectory() as d:
            self.data = d + "/data"
            toy_data_write(self.data)
            straight = self.leg(d + "/straight")
            self.assertEqual(sorted(straight), list(range(1, 13)))
            self.assertEqual({s for s, _, _ in straight.values()}, {"ar", "bd", "cool"})
            self.leg(d + "/cut", "--stop-step", "6")
            for profile, tolerance in (("exact", 0.0), ("trip", 5e-3)):
                parts.pack(d + "/cut", d + "/parts", profile, 10 ** 6)
                parts.unpack(d + "/parts", d + "/" + profile)
                resumed = self.leg(d + "/" + profile)
                self.assertEqual(sorted(resumed), sorted(straight))
                for step in range(7, 13):
                    self.assertEqual(resumed[step][0], straight[step][0])
                    for kind, loss in straight[step][1].items():
                        self.assertLessEqual(abs(resumed[step][1][kind] - loss), tolerance * loss, (profile, step, kind))
            a, b = (torch.load(f"{d}/{n}/checkpoint.pt") for n in ("straight", "exact"))
            for k in ("master", "m", "v", "ema"):
                self.assertTrue(torch.equal(a[k], b[k]), k)


def toy_data_write(folder):
    import toy_data
    toy_data.write(folder)


if __name__ == "__main__":
    unittest.main()
