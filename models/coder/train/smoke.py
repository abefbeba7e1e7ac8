"""The first minutes of a leg: try every attention path on a real batch, hold it against plain fp32 products, take the fastest.

A path counts if its loss and gradient agree with the reference on the first two rows (the others have weight 0, so that
shapes, and what was compiled for them, are those of training). What raises, runs out of memory or disagrees is out.
"""
import gc
import time

import torch

from net import Net, Runner, to_device
from plan import flops_per_token, peak

CANDIDATES = (("flex", True), ("sdpa", True), ("flex", False), ("sdpa", False), ("plain", False))
CHECKED = 2                     # rows of the numerical check
LOSS_TOLERANCE, GRADIENT_TOLERANCE = {"bf16": 1e-2, "fp32": 1e-4}, {"bf16": 0.1, "fp32": 1e-3}


def accumulate(runner, batch, micro, gather=None):
    """Forward and backward of a batch in micro-batches of `micro` rows. Returns the rows' losses [N] on the device."""
    losses, device = [], runner.net.device
    for at in range(0, len(batch["ids"]), micro):
        rows = runner.rows(to_device(batch, device, slice(at, at + micro)))
        rows.sum().backward()
        losses.append(rows.detach())
        if gather:
            gather()
    return torch.cat(losses)


def wait(device):
    if device != "cpu":
        torch.cuda.synchronize()


def is_full(error):
    return "out of memory" in str(error).lower()


def reference(net, batch):
    """(loss, gradient) of the first rows by plain products in fp32."""
    exact = Net(net.shape, net.device)
    exact.load(net.master)
    runner = Runner(exact, "plain", False)
    loss = sum(float(accumulate(runner, {k: v[i:i + 1] if hasattr(v, "shape") else v for k, v in batch.items()}, 1).sum()) for i in range(CHECKED))
    return loss, exact.grad


def only_first(batch):
    """The batch with the weight on its first rows."""
    weight = batch["weight"].copy()
    weight[CHECKED:] = 0
    return {**batch, "weight": weight / weight.sum()}


def errors(net, loss, exact):
    """(relative error of the loss, of the gradient) against the reference; clears the gradient."""
    want, gradient = exact
    grad = net.grad.float()
    out = abs(loss - want) / want, float((grad - gradient).norm() / gradient.norm())
    net.grad.zero_()
    return out


def try_path(net, name, compiled, batch, exact, rounds):
    """One row of the table."""
    out, micro = {"path": name + ("+compile" if compiled else "")}, len(batch["ids"])
    checked = only_first(batch)
    while True:
        try:
            started = time.time()
            runner = Runner(net, name, compiled)
            rows = accumulate(runner, checked, micro)
            wait(net.device)
            out["first_s"] = round(time.time() - started, 2)
            loss_error, gradient_error = errors(net, float(rows.sum()), exact)
            accumulate(runner, batch, micro)                           # tier-up: allocator, and whatever is compiled late
            wait(net.device)
            started = time.time()
            for _ in range(rounds):
                accumulate(runner, batch, micro)
            wait(net.device)
            seconds = (time.time() - started) / rounds
            net.grad.zero_()
        except Exception as e:                                         # a path that cannot run must not end the leg
            net.grad.zero_()
            runner = None
            gc.collect()
            if net.device != "cpu":
                torch.cuda.empty_cache()
            if is_full(e) and micro > 1:
                micro //= 2
                continue
            return {**out, "ok": False, "why": f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"}, None
        kind = "fp32" if net.work.dtype == torch.float32 else "bf16"
        fine = loss_error <= LOSS_TOLERANCE[kind] and gradient_error <= GRADIENT_TOLERANCE[kind]
        out.update(micro=micro, step_s=round(seconds, 4), tokens_s=int(batch["ids"].size / seconds), loss_error=float(f"{loss_error:.2e}"),
                   gradient_error=float(f"{gradient_error:.2e}"), ok=fine, why="" if fine else "disagrees with the reference")
        return out, (runner, micro)


def smoke(net, batch, stage, budget, log, only=None, rounds=3):
    """Returns [(runner, micro)], fastest first. only: names of the paths to try (a leg that goes on knows them already).
    budget: seconds after which no further path is begun, if one works."""
    exact, started, rows, found = reference(net, only_first(batch)), time.time(), [], []
    top = peak(torch.cuda.get_device_name()) if net.device != "cpu" else None
    for name, compiled in CANDIDATES:
        label = name + ("+compile" if compiled else "")
        if only and label not in only:
            continue
        if found and time.time() - started > budget:
            rows.append({"path": label, "ok": False, "why": "not tried: the time for the smoke test is over"})
            continue
        row, made = try_path(net, name, compiled, batch, exact, rounds)
        if top and "tokens_s" in row:
            row["mfu"] = round(row["tokens_s"] * flops_per_token(net.shape, stage) / top, 3)
        rows.append(row)
        if row["ok"]:
            found.append((row["step_s"], len(found), made))
    log("smoke", stage=stage, seconds=round(time.time() - started, 1), table=rows)
    print(table(stage, rows), flush=True)
    return [made for _, _, made in sorted(found, key=lambda f: f[:2])]


def table(stage, rows):
    keys = ("path", "ok", "micro", "first_s", "step_s", "tokens_s", "mfu", "loss_error", "gradient_error", "why")
    lines = [keys] + [tuple(str(r.get(k, "")) for k in keys) for r in rows]
    widths = [max(len(l[i]) for l in lines) for i in range(len(keys))]
    return f"{stage}:\n" + "\n".join("  ".join(v.ljust(w) for v, w in zip(l, widths)).rstrip() for l in lines)
