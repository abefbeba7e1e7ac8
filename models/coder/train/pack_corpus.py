"""The corpus as tokens, small enough to carry: corpus folder -> OUT_DIR with data.json, index.xz, tokens-N.xz, tokenizer/.

  python3 pack_corpus.py OUT_DIR [--corpus DIR] [--documents N] [--parts N] [--preset 0..9]

The stream is uint16 tokens, cut into SEGMENTS: a document, and right behind it the documented and the short functions
that were found in it (comment, one-sentence comment, code: three segments), because the compressor then finds
them again a short way back and they cost next to nothing. The index holds kind and length of every segment, in order. Nothing
here marks beginnings or ends: the reader (packed.py, feed.py) adds <|endoftext|> and the infilling markers.

Held out: the corpus's own held-out files and their functions; a function that equals one of those after
normalisation (models/tiny/train/prepare.py) is left out of training.
"""
import argparse
import collections
import hashlib
import json
import lzma
import os
import struct
import sys

import numpy as np

from tiny import ROOT, Tokenizer, key, rows, short_comment, split_comment, truncate

# Kinds of segments. Documents: CORE typed or well documented code, LIBRARY other libraries, TEST, PROSE. Functions, by where
# they come from; each is three segments in a row: comment, short comment, code (comments may be empty).
KINDS = ("core", "library", "test", "prose", "function", "assigned", "method", "util", "util-doc", "val-code", "val-prose", "val-function")
CODE = {name: i for i, name in enumerate(KINDS)}
FUNCTIONS = ("function", "assigned", "method", "util", "util-doc", "val-function")
DROPPED_SOURCES = ("@codingame/monaco-vscode-api",)        # 16 MB whose comments were stripped
LENGTH = 2048                                              # what tokenizer_config.json tells about the context
# LZMA for 16-bit units: the position's parity is context (lp, pb 1), matches start on even bytes
FILTER = {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 27, "lc": 3, "lp": 1, "pb": 1}


def compress(raw, preset):
    return lzma.compress(raw, lzma.FORMAT_XZ, filters=[{**FILTER, "preset": preset}])


def package(row):
    return (row.get("src") or row["source"]).rsplit("@", 1)[0]


def place(row):
    return row.get("src") or row["source"], row["path"]


class Stream:
    """Tokens and segments being written; `add` is its only way in."""

    def __init__(self, tok):
        self.tok, self.parts, self.kinds, self.lengths = tok, [], [], []
        self.tokens, self.bytes, self.count = collections.Counter(), collections.Counter(), collections.Counter()

    def add(self, kind, *texts):
        for text in texts:
            ids = np.array(self.tok.encode(text), dtype="<u2")
            self.parts.append(ids)
            self.kinds.append(CODE[kind])
            self.lengths.append(len(ids))
            self.tokens[kind] += len(ids)
            self.bytes[kind] += len(text.encode())
        self.count[kind] += 1


def function_texts(row):
    """(comment, one-sentence comment, code), each comment with its line end or empty; None if the function is no use."""
    full, code = split_comment(row)
    code = code.strip("\n")
    short = short_comment(row.get("doc", ""))
    texts = (full + "\n" if full else "", short + "\n" if short and short != full else "", code)
    return None if "<|" in "".join(texts) or not 20 <= len(code) or code[0].isspace() else texts


def functions(corpus, held):
    """{(source, path): [(kind, texts)]} of the training functions, each normalised code once."""
    out, seen, dropped = collections.defaultdict(list), set(held), 0
    for name in ("utils.jsonl.xz", "docfunc.jsonl.xz", "docfunc-2.jsonl.xz"):
        for r in rows(os.path.join(corpus, name)):
            texts, k = function_texts(r), key(split_comment(r)[1])
            if texts is None or k in seen:
                dropped += 1
                continue
            seen.add(k)
            out[place(r)].append((r["kind"] if "kind" in r else "util-doc" if r["doc"] else "util", texts))
    return out, dropped


