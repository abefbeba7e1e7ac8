"""Batches: rows of several pieces each, infilling, masks. Which batch comes is a pure function of (seed, stage, number).

A PIECE is <|endoftext|> and a document (or a part of it) or a function; it starts on the 32-grid, so that every
piece lies on the block grid of every block length as if it stood alone, and attention never leaves it. A piece that
ends where its text ends gets <|endoftext|> up to the grid, as at inference; one that is cut fills the grid exactly.

A STAGE of training has a mixture and epochs. The rows of an epoch are laid out by walking through all its documents in
random order, and then shuffled; an epoch has a fixed number of steps, so (stage, number) names a batch.
"""
import numpy as np
import torch

from pack_corpus import FUNCTIONS
from tiny import BLOCK_LENGTHS, EOT, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, draw_masks, up

GRID, SHORTEST = 32, 64
# How often an item of each kind comes in one epoch of a stage (a fraction: that probability).
MIXES = {
    "ar": {"core": 1, "library": 1, "test": 0.5, "prose": 0.5, "function": 0.5, "assigned": 0.25, "method": 0.25, "util": 2, "util-doc": 2},
    "bd": {"core": 1, "library": 0.75, "test": 0.35, "prose": 0.35, "function": 1, "assigned": 0.3, "method": 0.5, "util": 2, "util-doc": 2},
    "cool": {"core": 0.6, "library": 0.25, "test": 0.1, "prose": 0.15, "function": 2, "assigned": 0.4, "method": 0.8, "util": 2, "util-doc": 3},
    "val-code": {"val-code": 1}, "val-functions": {"val-function": 1}, "val-infill": {"val-code": 1},
}
STAGES = tuple(MIXES)
FIM = {"prose": 0.1, "val-code": 0.0, "val-function": 0.0, **{k: 0.35 for k in FUNCTIONS if k != "val-function"}}
FIM_ELSE = 0.5                  # of documents of code
CUT_RATE = 1 / 400              # tokens cut in two, as where a prompt ends: in half of the pieces, at most two a piece
VARIANTS = (0.5, 0.3, 0.2)      # of a function: full comment, one-sentence comment, none
BLOCK_SHARES = (0.2, 0.3, 0.3, 0.2)     # of the rows of a batch, for blocks of 4, 8, 16, 32
MAX_MIDDLE = 512


class Cuts:
    """The ways to cut a token between two characters, each half tokenised by itself as a prompt and its continuation are."""

    def __init__(self, tok):
        self.ways, self.line, self.bytes = {}, {}, np.zeros(len(tok.vocab), np.int64)
        self.newline, self.blank = np.zeros(len(tok.vocab), bool), np.zeros(len(tok.vocab), bool)    # begins with a line end; and is only space
        for i in range(16, len(tok.vocab)):
            raw = bytes(tok.byte[ch] for ch in tok.back[i])
            self.bytes[i] = len(raw)
            if raw[:1] == b"\n":
                self.newline[i], self.blank[i] = True, not raw.strip()
            if len(raw) < 2 or max(raw) > 127:
                continue
            text = raw.decode()
            halves = [(tok.encode(text[:k]), tok.encode(text[k:])) for k in range(1, len(text))]
            self.ways[i] = [h for h in halves if len(h[0]) + len(h[1]) <= 3]
            lead = len(text) - len(text.lstrip("\n"))
            if 0 < lead < len(text) and len(halves[lead - 1][1]) <= 2:
                self.line[i] = halves[lead - 1]        # behind the line ends, before the indentation

    def at(self, ids, i, rng=None, line=False):
        """ids (list) cut before place i; with rng half of the time inside token i; with line behind its line ends."""
        if line and i < len(ids):
            left, right = self.line.get(ids[i], ([ids[i]], []))
            return ids[:i] + left, right + ids[i + 1:]
        ways = self.ways.get(ids[i]) if rng is not None and i < len(ids) and rng.random() < 0.5 else None
        if not ways:
            return ids[:i], ids[i:]
        left, right = ways[int(rng.integers(len(ways)))]
        return ids[:i] + left, right + ids[i + 1:]


