"""Reads what pack_corpus.py wrote: one long uint16 array and the segments in it."""
import hashlib
import json
import lzma
import os
import struct
from multiprocessing.pool import ThreadPool

import numpy as np

from pack_corpus import CODE, FUNCTIONS, KINDS


def verified(folder, name, fact):
    """Bytes of a packed file, or an error that says what is wrong with it."""
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        raise SystemExit(f"{path}: not there; data.json lists {fact['bytes']} bytes of it. Bring the missing part or run pack_corpus.py")
    with open(path, "rb") as f:
        raw = f.read()
    if hashlib.sha256(raw).hexdigest() != fact["sha256"]:
        raise SystemExit(f"{path}: sha256 differs from data.json ({len(raw)} bytes, {fact['bytes']} expected); copy it again")
    return raw


class Packed:
    """tokens [T] uint16 (a memory map), docs {kind: [[start, length]]}, functions {kind: [[comment, n, short, n, code, n]]}."""

    def __init__(self, folder, scratch=None):
        """scratch: where the unpacked tokens are kept; default: the folder itself."""
        with open(os.path.join(folder, "data.json")) as f:
            self.facts = facts = json.load(f)
        if tuple(facts["kinds"]) != KINDS:
            raise SystemExit(f"{folder}/data.json: kinds are {facts['kinds']}, this program reads {list(KINDS)}; pack the corpus again")
        self.folder, digest = folder, facts["sha256 of all tokens"]
        path = os.path.join(scratch or folder, f"tokens-{digest[:12]}.u16")
        if not os.path.exists(path):
            self.unpack(path, digest)
        self.tokens = np.memmap(path, np.uint16, "r")
        if len(self.tokens) != facts["tokens"]:
            raise SystemExit(f"{path}: {len(self.tokens)} tokens, data.json says {facts['tokens']}; delete it")
        raw = lzma.decompress(verified(folder, "index.xz", facts["files"]["index.xz"]))
        count, = struct.unpack_from("<I", raw)
        kinds, lengths = np.frombuffer(raw, np.uint8, count, 4), np.frombuffer(raw, "<u4", count, 4 + count).astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        self.docs, self.functions = {}, {}
        for kind in KINDS:
            at = np.flatnonzero(kinds == CODE[kind])
            if kind in FUNCTIONS:
                three = np.stack([starts[at], lengths[at]], 1).reshape(-1, 6)
                self.functions[kind] = three
            else:
                self.docs[kind] = np.stack([starts[at], lengths[at]], 1)

    def unpack(self, path, digest):
        """All parts at once, one thread each (the decompressor works outside Python's lock), then one file."""
        files = self.facts["files"]
        names = sorted((n for n in files if n.startswith("tokens-")), key=lambda n: int(n[7:-3]))
        packed = [verified(self.folder, n, files[n]) for n in names]   # here: a thread of the pool that exits is waited for for ever
        with ThreadPool(min(len(names), os.cpu_count() or 1)) as pool:
            parts = pool.map(lzma.decompress, packed)
        if hashlib.sha256(b"".join(parts)).hexdigest() != digest:
            raise SystemExit(f"{self.folder}: the unpacked tokens do not have the hash in data.json")
        with open(path + ".tmp", "wb") as f:
            f.writelines(parts)
        os.replace(path + ".tmp", path)