def build(corpus, tok, limit):
    """The whole stream; limit: this many documents of each corpus file, 0 for all."""
    held_rows = [r for name in ("docfunc.val.jsonl", "docfunc-2.val.jsonl.xz") for r in rows(os.path.join(corpus, name))]
    found, dropped = functions(corpus, {key(split_comment(r)[1]) for r in held_rows})
    stream, licences = Stream(tok), collections.Counter()
    for name in ("corpus-1.jsonl.xz", "corpus-2.jsonl.xz", "corpus-3.jsonl.xz"):
        with lzma.open(os.path.join(corpus, name), "rt", encoding="utf-8") as f:
            for i, line in enumerate(f):
                if limit and i >= limit:
                    break
                r = json.loads(line)
                if package(r) in DROPPED_SOURCES:
                    continue
                kind = {"doc": "prose", "test": "test"}.get(r["kind"]) or ("core" if r["band"] < 2 else "library")
                stream.add(kind, r["text"])
                licences[r["lic"]] += len(r["text"].encode())
                for group, texts in found.pop(place(r), ()):
                    stream.add(group, *texts)
        print(f"{name}: {sum(stream.tokens.values())} tokens so far", file=sys.stderr, flush=True)
    if not limit:
        for group, texts in (f for fs in found.values() for f in fs):  # of a document that is not in the corpus
            stream.add(group, *texts)
    for name in ("val.jsonl.xz", "val2.jsonl.xz"):
        for r in rows(os.path.join(corpus, name))[:limit or None]:
            stream.add("val-prose" if r["kind"] == "doc" else "val-code", r["text"])
    for r in held_rows[:limit or None]:
        texts = function_texts(r)
        if texts:
            stream.add("val-function", *texts)
    return stream, {"functions dropped": dropped, "bytes by licence": dict(licences.most_common())}


def index_bytes(kinds, lengths):
    """kind u8 for all segments, then lengths u32 for all: compresses better than pairs."""
    return struct.pack("<I", len(kinds)) + np.array(kinds, np.uint8).tobytes() + np.array(lengths, "<u4").tobytes()


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("out")
    ap.add_argument("--corpus", default=os.path.join(ROOT, "..", "shared", "corpus"))
    ap.add_argument("--documents", type=int, default=0, help="documents of each corpus file; 0: all")
    ap.add_argument("--parts", type=int, default=5, help="files the token stream is cut into")
    ap.add_argument("--preset", type=int, default=9, help="of LZMA")
    c = ap.parse_args()
    os.makedirs(c.out, exist_ok=True)
    tokenizer = os.path.join(c.out, "tokenizer")
    truncate(os.path.join(c.corpus, "tokenizer", "bpe8192"), tokenizer, 8192, LENGTH)
    stream, facts = build(c.corpus, Tokenizer(os.path.join(tokenizer, "tokenizer.json")), c.documents)
    tokens = np.concatenate(stream.parts)
    preset = c.preset | (lzma.PRESET_EXTREME if c.preset == 9 else 0)
    files = {"index.xz": lzma.compress(index_bytes(stream.kinds, stream.lengths), preset=preset)}
    cuts = np.linspace(0, len(tokens), c.parts + 1).astype(int)
    for i, (a, b) in enumerate(zip(cuts, cuts[1:])):
        files[f"tokens-{i}.xz"] = compress(tokens[a:b].tobytes(), preset)
        print(f"tokens-{i}.xz: {len(files[f'tokens-{i}.xz'])} bytes", file=sys.stderr, flush=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        with open(os.path.join(tokenizer, name), "rb") as f:
            files["tokenizer/" + name] = f.read()
    facts = {"format": "coder-data", "version": 1, "kinds": KINDS, "segments": len(stream.kinds), "tokens": len(tokens),
             "by kind": {k: {"items": stream.count[k], "tokens": stream.tokens[k], "bytes": stream.bytes[k]} for k in KINDS},
             **facts, "sha256 of all tokens": hashlib.sha256(tokens.tobytes()).hexdigest(),
             "files": {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in files.items()}}
    for name, data in files.items():
        with open(os.path.join(c.out, name), "wb") as f:
            f.write(data)
    with open(os.path.join(c.out, "data.json"), "w") as f:
        json.dump(facts, f, indent=1)
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
