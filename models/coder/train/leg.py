#!/usr/bin/env python3
"""Train models/coder for one leg: go on from RUN_DIR/checkpoint.pt, or begin; stop after --minutes, a signal, or the plan's end.

  python3 leg.py --data DATA_DIR --out RUN_DIR --minutes 17

The same command resumes. Weights, average, optimiser state, step, plan and data position come from the checkpoint; batches and
masks are functions of (seed, stage, number), so there is no generator state to keep. SIGTERM and SIGINT save and end.
--land: this leg is the last one; the plan's end is moved to where the leg's time ends, cooldown included.
"""
import argparse
import json
import os
import signal
import sys
import threading
import time

STARTED = time.time()           # a leg's minutes include the imports

import numpy as np              # noqa: E402
import torch                    # noqa: E402

from feed import Cuts, Feed     # noqa: E402
from measure import small_report    # noqa: E402
from muon import Optimiser      # noqa: E402
from net import SHAPES, Net     # noqa: E402
from packed import Packed       # noqa: E402
from plan import LOSS_KINDS, Plan, flops_per_token, peak    # noqa: E402
from smoke import CANDIDATES, accumulate, clear, is_full, smoke     # noqa: E402
from tiny import Tokenizer, shape_dict  # noqa: E402
from workers import Ahead       # noqa: E402


# On resuming, the checkpoint's plan holds but for what the command line names.
PLAN = (("ar-steps", 8000, "autoregressive [8000]"), ("steps", 28000, "of the whole plan [28000]"), ("cool-steps", 6000, "of falling learning rate, at the end [6000]"),
        ("warm-steps", 300, "of rising learning rate [300]"))


def planned(c, before=None):
    """The plan: what the command line names, else the checkpoint's, else the default."""
    values = [getattr(c, name.replace("-", "_")) for name, *_ in PLAN]
    kept = [before[k] for k in ("ar", "end", "cool", "warm")] if before else [default for _, default, _ in PLAN]
    return Plan(*(k if v is None else v for v, k in zip(values, kept))).check()


def options(arguments=None):
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("data", "out"):
        ap.add_argument("--" + name, required=True)
    ap.add_argument("--shape", default="coder", choices=sorted(SHAPES))
    for name, default, text in (
            ("rows", 32, "rows of a step, each as long as the context"), ("seed", 1, ""), *((n, None, t) for n, _, t in PLAN),
            ("workers", -1, "processes that make batches; -1: 6 on a GPU, 0 else"), ("log-every", 20, "steps"), ("stop-step", 0, "end the leg here; 0: by the clock"),
            ("eval-batches", 1, "of each held-out set"), ("threads", 1, "of PyTorch on a CPU")):
        ap.add_argument("--" + name, type=int, default=default, help=text)
    for name, default, text in (
            ("minutes", 17, "of this leg, smoke test and last save included"), ("muon-lr", 0.02, "of the matrices"), ("lr", 2e-3, "of AdamW"),
            ("decay", 0.05, "of the matrices"), ("clip", 1.0, "gradient norm"), ("ema", 0.999, "decay of the averaged weights"),
            ("save-minutes", 2, "between checkpoints"), ("eval-minutes", 3, "between evaluations; 0: only at the end of a phase"), ("smoke-seconds", 75, "for each phase")):
        ap.add_argument("--" + name, type=float, default=default, help=text)
    ap.add_argument("--path", default="", help="attention paths to try, with commas: " + ", ".join(n + "+compile" * c for n, c in CANDIDATES))
    ap.add_argument("--land", action="store_true", help="finish the plan within this leg")
    c = ap.parse_args(arguments)
    known = [n + "+compile" * k for n, k in CANDIDATES]
    for p in filter(None, c.path.split(",")):
        if p not in known:
            ap.error(f"--path: got {p}, allowed are {', '.join(known)}")
    return c


