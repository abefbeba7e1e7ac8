"""Draw loss.svg from the log of a run, without dependencies: python3 plot.py RUN_DIR/log.jsonl loss.svg"""
import json
import math
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 420, 54, 112, 34, 44
LABELS = {"ar": "autoregressive", "bd4": "block 4", "bd8": "block 8", "bd16": "block 16", "bd32": "block 32"}
COLOURS = {"ar": "#6b7280", "bd4": "#b91c1c", "bd8": "#e2551f", "bd16": "#d99a16", "bd32": "#7c3aed"}


def read(*paths):
    """Log rows in order; a resumed leg overrules the lines its predecessor wrote after the last checkpoint."""
    rows = []
    for path in paths:
        with open(path) as f:
            for line in f:
                r = json.loads(line)
                if r["kind"] == "leg":
                    rows = [x for x in rows if x.get("step", 0) <= r["step"]]
                rows.append(r)
    return rows


def smooth(points, share=0.25):
    out, mean = [], None
    for x, y in points:
        mean = y if mean is None else mean + share * (y - mean)
        out.append((x, mean))
    return out


def draw(rows, path):
    train = [r for r in rows if r["kind"] == "train"]
    if not train:
        sys.exit(f"{path}: no training lines to draw")
    curves = {k: smooth([(r["tokens"] / 1e6, r["loss"][k]) for r in train if k in r["loss"]]) for k in COLOURS}
    held = {k: [(r["tokens"] / 1e6, r["nats"][k]) for r in rows if r["kind"] == "eval" and k in r["nats"]] for k in COLOURS}
    right = max(r["tokens"] for r in rows if "tokens" in r) / 1e6
    values = [y for c in (*curves.values(), *held.values()) for _, y in c]
    low = math.floor(min(values) * 2) / 2
    high = max(low + 0.5, min(6.5, math.ceil(max(values) * 2) / 2))
    x = lambda t: LEFT + t / right * (WIDTH - LEFT - RIGHT)
    y = lambda v: TOP + (high - min(v, high)) / (high - low) * (HEIGHT - TOP - BOTTOM)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
           f'<text x="{LEFT}" y="18" font-size="14">Loss in nats per token: lines on training data (smoothed), dots held out</text>']
    v = low
    while v <= high + 1e-9:
        out.append(f'<path d="M{LEFT} {y(v):.1f}H{WIDTH - RIGHT}" stroke="#e5e7eb"/><text x="{LEFT - 8}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.1f}</text>')
        v += 0.5
    for t in range(0, int(right) + 1, max(1, int(right / 10))):
        out.append(f'<text x="{x(t):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{t}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">tokens seen, millions</text>')
    ends = []
    for k, c in curves.items():
        if c:
            out.append(f'<path fill="none" stroke="{COLOURS[k]}" stroke-width="1.6" d="M' + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in c) + '"/>')
            ends.append([y(c[-1][1]), k])
        out += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.2" fill="#fff" stroke="{COLOURS[k]}" stroke-width="1.6"/>' for a, b in held[k]]
    ends.sort()
    for i in range(1, len(ends)):                                      # labels do not overlap
        ends[i][0] = max(ends[i][0], ends[i - 1][0] + 15)
    for at, k in ends:
        where = x(curves[k][-1][0]) + 8 if k != "ar" else x(curves[k][-1][0]) + 6
        out.append(f'<text x="{where:.1f}" y="{at + 4:.1f}" fill="{COLOURS[k]}">{LABELS[k]}</text>')
    with open(path, "w") as f:
        f.write("\n".join(out) + "\n</svg>\n")


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: plot.py LOG_JSONL OUT_SVG")
    draw(read(sys.argv[1]), sys.argv[2])


if __name__ == "__main__":
    main()
