"""A checkpoint as files small enough for a narrow link, and back.

  python3 parts.py pack RUN_DIR PARTS_DIR [--profile trip|exact|small] [--part-mib 15.5]
  python3 parts.py unpack PARTS_DIR RUN_DIR
  python3 parts.py group PARTS_DIR MIB [NUMBER]     names of the files of load NUMBER (from 0), or all loads with their sizes

PARTS_DIR gets manifest.json (sections, and size and sha256 of each part) and part-NN.bin; log.jsonl travels along. `group` serves
the packed data too (its data.json lists the files).

profile   weights   AdamW's m, v   Muon's momentum   average            48.3M parameters, about
exact     fp32      fp32           fp32              fp32               596 MB; resumes bit for bit
trip      bf16      bf16           4 bits, block 64  weights + 4 bits   120 MB: two loads of 64 MiB
small     bf16      -              -                 -                  65 MB: weights alone; momentum grows again in 60 steps

What `trip` loses: weights are rounded once to what is published anyway (half of 2^-8, relative), momentum by a tenth, which
20 steps forget, and the average by a small part of its distance to the weights. bf16 is stored as exponents and
the rest apart, Huffman-coded: exponents of weights are nearly always among a handful.
"""
import argparse
import hashlib
import json
import os
import sys
import zlib
from multiprocessing.pool import ThreadPool

import numpy as np

PROFILES = {"exact": {"master": "fp32", "m_adam": "fp32", "v": "fp32", "m_muon": "fp32", "ema": "fp32"},
            "trip": {"master": "bf16", "m_adam": "bf16", "v": "bf16", "m_muon": "q4", "ema": "q4"},
            "small": {"master": "bf16"}}
CHUNK, BLOCK = 1 << 22, 64
TENSORS = ("master", "m", "v", "ema")


def huffman(raw):
    """Order-0 entropy coding: matches would only cost time here."""
    z = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return z.compress(raw) + z.flush()


def to_bf16(x):
    """fp32 -> upper halves, rounded to nearest even."""
    u = x.view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(h):
    return (h.astype(np.uint32) << 16).view(np.float32)


def encode(codec, x):
    """fp32 numbers -> planes (bytes objects) of one chunk."""
    if codec == "fp32":
        return [x.tobytes()]
    if codec == "bf16":
        h = to_bf16(x)
        return [huffman(((h >> 7) & 255).astype(np.uint8).tobytes()), huffman((((h >> 8) & 128) | (h & 127)).astype(np.uint8).tobytes())]
    pad = np.zeros(-len(x) % BLOCK, np.float32)
    b = np.concatenate([x, pad]).reshape(-1, BLOCK)
    scale = to_bf16(np.abs(b).max(1) / 7)
    s = from_bf16(scale)[:, None]
    q = (np.clip(np.rint(np.divide(b, s, out=np.zeros_like(b), where=s > 0)), -7, 7) + 7).astype(np.uint8).reshape(-1)
    return [huffman(scale.tobytes()), huffman((q[0::2] * 16 + q[1::2]).tobytes())]


def decode(codec, planes, n):
    if codec == "fp32":
        return np.frombuffer(planes[0], np.float32)
    raw = [zlib.decompress(p, -15) for p in planes]
    if codec == "bf16":
        e, r = (np.frombuffer(p, np.uint8).astype(np.uint16) for p in raw)
        return from_bf16((e << 7) | (r & 127) | ((r & 128) << 8))
    s, two = from_bf16(np.frombuffer(raw[0], np.uint16)), np.frombuffer(raw[1], np.uint8)
    q = np.stack([two >> 4, two & 15], 1).reshape(-1, BLOCK).astype(np.float32) - 7
    return (q * s[:, None]).reshape(-1)[:n]


def section(pool, name, codec, x):
    """(facts for the manifest, bytes) of one array, all its chunks at once."""
    if not np.isfinite(x).all():
        sys.exit(f"{name}: holds numbers that are not finite; this checkpoint is not worth carrying")
    chunks = [x[i:i + CHUNK] for i in range(0, len(x), CHUNK)]
    coded = pool.map(lambda c: encode(codec, c), chunks)
    return {"name": name, "codec": codec, "count": len(x), "planes": [[len(p) for p in c] for c in coded]}, b"".join(p for c in coded for p in c)


def arrays(ck, adam):
    """The checkpoint's numbers by the names of PROFILES."""
    flat = {n: ck[n].numpy() for n in TENSORS}
    return {"master": flat["master"], "m_adam": flat["m"][:adam], "m_muon": flat["m"][adam:], "v": flat["v"], "ema": flat["ema"]}


