"""For the tests: a small packed corpus made of nothing, in the form that packed.py reads."""
import hashlib
import json
import lzma
import os

import numpy as np

from pack_corpus import CODE, FUNCTIONS, KINDS, compress, index_bytes


class ByteTokenizer:
    """256 bytes behind 16 special ids, and a few longer words, with the parts of Tokenizer that Cuts uses."""
    words = ("\n  ", "\n    ", "\n  // ", "function", "(value", "return ", " => ", ");\n")

    def __init__(self):
        letters = [chr(256 + b) for b in range(256)]
        self.byte = {c: b for b, c in enumerate(letters)}
        texts = ["?"] * 16 + letters + ["".join(letters[b] for b in w.encode()) for w in self.words]
        self.vocab = {f"{i}:{t}": i for i, t in enumerate(texts)}
        self.back = dict(enumerate(texts))

    def encode(self, text):
        """Greedy, longest word first."""
        out, at = [], 0
        while at < len(text):
            word = max((w for w in self.words if text.startswith(w, at)), key=len, default=None)
            out += [16 + 256 + self.words.index(word)] if word else [16 + b for b in text[at].encode()]
            at += len(word or text[at])
        return out

    def decode(self, ids):
        return bytes(self.byte[ch] for i in ids if i > 15 for ch in self.back[i]).decode()


def text(rng, lines):
    return "function f(value) {\n" + "".join(f"  return {rng.integers(1000)} => x{'(value);' * int(rng.integers(3))}\n" for _ in range(lines)) + "}\n"


def write(folder, seed=0):
    """A packed corpus of some hundred texts in `folder`. Returns its tokenizer."""
    tok, rng, kinds, parts = ByteTokenizer(), np.random.default_rng(seed), [], []
    for kind in KINDS:
        for _ in range(12):
            texts = ["/** Does it. */\n", "", text(rng, 3).strip()] if kind in FUNCTIONS else [text(rng, int(rng.integers(3, 60)))]
            for t in texts:
                kinds.append(CODE[kind])
                parts.append(np.array(tok.encode(t), "<u2"))
    tokens = np.concatenate(parts)
    cut = len(tokens) // 3
    files = {"index.xz": lzma.compress(index_bytes(kinds, [len(p) for p in parts])),
             "tokens-0.xz": compress(tokens[:cut].tobytes(), 1), "tokens-1.xz": compress(tokens[cut:].tobytes(), 1)}
    os.makedirs(folder, exist_ok=True)
    for name, data in files.items():
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)
    with open(os.path.join(folder, "data.json"), "w") as f:
        json.dump({"kinds": KINDS, "tokens": len(tokens), "sha256 of all tokens": hashlib.sha256(tokens.tobytes()).hexdigest(),
                   "files": {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in files.items()}}, f)
    return tok