class Leg:
    """One leg's life; the only writer of the run's folder."""

    def __init__(self, c, feed, ahead, device):
        self.c, self.feed, self.ahead, self.device, self.ending, self.saving = c, feed, ahead, device, "", None
        shape = SHAPES[c.shape]
        self.net = Net(shape, device, torch.bfloat16 if device != "cpu" else torch.float32)
        self.path, self.top = os.path.join(c.out, "checkpoint.pt"), peak(torch.cuda.get_device_name()) if device != "cpu" else None
        self.plan = planned(c)
        self.state = {"step": 0, "leg": 0, "seconds": 0.0, "tokens": 0, "done": {}, "ema_steps": 0, "paths": {}}
        found = os.path.exists(self.path)
        if found:
            ck = torch.load(self.path, map_location="cpu")
            if ck["shape"] != shape_dict(shape):
                sys.exit(f"--out {c.out}: its checkpoint has shape {ck['shape']}, --shape {c.shape} is {shape_dict(shape)}; choose another folder")
            for name in ("rows", "seed"):                              # what the numbers of batches mean
                if ck["options"][name] != getattr(c, name):
                    sys.exit(f"--{name}: got {getattr(c, name)}, this run was begun with {ck['options'][name]}; a run keeps it")
            self.net.master.copy_(ck["master"])
            self.state, self.plan = {k: ck[k] for k in self.state}, planned(c, ck["plan"])
        else:
            self.net.init(c.seed)
        self.net.load()
        self.opt = Optimiser(self.net, c.muon_lr, c.lr, c.decay, c.clip, c.ema)
        if found:
            for name in ("m", "v", "ema"):
                getattr(self.opt, name).copy_(ck[name])
            self.opt.ema_steps = self.state["ema_steps"]
        self.state["leg"] += 1
        self.before, self.runners, self.landed = self.state["seconds"], {}, not c.land
        self.log("leg", leg=self.state["leg"], step=self.state["step"], parameters=self.net.layout.size, plan=vars(self.plan), torch=torch.__version__,
                 device=torch.cuda.get_device_name() if device != "cpu" else "cpu", options=vars(c))

    def log(self, kind, **row):
        line = json.dumps({"kind": kind, **row})
        print(line, flush=True)
        with open(os.path.join(self.c.out, "log.jsonl"), "a") as f:
            f.write(line + "\n")

    def left(self):
        """Seconds until the leg must be over."""
        return STARTED + 60 * self.c.minutes - time.time()

    def seconds(self):
        return self.before + time.time() - STARTED

    def stage(self):
        return self.plan.stage(self.state["step"])

    def prepare(self, phase):
        """Smoke test of a phase ("ar" or "bd"), unless it has had one. Its runners, fastest first."""
        if phase not in self.runners:
            known = self.c.path.split(",") if self.c.path else self.state["paths"].get(phase)
            batch = self.feed.batch(phase, 0)
            found = smoke(self.net, batch, phase, self.c.smoke_seconds, self.log, known)
            if not found and known and not self.c.path:
                found = smoke(self.net, batch, phase, self.c.smoke_seconds, self.log)
            if not found:
                sys.exit(f"no attention path works for phase {phase}; the table above says why")
            self.runners[phase] = found
            self.state["paths"][phase] = [found[0][0].name]
        return self.runners[phase]

    def batch_losses(self, batch):
        """Forward and backward on the best path that still works."""
        runners = self.prepare("ar" if batch["hide"] is None else "bd")
        while True:
            runner, micro = runners[0]
            try:
                return accumulate(runner, batch, micro, self.opt.gather)
            except Exception as e:                                     # out of memory, or a compiler that stumbles late
                again = (runner, micro // 2) if is_full(e) and micro > 1 else runners[1] if len(runners) > 1 else None
                self.log("fallback", step=self.state["step"], path=runner.name, micro=micro, error=str(e)[:300], to=again and [again[0].name, again[1]])
                if again is None:
                    raise
            self.opt.total.zero_()
            clear(self.net)
            runners[0:1 if again[0] is runner else 2] = [again]

    def save(self):
        """Copy now, write in a thread: a checkpoint costs the GPU only the copy."""
        self.finish_saving()
        self.state.update(seconds=self.seconds(), ema_steps=self.opt.ema_steps)
        # clone: on a CPU .cpu() would be the tensor that training goes on with
        tensors = {n: t.detach().to("cpu", copy=True) for n, t in (("master", self.net.master), ("m", self.opt.m), ("v", self.opt.v), ("ema", self.opt.ema))}
        whole = {**tensors, **self.state, "done": dict(self.state["done"]), "shape": shape_dict(self.net.shape), "plan": vars(self.plan), "stage": self.stage(),
                 "options": vars(self.c)}

        def write():
            torch.save(whole, self.path + ".tmp")
            os.replace(self.path + ".tmp", self.path)

        self.saving = threading.Thread(target=write)
        self.saving.start()
        self.saved = time.time()

    def finish_saving(self):
        if self.saving:
            self.saving.join()
            self.saving = None

    def evaluate(self, averaged=True):
        """The small held-out figures of the averaged weights (and, at an end, of the last ones)."""
        phase, started = "ar" if self.state["step"] <= self.plan.ar else "bd", time.time()
        runner, micro = self.prepare(phase)[0]
        sides = {"ema": self.opt.ema, **({} if averaged else {"last": None})}
        for name, source in sides.items():
            self.net.load(source)
            report = small_report(runner, self.feed, micro, phase == "ar", self.c.eval_batches)
            self.log("eval", step=self.state["step"], minutes=round(self.seconds() / 60, 2), tokens=self.state["tokens"], phase=phase, weights=name,
                     nats={k: v[0] for k, v in report["code"].items()}, bits_per_byte={k: v[1] for k, v in report["code"].items()}, sets=report,
                     took=round(time.time() - started, 1))
        self.net.load()
        self.evaluated = time.time()

    def land(self, steps_per_second):
        steps = int(0.97 * steps_per_second * (self.left() - 30))
        self.plan, self.landed = self.plan.land(self.state["step"], steps), True
        self.log("land", step=self.state["step"], steps_left=steps, plan=vars(self.plan))

    def train(self):
        c, s = self.c, self.state
        for phase in ("ar", "bd") if s["leg"] == 1 else ("bd" if s["step"] >= self.plan.ar else "ar",):
            if phase == "bd" or self.plan.ar:
                self.prepare(phase)
        self.saved = self.evaluated = marked = time.time()
        first = at = s["step"]
        sums, shares, norm, places = torch.zeros(len(LOSS_KINDS), device=self.device), np.zeros(len(LOSS_KINDS)), None, {}
        while s["step"] < self.plan.end:
            # the last save and evaluation fit into half a minute; a run by --stop-step has no clock
            self.ending = self.ending or ("stop step" if c.stop_step and s["step"] >= c.stop_step else "time" if not c.stop_step and self.left() < 15 else "")
            if self.ending:
                break
            (stage, number), *coming = self.plan.coming(s["step"], s["done"], 80)
            batch = self.ahead.batch(stage, number, coming)
            rows = self.batch_losses(batch)
            norm = self.opt.step(self.plan.scale(s["step"]), s["step"] + 1)
            kinds = [0 if batch["hide"] is None else LOSS_KINDS.index(f"bd{b}") for b in batch["block"]]
            if tuple(kinds) not in places:                             # one for each phase: copied once, not at every step
                places[tuple(kinds)] = torch.tensor(kinds, device=self.device)
            sums.index_add_(0, places[tuple(kinds)], rows)
            np.add.at(shares, kinds, batch["share"])
            s["done"][stage], s["tokens"], s["step"] = number + 1, s["tokens"] + batch["ids"].size, s["step"] + 1
            if s["step"] % c.log_every == 0:
                self.line(stage, sums, shares, norm, s["step"] - at, time.time() - marked)
                if not self.landed and stage != "ar" and s["step"] - first >= 3 * c.log_every:
                    self.land((s["step"] - at) / (time.time() - marked))
                sums.zero_()
                shares[:] = 0
                at, marked = s["step"], time.time()
            switching = s["step"] == self.plan.ar
            if switching or (c.eval_minutes and time.time() - self.evaluated > 60 * c.eval_minutes):
                pause = time.time()
                self.evaluate(averaged=not switching)
                marked += time.time() - pause                          # speed is of the steps alone
            if switching or time.time() - self.saved > 60 * c.save_minutes:
                self.save()
        finished = s["step"] >= self.plan.end
        if shares.any():
            self.line(self.plan.stage(s["step"] - 1), sums, shares, norm, s["step"] - at, time.time() - marked)
        self.save()                                                    # before the evaluation: it is what a cut leg would lose
        self.evaluate(averaged=False)
        self.finish_saving()
        self.log("done" if finished else "stopped", step=s["step"], why="the plan is fulfilled" if finished else self.ending,
                 minutes=round(self.seconds() / 60, 2), tokens=s["tokens"])

    def line(self, stage, sums, shares, norm, steps, seconds):
        """A log line, the only place of a step that waits for the device."""
        c, s = self.c, self.state
        losses = {k: round(a / n, 4) for k, a, n in zip(LOSS_KINDS, sums.tolist(), shares) if n}
        speed = steps * c.rows * self.net.shape.length / max(seconds, 1e-9)
        self.log("train", step=s["step"], phase="ar" if stage == "ar" else "bd", stage=stage, minutes=round(self.seconds() / 60, 2), tokens=s["tokens"],
                 lr=round(self.plan.scale(s["step"] - 1), 4), loss=losses, norm=round(float(norm), 3), tokens_per_second=int(speed),
                 mfu=round(speed * flops_per_token(self.net.shape, stage) / self.top, 3) if self.top else None,
                 left_minutes={"leg": round(self.left() / 60, 1), "plan": round((self.plan.end - s["step"]) * seconds / max(1, steps) / 60, 1)})
        if not all(np.isfinite(v) for v in losses.values()):
            sys.exit(f"step {s['step']}: the loss is not finite; the last checkpoint is sound, lower --muon-lr or --lr and resume")


def main():
    c = options()
    os.makedirs(c.out, exist_ok=True)
    torch.set_num_threads(c.threads)
    np.finfo(np.float64), np.finfo(np.float32)                         # NumPy warns if it first looks after denormals are off
    torch.set_flush_denormal(True)
    tok = Tokenizer(os.path.join(c.data, "tokenizer", "tokenizer.json"))
    feed = Feed(Packed(c.data, c.out), Cuts(tok), SHAPES[c.shape].length, c.rows, c.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ahead = Ahead(feed, c.workers if c.workers >= 0 else 6 if device != "cpu" else 0)   # forks: before the GPU is touched
    if hasattr(torch, "_dynamo"):                                      # two phases and a shorter last layer, each its own graph
        for name in ("cache_size_limit", "recompile_limit"):
            if hasattr(torch._dynamo.config, name):
                setattr(torch._dynamo.config, name, 64)
    leg = Leg(c, feed, ahead, device)
    for s in (signal.SIGTERM, signal.SIGINT):
        signal.signal(s, lambda number, _: setattr(leg, "ending", signal.Signals(number).name))
    try:
        leg.train()
    finally:
        leg.finish_saving()
        ahead.close()


if __name__ == "__main__":
    main()
