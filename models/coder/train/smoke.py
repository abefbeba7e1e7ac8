"""The first minutes of a leg: try every attention path on a real batch, hold it against plain fp32 products, take the fastest.

A path counts if its loss and gradients agree with the reference on the first two rows (the others have weight 0, so that
shapes, and what was compiled for them, are those of training). Gradients are compared kind by kind and the worst counts: a
wrong mask hardly moves the loss of fresh weights, but it moves the gradient of the query and key matrices. In bf16 the
measure is what plain products in bf16 do wrong. What raises, runs out of memory or disagrees is out.
"""
import gc
import time

import torch

from net import Net, Runner, to_device
from plan import flops_per_token, peak

CANDIDATES = (("flex", True), ("sdpa", True), ("flex", False), ("sdpa", False), ("plain", False))
CHECKED = 2                     # rows of the numerical check
COMPARED = ("embed", "qkv", "o", "gate_up", "down")
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3                        # of fp32; in bf16 OWN times the error of plain products comes on top
OWN = 3


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


def first_rows(net, batch):
    """(loss, gradient by kind) of the first rows on plain products, one row at a time; the gradient is cleared."""
    runner = Runner(net, "plain", False)
    loss = sum(float(accumulate(runner, {k: v[i:i + 1] if hasattr(v, "shape") else v for k, v in batch.items()}, 1).sum()) for i in range(CHECKED))
    return loss, taken(net)


def taken(net):
    """{kind: fp32 copy of its gradient}; the gradient is cleared."""
    out = {k: net.layout.view(net.grad, k).float().clone() for k in COMPARED}
    net.grad.zero_()
    return out


def errors(loss, gradient, exact):
    """Relative errors against the reference: of the loss, and of the kind of matrix whose gradient is furthest off."""
    want, right = exact
    return abs(loss - want) / want, max(float((gradient[k] - right[k]).norm() / right[k].norm()) for k in COMPARED)


def reference(net, batch):
    """((loss, gradient), allowed error of the loss, of the gradient)."""
    exact = Net(net.shape, net.device)
    right = first_rows(exact.load(net.master), batch)
    own = (0.0, 0.0) if net.work.dtype == torch.float32 else errors(*first_rows(net, batch), right)
    return right, LOSS_TOLERANCE + OWN * own[0], GRADIENT_TOLERANCE + OWN * own[1]


def only_first(batch):
    """The batch with the weight on its first rows."""
    weight = batch["weight"].copy()
    weight[CHECKED:] = 0
    return {**batch, "weight": weight / weight.sum()}


def measured(net, runner, batch, micro, rounds):
    """(loss, gradient) of the first rows, seconds of the first pass, seconds of a step."""
    started = time.time()
    loss = float(accumulate(runner, only_first(batch), micro).sum())
    gradient = taken(net)
    wait(net.device)
    first = time.time() - started
    accumulate(runner, batch, micro)                                   # allocator, and whatever is compiled late
    wait(net.device)
    started = time.time()
    for _ in range(rounds):
        accumulate(runner, batch, micro)
    wait(net.device)
    return (loss, gradient), first, (time.time() - started) / rounds


def clear(net):
    """After the exception is gone: its traceback holds the tensors of the pass that failed."""
    net.grad.zero_()
    gc.collect()
    if net.device != "cpu":
        torch.cuda.empty_cache()


def try_path(net, name, compiled, batch, exact, rounds):
    """(row of the table, (runner, micro) or None)."""
    out, micro = {"path": name + ("+compile" if compiled else "")}, len(batch["ids"])
    right, *allowed = exact
    while True:
        full = False
        try:
            runner = Runner(net, name, compiled)
            got, first, step = measured(net, runner, batch, micro, rounds)
            found = errors(*got, right)
            break
        except Exception as e:                                         # a path that cannot run must not end the leg
            why, full = f"{type(e).__name__}: {' '.join(str(e).split())[:200]}", is_full(e) and micro > 1
        runner = got = None
        clear(net)
        if not full:
            return {**out, "ok": False, "why": why}, None
        micro //= 2
    clear(net)
    fine = all(f <= a for f, a in zip(found, allowed))
    out.update(micro=micro, first_s=round(first, 2), step_s=round(step, 4), tokens_s=int(batch["ids"].size / step), loss_error=float(f"{found[0]:.2e}"),
               gradient_error=float(f"{found[1]:.2e}"), ok=fine, why="" if fine else f"disagrees with the reference: allowed are {allowed[0]:.1e} and {allowed[1]:.1e}")
    return out, (runner, micro)


def smoke(net, batch, stage, budget, log, only=None, rounds=3):
    """Returns [(runner, micro)], fastest first. only: names of the paths to try (a leg that goes on knows them already).
    budget: seconds after which no further path is begun, if one works."""
    started, rows, found = time.time(), [], []
    exact = reference(net, only_first(batch))
    clear(net)
    top = peak(torch.cuda.get_device_name()) if net.device != "cpu" else None
    for name, compiled in CANDIDATES:
        label = name + ("+compile" if compiled else "")
        if only and label not in only:
            continue
        late = time.time() - started > budget
        if found and (late or (name == "plain" and not only)):         # plain products are the last resort
            rows.append({"path": label, "ok": False, "why": "not tried: " + ("the time for the smoke test is over" if late else "another path works")})
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