def middle(ids, cuts, rng, body=0):
    """(prefix, middle, suffix) of ids: what an editor would ask for. body: where a function's code starts, if ids are one."""
    n, lines = len(ids), np.flatnonzero(cuts.newline[ids])
    u = rng.random()
    if body is not None and u < 0.3 and (lines > body).sum() >= 2:                 # a function's body
        inside = lines[lines > body]
        a, b, how = int(inside[0]), int(inside[-1]), "line"
    elif u < 0.6 and len(lines) >= 2:                                              # whole lines
        i = int(rng.integers(len(lines) - 1))
        a, b, how = int(lines[i]), int(lines[min(len(lines) - 1, i + int(rng.geometric(0.4)))]), "line"
    elif u < 0.85 and len(lines):                                                  # from the cursor to the end of its line
        b = int(lines[rng.integers(len(lines))])
        before = lines[lines < b]
        a, how = int(rng.integers(before[-1] + 1 if len(before) else 0, b + 1)), "cursor"
    else:                                                                          # any span
        a = int(rng.integers(n))
        b, how = min(n, a + int(rng.geometric(1 / 40))), "span"
    b = min(b, a + MAX_MIDDLE)
    head, suffix = cuts.at(ids, b, rng if how == "span" else None)
    prefix, mid = cuts.at(head, a, rng if a < b else None, line=how == "line" and a < b)
    return prefix, mid, suffix


