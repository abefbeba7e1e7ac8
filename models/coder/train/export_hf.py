"""Write a checkpoint in Hugging Face layout (bf16), as `deno task convert` takes it.

  python3 export_hf.py RUN_DIR DATA_DIR OUT_DIR [ema|last]
"""
import os
import sys
from types import SimpleNamespace

import torch

from net import Layout
from tiny import Shape, export


def main():
    if not 4 <= len(sys.argv) <= 5 or sys.argv[4:] not in ([], ["ema"], ["last"]):
        sys.exit("usage: export_hf.py RUN_DIR DATA_DIR OUT_DIR [ema|last]")
    run, data, out = sys.argv[1:4]
    weights = sys.argv[4] if len(sys.argv) == 5 else "ema"
    ck = torch.load(os.path.join(run, "checkpoint.pt"), map_location="cpu")
    shape = Shape(**ck["shape"])
    flat = ck["ema" if weights == "ema" else "master"]
    model = SimpleNamespace(shape=shape, p=Layout(shape).named(flat))
    export(model, os.path.join(data, "tokenizer"), out, {"step": str(ck["step"]), "tokens": str(ck["tokens"]), "stage": ck["stage"], "weights": weights})
    print(f"{flat.numel()} parameters ({weights}, step {ck['step']}) -> {out}")


if __name__ == "__main__":
    main()
