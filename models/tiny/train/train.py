#!/usr/bin/env python3
"""Train models/tiny: autoregressive first, block diffusion last, in legs that can be killed and resumed.

  python3 train.py --data DATA_DIR --tokenizer TOKENIZER_DIR --out RUN_DIR --minutes 95 --workers 2

The same command line resumes: weights, optimiser state, clock and step come from RUN_DIR/checkpoint.pt, and
the data of a step is a function of (seed, step). Workers are processes with one thread each; they share the
weights and take micro-batches from a common counter, so a slowed core does less instead of holding the other up.

The schedule is a function of the fraction of the wall-clock budget already used, in all legs together: warm-up, hold,
linear cooldown; the switch to block diffusion at --ar-share. --steps replaces the clock by a step budget (reproducible).
"""
import argparse
import ctypes
import json
import os
import shutil
import signal
import sys
import time

import numpy as np
import torch
import torch.multiprocessing as mp

from data import Data
from evaluate import bits, load
from losses import ar_loss, bd_loss
from model import BLOCK_LENGTHS, Model, Shape, shape_dict
from optimiser import Optimiser
from tokenizer import Tokenizer

BARRIER_SECONDS = 900           # a worker that is gone breaks the barrier, and the run stops instead of hanging
BLOCK_SHARES = (0.2, 0.3, 0.3, 0.2)


def options():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("data", "tokenizer", "out"):
        ap.add_argument("--" + name, required=True)
    for name, default, text in (("workers", 2, "processes (1 on a GPU)"), ("micros", 8, "micro-batches of a step"),
                                ("micro-tokens", 1024, "tokens of a micro-batch"), ("seed", 1, "of weights, data and masks"),
                                ("steps", 0, "step budget; 0: use --minutes"), ("log-every", 20, "steps between log lines"),
                                ("eval-documents", 96, "held-out documents of the small evaluation")):
        ap.add_argument("--" + name, type=int, default=default, help=text)
    for name, default, text in (("minutes", 95, "wall-clock budget of all legs together"), ("ar-share", 0.45, "of the budget, autoregressive"),
                                ("warmup", 0.02, "share of the budget"), ("cooldown", 0.4, "share of the budget"), ("muon-lr", 0.02, ""),
                                ("lr", 3e-3, "of AdamW"), ("decay", 0.05, "weight decay of the matrices"), ("clip", 1.0, "gradient norm"),
                                ("save-minutes", 4, ""), ("eval-minutes", 8, "")):
        ap.add_argument("--" + name, type=float, default=default, help=text)
    c = ap.parse_args()
    for name in ("workers", "micros", "micro_tokens"):
        if getattr(c, name) < 1:
            ap.error(f"--{name.replace('_', '-')}: got {getattr(c, name)}, allowed are whole numbers from 1")
    if not 0 <= c.ar_share <= 1:
        ap.error(f"--ar-share: got {c.ar_share}, allowed is 0 to 1")
    return c


class Shared:
    """What the workers share. Writers: grads[r] worker r, weights and optimiser state the owner of each tensor, `plan` worker 0."""

    def __init__(self, shape, workers, device):
        new = lambda n: torch.zeros(n, device=device) if device != "cpu" else torch.zeros(n).share_memory_()
        size = shape.size()
        self.flat, self.m, self.v = new(size), new(size), new(size)
        self.grads = [new(size) for _ in range(workers)]
        self.norms = torch.zeros(workers, dtype=torch.float64).share_memory_()
        self.losses = torch.zeros(workers, 1 + len(BLOCK_LENGTHS), 2, dtype=torch.float64).share_memory_()   # sum and count, per kind of loss
        self.tokens = torch.zeros(workers, dtype=torch.float64).share_memory_()
        self.plan = torch.zeros(3, dtype=torch.float64).share_memory_()                                    # step, phase (0 ar, 1 bd, 2 stop), scale
        context = mp.get_context("fork")
        self.next, self.barrier = context.Value("l", 0), context.Barrier(workers)