def pack(run, out, profile, part_bytes):
    import torch
    ck = torch.load(os.path.join(run, "checkpoint.pt"), map_location="cpu")
    codecs, source, adam = PROFILES[profile], arrays(ck, len(ck["v"])), len(ck["v"])
    sections, blobs, pool = [], [], ThreadPool(min(8, os.cpu_count() or 1))
    with open(os.path.join(run, "log.jsonl"), "rb") as f:
        log = f.read()
    blobs.append(zlib.compress(log, 9))
    sections.append({"name": "log.jsonl", "codec": "zlib", "count": len(log), "planes": [[len(blobs[0])]]})
    for name, codec in codecs.items():
        x = source[name]
        if name == "ema" and codec == "q4":                            # its distance to the weights as they will arrive
            x = x - from_bf16(to_bf16(source["master"]))
        facts, blob = section(pool, name, codec, x)
        sections.append(facts)
        blobs.append(blob)
    pool.close()
    whole, parts = b"".join(blobs), []
    os.makedirs(out, exist_ok=True)
    for old in os.listdir(out):
        if old.startswith("part-") or old == "manifest.json":
            os.remove(os.path.join(out, old))
    for i, at in enumerate(range(0, len(whole), part_bytes)):
        data = whole[at:at + part_bytes]
        parts.append({"name": f"part-{i:02}.bin", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
        with open(os.path.join(out, parts[-1]["name"]), "wb") as f:
            f.write(data)
    rest = {k: v for k, v in ck.items() if k not in TENSORS}
    manifest = {"format": "coder-checkpoint", "version": 1, "profile": profile, "step": ck["step"], "adam": adam, "bytes": len(whole), "state": rest,
                "sections": sections, "parts": parts}
    with open(os.path.join(out, "manifest.json"), "w") as f:           # last: a folder with a manifest is complete
        json.dump(manifest, f)
    return manifest


def joined(folder, manifest):
    """All parts in order, each checked."""
    out, wrong = [], []
    for part in manifest["parts"]:
        path = os.path.join(folder, part["name"])
        data = b""
        if os.path.exists(path):
            with open(path, "rb") as f:
                data = f.read()
        if len(data) != part["bytes"] or hashlib.sha256(data).hexdigest() != part["sha256"]:
            wrong.append(f"{part['name']}: {len(data)} of {part['bytes']} bytes" if len(data) != part["bytes"] else f"{part['name']}: sha256 differs")
        out.append(data)
    if wrong:
        sys.exit(f"{folder}: missing or damaged: {'; '.join(wrong)}. Bring them again")
    return b"".join(out)


def unpack(folder, run):
    import torch
    with open(os.path.join(folder, "manifest.json")) as f:
        manifest = json.load(f)
    whole, at, found = memoryview(joined(folder, manifest)), 0, {}
    os.makedirs(run, exist_ok=True)
    for s in manifest["sections"]:
        values, left = [], s["count"]
        for lengths in s["planes"]:
            planes = []
            for n in lengths:
                planes.append(whole[at:at + n])
                at += n
            if s["codec"] == "zlib":
                with open(os.path.join(run, "log.jsonl"), "wb") as f:
                    f.write(zlib.decompress(planes[0]))
                continue
            values.append(decode(s["codec"], planes, min(left, CHUNK)))
            left -= len(values[-1])
        if values:
            found[s["name"]] = np.concatenate(values), s["codec"]
    master, adam = found["master"][0], manifest["adam"]
    zero = lambda n: (np.zeros(n, np.float32), "")
    ema, codec = found.get("ema", (master, ""))
    m = np.concatenate([found.get("m_adam", zero(adam))[0], found.get("m_muon", zero(len(master) - adam))[0]])
    flat = {"master": master, "m": m, "v": found.get("v", zero(adam))[0], "ema": master + ema if codec == "q4" else ema}
    state = {**manifest["state"], **{n: torch.from_numpy(np.array(x)) for n, x in flat.items()}}
    path = os.path.join(run, "checkpoint.pt")
    torch.save(state, path + ".tmp")
    os.replace(path + ".tmp", path)
    return manifest


def loads(folder, mib):
    """Files of a folder in loads of at most `mib` MiB, in the manifest's order; the manifest itself goes first."""
    for name in ("manifest.json", "data.json"):
        if os.path.exists(os.path.join(folder, name)):
            with open(os.path.join(folder, name)) as f:
                facts = json.load(f)
            files = [(p["name"], p["bytes"]) for p in facts["parts"]] if "parts" in facts else [(n, f["bytes"]) for n, f in facts["files"].items()]
            break
    else:
        sys.exit(f"{folder}: holds neither manifest.json nor data.json")
    out, left = [], 0
    for n, size in [(name, os.path.getsize(os.path.join(folder, name))), *files]:
        if size > mib * 2 ** 20:
            sys.exit(f"{n} has {size} bytes, more than a load of {mib} MiB")
        if size > left:
            out.append([])
            left = int(mib * 2 ** 20)
        out[-1].append((n, size))
        left -= size
    return out


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sub = ap.add_subparsers(dest="what", required=True)
    p = sub.add_parser("pack")
    p.add_argument("run")
    p.add_argument("parts")
    p.add_argument("--profile", default="trip", choices=sorted(PROFILES))
    p.add_argument("--part-mib", type=float, default=15.5)
    p = sub.add_parser("unpack")
    p.add_argument("parts")
    p.add_argument("run")
    p = sub.add_parser("group")
    p.add_argument("parts")
    p.add_argument("mib", type=float)
    p.add_argument("number", type=int, nargs="?")
    c = ap.parse_args()
    if c.what == "group":
        found = loads(c.parts, c.mib)
        if c.number is not None:
            print("\n".join(n for n, _ in found[c.number]) if c.number < len(found) else "")
        else:
            print("\n".join(f"load {i}: {sum(s for _, s in l) / 2 ** 20:.1f} MiB: {' '.join(n for n, _ in l)}" for i, l in enumerate(found)))
        return
    m = pack(c.run, c.parts, c.profile, int(c.part_mib * 2 ** 20)) if c.what == "pack" else unpack(c.parts, c.run)
    print(json.dumps({"step": m["step"], "profile": m["profile"], "bytes": m["bytes"], "parts": len(m["parts"]),
                      "sections": {s["name"]: sum(sum(p) for p in s["planes"]) for s in m["sections"]}}))


if __name__ == "__main__":
    main()
