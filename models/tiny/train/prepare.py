"""Choose and clean the training text: corpus folder -> train.jsonl, val.jsonl, data.json in the output folder.

  python3 prepare.py CORPUS_DIR TOKENIZER_DIR OUT_DIR

A narrow diet: every short utility function, and the short ones among the documented functions. One line of
train.jsonl is one VARIANT of a function (full doc comment, one-sentence comment, no comment): {text, n, w} with
n tokens and sampling weight w. Held out: 3 % of the utilities by the hash of their normalised code, and the
corpus's own held-out documented functions; whatever equals one of them after normalisation is not trained on.
"""
import collections
import glob
import hashlib
import json
import lzma
import os
import re
import sys

from tokenizer import Tokenizer

LIMIT = 224                     # tokens of a variant: the longest row bucket less the markers
# Sampling weight of one function, by where it comes from; small clear libraries count more.
WEIGHT = {"util-doc": 4.0, "util": 2.5, "function": 1.0, "assigned": 0.25, "method": 0.12}
CLEAR = {"es-toolkit": 3.0, "lodash": 2.0, "ramda": 3.0, "date-fns": 3.0, "@stdlib/math": 0.5}
# (full doc comment, one-sentence comment, no comment): how a function's weight is shared among its variants
SHARES = (0.5, 0.25, 0.25)


def rows(path):
    opener = lzma.open if path.endswith(".xz") else open
    with opener(path, "rt", encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def key(code):
    """Hash of the code without comments, white space, `export` and semicolons: equal keys are the same function."""
    code = re.sub(r"/\*.*?\*/|(?m:^\s*//.*$)", "", code, flags=re.S)
    code = re.sub(r"\bexport\b|\bdefault\b|[\s;]", "", code)
    return hashlib.sha1(code.encode()).hexdigest()


def split_comment(row):
    """(full comment, code without it). Utilities keep the comment apart; documented functions start with it."""
    if "comment" in row:
        return row["comment"], row["code"]
    m = re.match(r"\s*(/\*\*.*?\*/)\n(.*)", row["code"], re.S)
    return (m[1], m[2]) if m else ("", row["code"])


def short_comment(doc):
    """The first sentence of a description as a doc comment in the common form."""
    first = re.split(r"(?<=[.!?])\s|\n", doc.strip())[0].strip()
    return f"/**\n * {first}\n */" if 8 <= len(first) <= 120 and "*/" not in first else ""


def variants(row, tok):
    """[(text, tokens, share)] of one function, the shares of what fits adding up to 1."""
    full, code = split_comment(row)
    code, out = code.strip("\n"), []
    short = short_comment(row.get("doc", ""))
    texts = [full + "\n" + code if full else "", short + "\n" + code if short and short != full else "", code]
    for text, share in zip(texts, SHARES):
        if text and "<|" not in text:
            n = len(tok.encode(text))
            if 12 <= n <= LIMIT:
                out.append((text, n, share))
    total = sum(s for *_, s in out)
    return [(t, n, s / total) for t, n, s in out]


def main():
    if len(sys.argv) != 4:
        sys.exit("usage: prepare.py CORPUS_DIR TOKENIZER_DIR OUT_DIR")
    corpus, tokenizer_dir, out = sys.argv[1:]
    os.makedirs(out, exist_ok=True)
    tok = Tokenizer(os.path.join(tokenizer_dir, "tokenizer.json"))
    held, val, seen = set(), [], set()

    def hold(row, group):
        full, code = split_comment(row)
        k = key(code)
        if k in held:
            return
        held.add(k)
        text = (full + "\n" + code.strip("\n")).strip("\n")
        n = len(tok.encode(text))
        if 12 <= n <= LIMIT and "<|" not in text:
            val.append({"group": group, "text": text, "n": n, "source": row.get("source") or row["src"], "path": row["path"], "lic": row["lic"]})

    utils = rows(os.path.join(corpus, "utils.jsonl.xz"))
    for r in utils:
        if int(key(r["code"])[:4], 16) < 0.03 * 65536:
            hold(r, "util")
    for name in ("docfunc.val.jsonl", "docfunc-2.val.jsonl.xz"):
        for r in rows(os.path.join(corpus, name)):
            hold(r, "docfunc")

    stats, weights, licences = collections.Counter(), collections.Counter(), collections.Counter()
    with open(os.path.join(out, "train.jsonl"), "w", encoding="utf-8") as f:
        def take(row, group):
            k = key(split_comment(row)[1])
            if k in held or k in seen:
                stats["dropped as duplicate or held out"] += 1
                return
            vs = variants(row, tok)
            if not vs:
                stats[f"{group}: too long or too short"] += 1
                return
            seen.add(k)
            package = (row.get("source") or row["src"]).rsplit("@", 1)[0]
            w = WEIGHT[group] * CLEAR.get(package, 1.0)
            for text, n, share in vs:
                f.write(json.dumps({"text": text, "n": n, "w": round(w * share, 4)}) + "\n")
                weights[group] += w * share * n
            stats[f"{group}: functions"] += 1
            stats[f"{group}: variants"] += len(vs)
            stats[f"{group}: tokens of the longest variant"] += max(n for _, n, _ in vs)
            licences[row["lic"]] += 1
        for r in utils:
            take(r, "util-doc" if r["doc"] else "util")
        for path in ("docfunc.jsonl.xz", "docfunc-2.jsonl.xz"):
            for r in rows(os.path.join(corpus, path)):
                take(r, r["kind"])
    with open(os.path.join(out, "val.jsonl"), "w", encoding="utf-8") as f:
        for v in val:
            f.write(json.dumps(v) + "\n")
    total = sum(weights.values())
    facts = {"counts": dict(sorted(stats.items())), "share of sampled tokens": {g: round(w / total, 3) for g, w in weights.items()},
             "functions by licence": dict(licences.most_common()), "held-out documents": dict(collections.Counter(v["group"] for v in val)),
             "held-out tokens": sum(v["n"] for v in val),
             "sha256": {os.path.basename(p): hashlib.sha256(open(p, "rb").read()).hexdigest()
                        for p in sorted(glob.glob(os.path.join(corpus, "utils.jsonl.xz")) + glob.glob(os.path.join(corpus, "docfunc*")))}}
    with open(os.path.join(out, "data.json"), "w") as f:
        json.dump(facts, f, indent=1)
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
