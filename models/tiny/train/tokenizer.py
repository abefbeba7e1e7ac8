"""A byte-level BPE encoder for the corpus's tokenizer.json, and its truncation to a smaller vocabulary.

The pre-tokenizer's regular expression uses Unicode classes that Python's `re` lacks, so they are written
out here as ranges. `python3 tokenizer.py SOURCE_DIR TARGET_DIR 4096` writes the truncated tokenizer: the
first merges of a BPE are themselves a BPE, and the ids of what stays do not change.
"""
import json
import os
import re
import sys
import unicodedata

SPACE = "\\t-\\r \\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"


def ranges(keep):
    """A regex class body of the code points whose general category `keep` accepts."""
    out, start = [], None
    for cp in range(0x110001):
        inside = cp < 0x110000 and keep(unicodedata.category(chr(cp)))
        if inside and start is None:
            start = cp
        elif not inside and start is not None:
            out.append(f"\\U{start:08x}-\\U{cp - 1:08x}")
            start = None
    return "".join(out)


class Tokenizer:
    """encode(text) -> ids; decode(ids) -> text. Special tokens are never made from text."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as f:
            model = json.load(f)["model"]
        self.vocab = model["vocab"]
        self.back = {i: s for s, i in self.vocab.items()}
        self.rank = {tuple(m): i for i, m in enumerate(model["merges"])}
        printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
        other = [b for b in range(256) if b not in set(printable)]
        self.letter = {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(other)}}
        self.byte = {s: b for b, s in self.letter.items()}
        up, low = ranges(lambda c: c == "Lu"), ranges(lambda c: c in ("Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me"))
        let, num, sp = ranges(lambda c: c[0] == "L"), ranges(lambda c: c[0] == "N"), SPACE
        self.split = re.compile(
            rf"(?:\r?\n)+[ \t]*(?:\*(?=[{sp}])|//(?= ))?|[^\r\n{let}{num}]?[{up}]*[{low}]+|[^\r\n{let}{num}]?[{up}]+"
            rf"|[{num}]| ?[^{sp}{let}{num}]+|[ \t]+(?![^{sp}])|[{sp}]+")
        self.cache = {}                                                # word -> ids; grows with the words met

    def word(self, w):
        parts = [self.letter[b] for b in w.encode("utf-8")]
        while len(parts) > 1:
            r, i = min((self.rank.get(pair, 1 << 30), i) for i, pair in enumerate(zip(parts, parts[1:])))
            if r == 1 << 30:
                break
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        return [self.vocab[x] for x in parts]

    def encode(self, text):
        out = []
        for w in self.split.findall(text):
            ids = self.cache.get(w)
            if ids is None:
                ids = self.cache[w] = self.word(w)
            out += ids
        return out

    def decode(self, ids):
        return bytes(self.byte[ch] for i in ids if i > 15 for ch in self.back[i]).decode("utf-8", "replace")


def truncate(source, target, size, length=512):
    """Write the tokenizer of folder `source`, cut to its first `size` ids, into folder `target`; length: the model's context."""
    with open(os.path.join(source, "tokenizer.json"), encoding="utf-8") as f:
        j = json.load(f)
    model = j["model"]
    if not 272 <= size <= len(model["vocab"]):
        raise ValueError(f"size: got {size}, allowed are 272 (bytes and specials only) to {len(model['vocab'])}")
    model["vocab"] = {s: i for s, i in model["vocab"].items() if i < size}
    model["merges"] = [m for m in model["merges"] if m[0] + m[1] in model["vocab"]]
    with open(os.path.join(source, "tokenizer_config.json"), encoding="utf-8") as f:
        config = json.load(f)
    config["model_max_length"] = length
    config["bos_token"] = "<|endoftext|>"
    config["add_bos_token"] = True                                     # every document began with it in training
    config.pop("chat_template", None)                                  # the model never saw a chat
    os.makedirs(target, exist_ok=True)
    for name, value in (("tokenizer.json", j), ("tokenizer_config.json", config)):
        with open(os.path.join(target, name), "w", encoding="utf-8") as f:
            json.dump(value, f, ensure_ascii=False, separators=(",", ":") if name == "tokenizer.json" else None,
                      indent=None if name == "tokenizer.json" else 1)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: tokenizer.py SOURCE_DIR TARGET_DIR SIZE")
    truncate(sys.argv[1], sys.argv[2], int(sys.argv[3]))
