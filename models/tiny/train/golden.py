"""Golden logits of a checkpoint for the graph test, and a small held-out file for agreement tests.

  python3 golden.py CHECKPOINT DATA_DIR TOKENIZER_DIR HF_DIR OUT_DIR

Writes golden.json (cases), golden.safetensors (fp32 logits of chosen rows) and heldout.json into OUT_DIR. Row
tensors have shape [rows, V] and the order of the case's `rows`, which are absolute positions.
"""
import hashlib
import json
import os
import sys

import torch

from evaluate import bits
from export import write_safetensors
from model import EOT, MASK, from_checkpoint
from tokenizer import Tokenizer

TEXT = """/**
 * Checks whether a value lies in a range.
 */
export function inRange(value: number, start: number, end: number): boolean {
  return value >= start && value < end;
}

function last(array) {
  return array[array.length - 1];
}
"""
COMMAND = "python3 golden.py CHECKPOINT DATA_DIR TOKENIZER_DIR HF_DIR OUT_DIR"
# name, what it shows, block length, tokens, masked offsets in the last block, rows to keep as offsets in the last block, other rows
CASES = (
    ("block-causal-8", "whole sequence in one pass; the last block has masks among given tokens", 8, 40, (1, 3, 4, 7), (1, 3, 4, 7), (5, 20)),
    ("block-causal-32", "two blocks of the longest trained length; the second nearly all masked", 32, 64, tuple(range(2, 32)), (0, 2, 17, 31), (31,)),
    ("cached-block-16", "last block only, given the clean prefix: a cached pass over it must give these rows", 16, 48, tuple(range(6, 16)), (0, 6, 7, 11, 15), ()),
)


def golden(model, tok, weights_hash, metadata):
    ids = [EOT] + tok.encode(TEXT)
    cases, tensors = [], {}
    for name, about, block, length, hide, rows, others in CASES:
        start = length - block
        seq = list(ids[:length])
        assert len(seq) == length, f"the text has {len(ids)} tokens, case {name} needs {length}"
        for i in hide:
            seq[start + i] = MASK
        with torch.no_grad():
            logits = model.logits(torch.tensor([seq]), block)[0]
        keep = sorted([*others, *(start + i for i in rows)])
        tensors[name] = logits[keep]
        case = {"name": name, "about": about, "blockLength": block, "inputIds": seq, "positions": list(range(length)), "rows": keep,
                "top1": logits[keep].argmax(-1).tolist(), "tensor": name}
        if name.startswith("cached"):
            case["prefixLength"] = start
        cases.append(case)
    origin = {"model": "models/tiny", "weightsSha256": weights_hash, "dtype": "fp32", **metadata,
              "attention": "block-causal: a position sees its own whole block and all earlier ones", "logitShift": 0,
              "tolerance": "an fp32 graph should agree within 2e-3 absolute"}
    return {"origin": origin, "command": COMMAND, "text": TEXT, "cases": cases}, tensors


def heldout(data_dir, tok, budget=8000):
    """About `budget` tokens of held-out functions, half of each group, with source and licence of each."""
    with open(os.path.join(data_dir, "val.jsonl"), encoding="utf-8") as f:
        docs = [json.loads(line) for line in f]
    out, total = [], 0
    for group in ("util", "docfunc"):
        part, used = [d for d in docs if d["group"] == group], 0
        stride = max(1, len(part) * 80 // budget)                      # spread over the file: neighbours are alike
        for d in [*part[::stride], *part]:
            if used + d["n"] <= budget // 2 and d["text"] not in {o["text"] for o in out}:
                out.append({"text": d["text"], "source": d["source"], "path": d["path"], "licence": d["lic"]})
                used += d["n"]
        total += used
    return {"about": "Functions held out from training (split by hash of the code), in their authors' words; each entry names package, version, path and declared licence.",
            "command": COMMAND, "tokens": total, "documents": out}


def write_json(path, value, list_name):
    """`value` as JSON with one line for each entry of its list `list_name`."""
    plain = lambda x: json.dumps(x, ensure_ascii=False)
    parts = [f" {plain(k)}: {plain(v)}" for k, v in value.items() if k != list_name]
    parts.append(f" {plain(list_name)}: [\n  " + ",\n  ".join(plain(v) for v in value[list_name]) + "\n ]")
    with open(path, "w", encoding="utf-8") as f:
        f.write("{\n" + ",\n".join(parts) + "\n}\n")


def main():
    if len(sys.argv) != 6:
        sys.exit("usage: golden.py CHECKPOINT DATA_DIR TOKENIZER_DIR HF_DIR OUT_DIR")
    checkpoint, data_dir, tokenizer_dir, hf_dir, out = sys.argv[1:]
    torch.set_num_threads(1)
    model, ck = from_checkpoint(checkpoint)
    tok = Tokenizer(os.path.join(tokenizer_dir, "tokenizer.json"))
    with open(os.path.join(hf_dir, "model.safetensors"), "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    header, tensors = golden(model, tok, digest, {"step": ck["step"], "tokensSeen": int(ck["tokens"])})
    write_safetensors(os.path.join(out, "golden.safetensors"), tensors, {"weightsSha256": digest})
    held = heldout(data_dir, tok)
    write_json(os.path.join(out, "golden.json"), header, "cases")
    write_json(os.path.join(out, "heldout.json"), held, "documents")
    docs = [([EOT] + tok.encode(d["text"]) + [EOT], len(d["text"].encode()), "") for d in held["documents"]]
    print(json.dumps({"rows": sum(len(c["rows"]) for c in header["cases"]), "heldout documents": len(docs), "heldout tokens": held["tokens"],
                      "heldout bits per byte, block 16": round(bits(model, docs, 16, 4)[0], 4)}))


if __name__ == "__main__":
    main()
