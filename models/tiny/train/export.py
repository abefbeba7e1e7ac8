"""Write a checkpoint in Hugging Face layout: config.json, model.safetensors, generation_config.json, tokenizer files.

  python3 export.py CHECKPOINT TOKENIZER_DIR OUT_DIR      a checkpoint of train.py
  python3 export.py random TOKENIZER_DIR OUT_DIR          random weights of the default shape

The folder is written beside OUT_DIR and renamed into place, so a reader never sees half of it.
"""
import json
import os
import shutil
import struct
import sys

import torch

from model import BLOCK_LENGTHS, EOT, MASK, PAD, Model, Shape, from_checkpoint


def hf_tensors(model):
    """{Qwen3 tensor name: fp32 tensor}; the fused matrices are cut apart again."""
    c, out = model.shape, {}
    names = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm", "q_norm": "self_attn.q_norm",
             "k_norm": "self_attn.k_norm", "o": "self_attn.o_proj", "down": "mlp.down_proj"}
    fused = {"qkv": [f"self_attn.{s}_proj" for s in "qkv"], "gate_up": ["mlp.gate_proj", "mlp.up_proj"]}
    for name, w in model.p.items():
        w = w.detach().float().cpu()
        if "." not in name:
            out["model.embed_tokens.weight" if name == "embed" else "model.norm.weight"] = w
            continue
        i, kind = name.split(".")
        pieces = w.split(c.parts(name)) if kind in fused else [w]
        for label, piece in zip(fused.get(kind) or [names[kind]], pieces):
            out[f"model.layers.{i}.{label}.weight"] = piece
    return out


def write_safetensors(path, tensors, metadata, dtype="F32"):
    """Tensors -> a safetensors file of F32 or BF16: 8-byte little-endian header length, JSON header, raw data."""
    header, at = {"__metadata__": metadata}, 0
    for name, t in tensors.items():
        n = t.numel() * (4 if dtype == "F32" else 2)
        header[name] = {"dtype": dtype, "shape": list(t.shape), "data_offsets": [at, at + n]}
        at += n
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head)
        for t in tensors.values():
            raw = t.float().contiguous().numpy().astype("<f4")
            # bf16 is the upper half of an fp32 whose lower half is zero: torch rounds, NumPy takes the half
            f.write(raw.tobytes() if dtype == "F32" else (t.bfloat16().float().contiguous().numpy().view("<u4") >> 16).astype("<u2").tobytes())


def config(c):
    """config.json with the field names of Hugging Face's Qwen3, and the diffusion facts beside them."""
    return {
        "architectures": ["A2DQwen3LMHeadModel"], "model_type": "a2d-qwen3", "vocab_size": c.vocab, "hidden_size": c.d,
        "num_hidden_layers": c.layers, "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim, "intermediate_size": c.ffn, "hidden_act": "silu", "rms_norm_eps": c.eps,
        "rope_theta": c.theta, "max_position_embeddings": c.length, "tie_word_embeddings": True, "attention_bias": False,
        "torch_dtype": "bfloat16", "mask_token_id": MASK, "pad_token_id": PAD, "eos_token_id": EOT, "bos_token_id": EOT,
        "block_size": 16, "block_lengths": list(BLOCK_LENGTHS),
    }


def export(model, tokenizer_dir, out, metadata):
    tmp, old = out.rstrip("/") + ".tmp", out.rstrip("/") + ".old"
    shutil.rmtree(tmp, ignore_errors=True)
    os.makedirs(tmp)
    write_safetensors(os.path.join(tmp, "model.safetensors"), hf_tensors(model), {"format": "pt", **metadata}, "BF16")
    generation = {"bos_token_id": EOT, "eos_token_id": EOT, "pad_token_id": PAD, "mask_token_id": MASK,
                  "temperature": 0.0, "block_length": 16, "confidence_threshold": 0.9}
    for name, value in (("config.json", config(model.shape)), ("generation_config.json", generation)):
        with open(os.path.join(tmp, name), "w") as f:
            json.dump(value, f, indent=2)
            f.write("\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(tokenizer_dir, name), tmp)
    shutil.rmtree(old, ignore_errors=True)
    if os.path.exists(out):
        os.rename(out, old)
    os.rename(tmp, out)
    shutil.rmtree(old, ignore_errors=True)


def main():
    if len(sys.argv) != 4:
        sys.exit("usage: export.py CHECKPOINT|random TOKENIZER_DIR OUT_DIR")
    source, tokenizer_dir, out = sys.argv[1:]
    if source == "random":
        model, metadata = Model(Shape()).init(1), {"weights": "random"}
    else:
        model, ck = from_checkpoint(source)
        metadata = {"step": str(ck["step"]), "tokens": str(ck["tokens"]), "phase": ck["phase"]}
    export(model, tokenizer_dir, out, metadata)
    print(f"{model.flat.numel()} parameters -> {out}")


if __name__ == "__main__":
    main()