class Clock:
    """Worker 0's record of the run: budget, log file, checkpoints, small evaluations."""

    def __init__(self, c, shape, shared, model, tok):
        self.c, self.shape, self.shared, self.model = c, shape, shared, model
        self.path = os.path.join(c.out, "checkpoint.pt")
        self.step, self.before, self.tokens, self.leg = 0, 0.0, 0.0, 1
        self.started = time.time()
        if os.path.exists(self.path):
            ck = torch.load(self.path, map_location="cpu")
            if ck["shape"] != shape_dict(shape):
                sys.exit(f"--out {c.out}: its checkpoint has shape {ck['shape']}, this program {shape_dict(shape)}; choose another folder")
            for name in ("flat", "m", "v"):
                getattr(shared, name).copy_(ck[name])
            self.step, self.before, self.tokens, self.leg = ck["step"], ck["seconds"], ck["tokens"], ck["leg"] + 1
        else:
            model.init(c.seed)
        self.docs = load(os.path.join(c.data, "val.jsonl"), tok, c.eval_documents)
        self.saved = self.evaluated = self.seconds()
        self.marked = (self.step, self.tokens, self.seconds())
        self.log("leg", leg=self.leg, step=self.step, workers=c.workers, parameters=shape.size(), options=vars(c))

    def seconds(self):
        return self.before + time.time() - self.started

    def log(self, kind, **row):
        line = json.dumps({"kind": kind, **row})
        print(line, flush=True)
        with open(os.path.join(self.c.out, "log.jsonl"), "a") as f:
            f.write(line + "\n")

    def fraction(self):
        return self.step / self.c.steps if self.c.steps else self.seconds() / (60 * self.c.minutes)

    def plan(self):
        """Write the next step's plan for all workers."""
        c, f = self.c, self.fraction()
        scale = min(1.0, (f + 1e-3) / c.warmup, max(0.02, (1 - f) / c.cooldown))
        self.shared.plan.copy_(torch.tensor([self.step, 2 if f >= 1 else int(f >= c.ar_share), scale]))
        self.shared.next.value = 0

    @property
    def phase(self):
        return "ar" if self.fraction() < self.c.ar_share else "bd"

    def save(self, phase):
        s = self.shared
        state = {"shape": shape_dict(self.shape), "flat": s.flat, "m": s.m, "v": s.v, "step": self.step, "seconds": self.seconds(),
                 "tokens": self.tokens, "leg": self.leg, "phase": phase, "options": vars(self.c)}
        state = {k: v.detach().cpu().clone() if torch.is_tensor(v) else v for k, v in state.items()}
        torch.save(state, self.path + ".tmp")
        os.replace(self.path + ".tmp", self.path)
        self.saved = self.seconds()

    def evaluate(self, phase):
        kinds = {"ar": bits(self.model, self.docs)} if phase == "ar" else {f"bd{b}": bits(self.model, self.docs, b) for b in BLOCK_LENGTHS}
        self.log("eval", step=self.step, minutes=round(self.seconds() / 60, 2), tokens=int(self.tokens), phase=phase,
                 bits_per_byte={k: round(v[0], 4) for k, v in kinds.items()}, nats={k: round(v[1], 4) for k, v in kinds.items()})
        self.evaluated = self.seconds()

    def after_step(self, norm):
        """Count the step, write the log, save and evaluate when due, plan the next step."""
        c, s = self.c, self.shared
        phase = "bd" if s.plan[1] == 1 else "ar"
        self.tokens += float(s.tokens.sum())
        s.tokens.zero_()
        self.step += 1
        if self.step % c.log_every == 0:
            sums = s.losses.sum(0)
            names = ["ar"] + [f"bd{b}" for b in BLOCK_LENGTHS]
            step0, tokens0, seconds0 = self.marked
            self.log("train", step=self.step, phase=phase, minutes=round(self.seconds() / 60, 2), tokens=int(self.tokens), lr=round(float(s.plan[2]), 4),
                     loss={k: round(float(a / n), 4) for k, (a, n) in zip(names, sums) if n}, norm=round(norm, 3),
                     tokens_per_second=int((self.tokens - tokens0) / (self.seconds() - seconds0)))
            s.losses.zero_()
            self.marked = (self.step, self.tokens, self.seconds())
        switching = phase == "ar" and self.phase == "bd"
        if switching or self.seconds() - self.evaluated > 60 * c.eval_minutes:
            self.evaluate(phase)
        if switching or self.seconds() - self.saved > 60 * c.save_minutes:
            self.save(phase)
            if switching:                                              # the autoregressive model, for its own evaluation
                shutil.copy(self.path, self.path + ".ar.tmp")
                os.replace(self.path + ".ar.tmp", os.path.join(c.out, "checkpoint-ar.pt"))
        self.plan()