class Feed:
    """Owned by one process. `batch` and `held_out` are its entries."""

    def __init__(self, packed, cuts, length, rows, seed):
        self.packed, self.cuts, self.length, self.rows, self.seed = packed, cuts, length, rows, seed
        self.kept = {}                                                 # (stage, epoch) -> rows, the last few; written by `table` only
        self.docs = {k: v.tolist() for k, v in packed.docs.items()}    # lists: single items are read, which NumPy is slow at
        self.functions = {k: v.tolist() for k, v in packed.functions.items()}
        self.held = {}                                                 # rows of held-out batches, made once; written by `held_out` only

    def rng(self, stage, *numbers):
        return np.random.default_rng((self.seed, STAGES.index(stage), *numbers))

    def epoch_steps(self, stage):
        """Fewer than an epoch's rows give, by the fill of their pieces: which rows are left out changes every epoch."""
        total = sum(share * (self.packed.functions[k][:, 5].sum() if k in FUNCTIONS else self.packed.docs[k][:, 1].sum())
                    for k, share in MIXES[stage].items())
        return max(1, int(total / (self.length * self.rows)))

    def items(self, stage, rng):
        """[(kind, index)] of one epoch in random order."""
        out = []
        for kind, share in MIXES[stage].items():
            n = len(self.packed.functions[kind] if kind in FUNCTIONS else self.packed.docs[kind])
            whole, rest = int(share), share - int(share)
            out += [(kind, i) for i in range(n)] * whole
            if rest:
                out += [(kind, int(i)) for i in np.flatnonzero(rng.random(n) < rest)]
        return [out[i] for i in rng.permutation(len(out))]

    def table(self, stage, epoch):
        """Rows of an epoch: lists of pieces (spans, room, mode, ends, body), room being the places they may take."""
        if (stage, epoch) in self.kept:
            return self.kept[stage, epoch]
        rng, val = self.rng(stage, epoch), stage.startswith("val")
        rows, row, left, waiting = [], [], self.length, []

        def put(piece):
            nonlocal row, left
            row.append(piece)
            left -= piece[1]

        def close():
            nonlocal row, left, waiting
            rows.append(row)
            row, left, again, waiting = [], self.length, waiting, []
            for piece in again:
                put(piece) if piece[1] <= left else waiting.append(piece)

        for kind, index in self.items(stage, rng):
            fim = stage == "val-infill" or rng.random() < FIM.get(kind, FIM_ELSE)
            if kind in FUNCTIONS:
                c, cn, s, sn, f, fn = self.functions[kind][index]
                u = 0 if val else rng.random()
                comment = (c, cn) if u < VARIANTS[0] or (not sn and u < 1 - VARIANTS[2]) else (s, sn) if u < 1 - VARIANTS[2] else (0, 0)
                spans = [x for x in (comment, (f, fn)) if x[1]]
                piece = (spans, up(sum(n for _, n in spans) + 9), "fim" if fim else "plain", True, comment[1])
                if piece[1] <= self.length:
                    put(piece) if piece[1] <= left else waiting.append(piece)
                if left < SHORTEST:
                    close()
                continue
            at, n = self.docs[kind][index]
            end = at + n
            while end - at >= SHORTEST // 2:
                if left < self.length // 4 and end - at > left and rng.random() < 0.5:
                    close()                                            # rather whole in the next row than cut here
                while left < SHORTEST:
                    close()
                room = left if rng.random() < 0.6 or left <= 192 else int(rng.integers(192, left + 1)) // GRID * GRID
                if up(end - at + 9) <= room:
                    put(([(at, end - at)], up(end - at + 9), "fim" if fim else "plain", True, None))
                    break
                take = room - 9 if fim else room - 1                   # a cut piece fills its room exactly
                put(([(at, take)], room, "fim" if fim else "plain", fim, None))
                at = self.line_start(at + take, at + take // 2, end)
        rows += [row] if row else []
        while waiting:
            close()
        rows = [r for r in rows if r]
        order = rng.permutation(len(rows))
        while len(self.kept) > 5:                                      # this epoch, the next one, and the three held-out sets
            self.kept.pop(next(k for k in self.kept))
        self.kept[stage, epoch] = [rows[i] for i in order]
        return self.kept[stage, epoch]

    def line_start(self, at, low, end):
        """The last place <= at that begins a line, if there is one within 64 tokens: a piece begins where a line does."""
        window = self.packed.tokens[max(low, at - 64):min(at, end)]
        found = np.flatnonzero(self.cuts.blank[window])
        return max(low, at - 64) + int(found[-1]) + 1 if len(found) and found[-1] + 1 < len(window) else at

    def piece(self, piece, rng, only_middle=False, plain=False):
        """(ids, real, given) of a piece, without the fill. real: to be learnt; given: never masked."""
        spans, room, mode, ends, body = piece
        ids = [int(t) for a, n in spans for t in self.packed.tokens[a:a + n]]
        if mode == "fim":
            pre, mid, suf = middle(ids, self.cuts, rng, body)
            ids = [EOT, FIM_PREFIX, *pre, FIM_SUFFIX, *suf, FIM_MIDDLE, *mid, EOT]
            given = np.zeros(len(ids), bool)
            given[[0, 1, 2 + len(pre), 3 + len(pre) + len(suf)]] = True
            if only_middle:
                given[:4 + len(pre) + len(suf)] = True
            return ids, ~given, given
        if not plain and rng.random() < 0.5:
            for i in sorted((int(x) for x in rng.integers(len(ids), size=min(2, rng.poisson(len(ids) * CUT_RATE * 2)))), reverse=True):
                left, right = self.cuts.at(ids, i, rng)
                ids = left + right
        ids = [EOT, *ids, EOT] if ends else [EOT, *ids[:room - 1]]
        given = np.zeros(len(ids), bool)
        given[0] = True
        return ids, ~given, given

    def row(self, stage, epoch, index):
        """ids, doc, real, given of one row, each [L]; doc numbers the pieces, the empty rest being one of its own."""
        table, length = self.table(stage, epoch), self.length
        rng = self.rng(stage, epoch, index)
        ids, doc = np.full(length, EOT, np.int64), np.zeros(length, np.int64)
        real, given, at = np.zeros(length, bool), np.zeros(length, bool), 0
        for number, piece in enumerate(table[index % len(table)]):
            i, r, g = self.piece(piece, rng, only_middle=stage == "val-infill", plain=stage.startswith("val"))
            n, full = len(i), up(len(i))
            assert at + full <= length and full <= piece[1], (at, full, piece)
            ids[at:at + n], real[at:at + n], given[at:at + n], doc[at:at + full] = i, r, g, number + 1
            at += full
        return ids, doc, real, given

    def stacked(self, stage, epoch, first, count):
        return [np.stack(x) for x in zip(*(self.row(stage, epoch, first + i) for i in range(count)))]

    def batch(self, stage, number, lead=None):
        """One training batch of the stage: what `autoregressive` or `block_diffusion` returns. lead: the share of an epoch behind
        which the next one's rows are laid out ahead of time (seconds of work that would else hold everybody up)."""
        steps = self.epoch_steps(stage)
        epoch, step = divmod(number, steps)
        arrays = self.stacked(stage, epoch, step * self.rows, self.rows)
        if lead is not None and step >= lead * steps:
            self.table(stage, epoch + 1)
        if stage == "ar":
            return autoregressive(*arrays)
        return block_diffusion(*arrays, block_rows(self.rows), self.rng(stage, epoch, step, 1))

    def held_out(self, stage, first, block, draw=0):
        """Batch number `first` of a held-out set, for blocks of one length or (0) autoregressive; masks are fixed by `draw`."""
        if (stage, first) not in self.held:
            self.held[stage, first] = self.stacked(stage, 0, first * self.rows, self.rows)
        arrays = self.held[stage, first]
        if not block:
            return autoregressive(*arrays)
        return block_diffusion(*arrays, np.full(self.rows, block), self.rng(stage, first, block, draw))


def block_rows(rows):
    """Block length of each row of a batch. All lengths in every batch: less noise than one for each batch."""
    edges = np.cumsum(BLOCK_SHARES) * rows
    return np.array([BLOCK_LENGTHS[int(np.searchsorted(edges, i + 0.5))] for i in range(rows)])


def autoregressive(ids, doc, real, given):
    """A batch as training takes it. weight [N, L] is of the place that predicts; it adds up to 1."""
    target, weight = np.roll(ids, -1, 1), np.zeros(ids.shape, np.float32)
    weight[:, :-1] = real[:, 1:]
    return small(ids, None, target, weight, doc, np.ones(len(ids), np.int64), real)


def block_diffusion(ids, doc, real, given, blocks, rng):
    """Masks by the block length of each row. Weights give the NELBO per token: in each block its places x mean over its masks."""
    hide, weight = np.zeros(ids.shape, bool), np.zeros(ids.shape, np.float32)
    for block in sorted(set(blocks.tolist())):
        at = np.flatnonzero(blocks == block)
        h, w, _ = draw_masks(torch.from_numpy(real[at]), torch.from_numpy(given[at]), block, rng)
        room = np.repeat((~given[at]).reshape(len(at), -1, block).sum(-1), block, 1)
        hide[at], weight[at] = h.numpy(), w.numpy() * room
    return small(ids, hide, ids, weight, doc, blocks, real)


def small(ids, hide, target, weight, doc, blocks, real):
    """Narrow types: a batch goes through a pipe to the training process. Weights add up to 1, `total` is what they added up to;
    share [N]: each row's part; real: what counts as a token of the text. Nats per such token = loss x total / real.sum()."""
    total = float(weight.sum())
    weight = (weight / total).astype(np.float32)
    return {"ids": ids.astype(np.uint16), "hide": hide, "target": target.astype(np.uint16), "weight": weight, "doc": doc.astype(np.int16),
            "block": blocks.astype(np.int16), "share": weight.sum(1), "real": real, "total": total}
