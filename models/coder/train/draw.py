"""Draw the loss over all legs: python3 draw.py LOG_JSONL [LOG_JSONL ...] OUT_SVG

Logs of several legs in their order; usually one does, since log.jsonl travels with the checkpoint. Held-out dots are the averaged weights.
"""
import sys

import tiny  # noqa: F401  puts models/tiny/train on the path
from plot import draw, read


def main():
    if len(sys.argv) < 3:
        sys.exit("usage: draw.py LOG_JSONL [LOG_JSONL ...] OUT_SVG")
    draw([r for r in read(*sys.argv[1:-1]) if r.get("weights") != "last"], sys.argv[-1])


if __name__ == "__main__":
    main()
