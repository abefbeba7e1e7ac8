"""Held-out figures: the NELBO bound for blocks of 4, 8, 16 and 32, or the exact autoregressive figure.

  python3 measure.py RUN_DIR DATA_DIR [--weights ema|last] [--batches 8] [--draws 2]

Three sets, always the same rows and masks: `code` (held-out files in windows, each token learnt), `functions` (documented
functions from their comment on), `infill` (the middle of held-out files with what is before and behind it given).
"""
import argparse
import json
import math
import os

import torch

from net import Net, Runner, to_device
from tiny import BLOCK_LENGTHS, Shape

SETS = {"code": "val-code", "functions": "val-functions", "infill": "val-infill"}


def held_out(runner, feed, micro, stage, block, batches=1, draws=1):
    """(nats per token of the text, bits per byte). The forward pass runs as in training, so that nothing is compiled anew."""
    nats = tokens = size = 0.0
    for first in range(batches):
        for draw in range(draws if block else 1):
            batch = feed.held_out(stage, first, block, draw)
            loss = 0.0
            for at in range(0, feed.rows, micro):
                loss += float(runner.rows(to_device(batch, runner.net.device, slice(at, at + micro))).detach().sum())
            nats += loss * batch["total"]
            tokens += batch["real"].sum()
            size += feed.cuts.bytes[batch["ids"][batch["real"]]].sum()
    return nats / tokens, nats / math.log(2) / size


def small_report(runner, feed, micro, autoregressive, batches=1, draws=1):
    """{set: {kind of loss: [nats per token, bits per byte]}}"""
    blocks = (0,) if autoregressive else BLOCK_LENGTHS
    return {name: {f"bd{b}" if b else "ar": [round(float(x), 4) for x in held_out(runner, feed, micro, stage, b, batches, draws)]
                   for b in blocks} for name, stage in SETS.items()}


def from_checkpoint(path, weights="ema", device="cpu", dtype=torch.float32):
    """(net, checkpoint) with the averaged or the last weights, rounded to bf16 as they are published."""
    ck = torch.load(path, map_location="cpu")
    if weights not in ("ema", "last"):
        raise SystemExit(f"--weights: got {weights}, allowed are ema, last")
    net = Net(Shape(**ck["shape"]), device, dtype)
    net.master.copy_(ck["ema" if weights == "ema" else "master"].bfloat16().float())
    return net.load(), ck


def main():
    from feed import Cuts, Feed
    from packed import Packed
    from tiny import Tokenizer
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("run")
    ap.add_argument("data")
    ap.add_argument("--weights", default="ema")
    for name, default in (("batches", 8), ("draws", 2), ("rows", 4), ("threads", 1)):
        ap.add_argument("--" + name, type=int, default=default)
    c = ap.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(c.threads)
    net, ck = from_checkpoint(os.path.join(c.run, "checkpoint.pt"), c.weights, device, torch.bfloat16 if device == "cuda" else torch.float32)
    packed = Packed(c.data)
    feed = Feed(packed, Cuts(Tokenizer(os.path.join(c.data, "tokenizer", "tokenizer.json"))), net.shape.length, c.rows, 1)
    runner = Runner(net, "sdpa" if device == "cuda" else "plain", False)
    with torch.no_grad():
        report = small_report(runner, feed, 1 if device == "cpu" else c.rows, ck["stage"] == "ar", c.batches, c.draws)
    print(json.dumps({"step": ck["step"], "stage": ck["stage"], "weights": c.weights, "[nats per token, bits per byte]": report}, indent=1))


if __name__ == "__main__":
    main()