def micro_batch(model, data, c, step, j, phase, device):
    """Forward and backward of one micro-batch. Returns (kind of loss, loss, tokens)."""
    ids, real, rng = data.batch(step, j, c.micro_tokens)
    ids, real = ids.to(device), real.to(device)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device != "cpu"):
        if phase == 0:
            kind, loss = 0, ar_loss(model, ids, real)
        else:
            kind = 1 + int(rng.choice(len(BLOCK_LENGTHS), p=BLOCK_SHARES))
            loss = bd_loss(model, ids, real, BLOCK_LENGTHS[kind - 1], rng)
    loss.backward()
    return kind, float(loss), ids.numel()


def work(rank, c, shape, shared, device, parent):
    """One worker's life. Worker 0 also keeps the clock."""
    if rank:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)                     # PR_SET_PDEATHSIG: do not outlive a killed parent
        if os.getppid() != parent:
            return
    torch.set_num_threads(1)
    np.finfo(np.float64), np.finfo(np.float32)                         # NumPy warns if it first looks after denormals are off
    torch.set_flush_denormal(True)
    tok = Tokenizer(os.path.join(c.tokenizer, "tokenizer.json"))
    model = Model(shape, shared.flat, shared.grads[rank], device)
    data = Data(os.path.join(c.data, "train.jsonl"), tok, c.seed)
    clock = Clock(c, shape, shared, model, tok) if rank == 0 else None
    optimiser = Optimiser(shape, shared.flat, shared.grads, shared.m, shared.v, rank, c.workers, c.muon_lr, c.lr, c.decay)
    wait = lambda: shared.barrier.wait(BARRIER_SECONDS)
    if clock:
        clock.plan()
    wait()
    while int(shared.plan[1]) != 2:
        step, phase, scale = int(shared.plan[0]), int(shared.plan[1]), float(shared.plan[2])
        while True:
            with shared.next.get_lock():
                j = shared.next.value
                shared.next.value += 1
            if j >= c.micros:
                break
            kind, loss, tokens = micro_batch(model, data, c, step, j, phase, device)
            shared.losses[rank, kind] += torch.tensor([loss, 1.0], dtype=torch.float64)
            shared.tokens[rank] += tokens
        wait()                                                         # all gradients are there
        shared.norms[rank] = optimiser.reduce(c.micros)
        wait()                                                         # all norms are there
        norm = float(shared.norms.sum()) ** 0.5
        if not np.isfinite(norm):
            sys.exit(f"step {step}: the gradient norm is {norm}; the last checkpoint is sound, lower --muon-lr or --lr and resume")
        optimiser.step(scale, min(1.0, c.clip / (norm + 1e-6)), step + 1)
        wait()                                                         # all weights are new
        if clock:
            clock.after_step(norm)
        wait()                                                         # the next plan is there
    if clock:
        clock.evaluate("bd" if c.ar_share < 1 else "ar")
        clock.save("bd" if c.ar_share < 1 else "ar")
        clock.log("done", step=clock.step, minutes=round(clock.seconds() / 60, 2), tokens=int(clock.tokens))


def main():
    c = options()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        c.workers = 1                                                  # one process feeds one GPU
    os.makedirs(c.out, exist_ok=True)
    torch.set_num_threads(1)                                           # before any parallel region: forked children inherit it
    shape = Shape()
    shared = Shared(shape, c.workers, device)
    context = mp.get_context("fork")
    others = [context.Process(target=work, args=(r, c, shape, shared, device, os.getpid()), daemon=True) for r in range(1, c.workers)]
    for p in others:
        p.start()
    work(0, c, shape, shared, device, os.getpid())
    for p in others:
        p.join()


if __name__ == "__main__":
    main()
