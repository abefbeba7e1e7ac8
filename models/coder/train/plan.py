"""What happens at which step: stages, the schedule's factor, and the arithmetic of speed."""
from dataclasses import dataclass

from tiny import BLOCK_LENGTHS

LOSS_KINDS = ("ar", *(f"bd{b}" for b in BLOCK_LENGTHS))
# dense bf16 with fp32 accumulation, without sparsity, by the vendor's datasheets
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}


@dataclass
class Plan:
    """Warm up, hold, cool down to zero (WSD). Steps [0, ar) are autoregressive, [ar, end) block diffusion; the last
    `cool` of them have the falling factor and, where they are block diffusion, the mixture of the stage "cool"."""
    ar: int
    end: int
    cool: int
    warm: int

    def check(self):
        for name, value, low in (("ar", self.ar, 0), ("end", self.end, 1), ("cool", self.cool, 0), ("warm", self.warm, 0)):
            if value < low:
                raise SystemExit(f"plan: {name} is {value}, allowed are whole numbers from {low}")
        if self.ar > self.end or self.cool > self.end:
            raise SystemExit(f"plan: ar {self.ar} and cool {self.cool} may not be more than end {self.end}")
        return self

    def stage(self, step):
        return "ar" if step < self.ar else "cool" if step >= self.end - self.cool else "bd"

    def scale(self, step):
        warm = (step + 1) / self.warm if self.warm else 1.0
        cool = (self.end - step) / self.cool if self.cool else 1.0
        return max(0.0, min(1.0, warm, cool))

    def land(self, step, steps_left):
        """End after this many more steps, with as much of the cooldown as fits; a plan of its own."""
        end = step + max(1, steps_left)
        return Plan(self.ar, end, min(self.cool, end - max(step, self.ar)), self.warm).check()

    def coming(self, step, done, count):
        """(stage, number) of the `count` batches from `step` on; done: how many batches of each stage were taken."""
        done, out = dict(done), []
        for s in range(step, min(self.end, step + count)):
            stage = self.stage(s)
            out.append((stage, done.get(stage, 0)))
            done[stage] = done.get(stage, 0) + 1
        return out


def flops_per_token(shape, stage):
    """Forward and backward, matrix products with weights only: attention is left out, so a share of the peak computed from
    this is a lower bound. Block diffusion runs two streams; the clean one stops at the last layer's attention."""
    c, e = shape, shape.head_dim
    attention_in = c.d * (c.heads + 2 * c.kv_heads) * e
    rest = c.d * c.heads * e + 3 * c.d * c.ffn
    layers, head = c.layers * (attention_in + rest), c.vocab * c.d
    return 6 * (layers + head) if stage == "ar" else 6 * (2 * layers - rest + head)


def peak(device_name):
    return next((p for name, p in PEAKS.items() if name in device_name), None)


if __name__ == "__main__":
    from net import CODER, Layout
    size, rows, length = Layout(CODER).size, 32, CODER.length
    print(f"{size} parameters; q8 {size * 36 / 32 / 1e6:.1f} MB, q4 {size * 20 / 32 / 1e6:.1f} MB, bf16 {size * 2 / 1e6:.1f} MB; "
          f"{rows * length} tokens a step")
    for share in (0.2, 0.3, 0.4):
        speed = {s: share * PEAKS["H100"] / flops_per_token(CODER, s) for s in ("ar", "bd")}
        print(f"at {share:.0%} of an H100's peak: " + ", ".join(
            f"{s} {flops_per_token(CODER, s) / 1e6:.0f} MFLOP/token, {v / 1e3:.0f}k tokens/s, {v * 60 / rows / length:.0f} steps/minute" for s, v in speed.items()))
