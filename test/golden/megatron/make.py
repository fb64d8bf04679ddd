# Makes the checkpoint of this folder: the documents are instances of torch's own classes, pickled by Python, the chunks
# torch.save files. Only MCoreMetadata, a class of Megatron-LM 0.15, is declared here, with its module and name. Run:
# python make.py FOLDER (made with torch 2.13.0, safetensors 0.8.0, Python 3.11; seed 0).
import argparse
import io
import json
import os
import pickle
import sys
import types

import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

MODULE = "megatron.core.dist_checkpointing.strategies.torch"
for part in range(1, len(MODULE.split(".")) + 1):
    name = ".".join(MODULE.split(".")[:part])
    sys.modules.setdefault(name, types.ModuleType(name))
MCoreMetadata = type("MCoreMetadata", (Metadata,), {"__module__": MODULE})
sys.modules[MODULE].MCoreMetadata = MCoreMetadata

root = sys.argv[1]
step = os.path.join(root, "iter_0000005")
os.makedirs(step, exist_ok=True)
torch.manual_seed(0)
entries, storage, mcore = {}, {}, {}
files = {"__0_0.distcp": io.BytesIO(), "__1_0.distcp": io.BytesIO()}


def put(key, offset, value):
    name = list(files)[len(storage) % 2]
    begin = files[name].tell()
    torch.save(value, files[name])
    storage[MetadataIndex(key, offset)] = _StorageInfo(name, begin, files[name].tell() - begin)


def add(key, dtype, size, chunks):
    """`chunks`: offsets and the chunk's tensor."""
    parts = [ChunkStorageMetadata(torch.Size(at), part.shape) for at, part in chunks]
    entries[key] = TensorStorageMetadata(TensorProperties(dtype=dtype), torch.Size(size), parts)
    for at, part in chunks:
        put(key, torch.Size(at), part.contiguous().clone())


def cells(tensor, grid):
    """Cells of a grid: index in the grid, origin, contents."""
    lengths = [size // count for size, count in zip(tensor.shape, grid)]
    for index in torch.cartesian_prod(*[torch.arange(count) for count in grid]).reshape(-1, len(grid)).tolist():
        origin = [at * length for at, length in zip(index, lengths)]
        slices = tuple(slice(at, at + length) for at, length in zip(origin, lengths))
        yield index, origin, tensor[slices]


def taken_apart(key, tensor):
    """Layers, and experts of each, under names of their own."""
    for axis in (".layers.", ".experts.experts."):
        if axis in key and not key.split(axis)[1][0].isdigit():
            for at, part in enumerate(tensor):
                yield from taken_apart(key.replace(axis, f"{axis}{at}."), part)
            return
    yield key, tensor


# Weights with layers stacked on axis 0, experts on axis 1, and the grid that layers, experts and tensor-parallel ranks
# cut them into. Gate and up of the one expert that stands by itself are apart, as with singleton_local_shards.
model = {
    "embedding.word_embeddings.weight": ([8, 4], (2, 1)),
    "decoder.layers.self_attention.linear_qkv.layer_norm_weight": ([2, 4], (2, 1)),
    "decoder.layers.self_attention.linear_qkv.weight": ([2, 8, 4], (2, 2, 1)),
    "decoder.layers.self_attention.linear_proj.weight": ([2, 4, 4], (2, 1, 2)),
    "decoder.layers.mlp.router.weight": ([2, 2, 4], (2, 1, 1)),
    "decoder.layers.mlp.experts.experts.linear_fc1.weight": ([2, 2, 8, 4], (2, 2, 4, 1)),
    "decoder.layers.mlp.experts.experts.linear_fc2.weight": ([2, 2, 4, 4], (2, 2, 1, 2)),
    "mtp.layers.0.transformer_layer.mlp.experts.experts.0.linear_fc1.weight_w": ([4, 4], (2, 1)),
    "mtp.layers.0.transformer_layer.mlp.experts.experts.0.linear_fc1.weight_v": ([4, 4], (2, 1)),
    "decoder.final_layernorm.weight": ([4], (1,)),
}
expected = {"fp32": {}, "exp_avg": {}, "exp_avg_sq": {}}
for key, (shape, grid) in model.items():
    states = {"fp32": torch.randn(shape), "exp_avg": torch.randn(shape), "exp_avg_sq": torch.rand(shape)}
    half = states["fp32"].to(torch.bfloat16)
    add(key, torch.bfloat16, shape, [(origin, part) for _, origin, part in cells(half, grid)])
    for state, tensor in states.items():
        stored = f"optimizer.state.{'fp32_param' if state == 'fp32' else state}.{key}"
        if len(shape) == 1:
            add(stored, torch.float32, shape, [((0,), tensor[:3]), ((3,), tensor[3:])])
        else:
            # Each cell flattened and cut over two data-parallel ranks, wherever their ranges end.
            parts = []
            for index, _, part in cells(tensor, grid):
                flat = part.reshape(*[1] * len(grid), -1)
                cut = 1 + sum(index) % (flat.numel() - 1)
                parts += [((*index, 0), flat[..., :cut]), ((*index, cut), flat[..., cut:])]
            add(stored, torch.float32, [*grid, tensor.numel() // len(list(cells(tensor, grid)))], parts)
            mcore[stored] = {"nd_reformulated_orig_global_shape": torch.Size(shape)}
        for name, part in taken_apart(key, tensor):
            expected[state][name] = part.contiguous().clone()
for own in expected.values():
    halves = [own.pop(f"mtp.layers.0.transformer_layer.mlp.experts.experts.0.linear_fc1.weight_{half}") for half in "wv"]
    own["mtp.layers.0.transformer_layer.mlp.experts.experts.0.linear_fc1.weight"] = torch.cat(halves)
for key in ("decoder.layers.mlp._extra_state/shard_0_2", "decoder.layers.mlp._extra_state/shard_1_2"):
    entries[key] = BytesStorageMetadata()
    put(key, None, io.BytesIO(b""))
add("optimizer.distributed.dp_group_idx_0.gbuf_idx_0.bucket_idx_0.exp_avg", torch.float32, [4], [((0,), torch.zeros(4))])

metadata = MCoreMetadata(entries, {key: (key,) for key in entries}, storage)
metadata.mcore_data = mcore
with open(os.path.join(step, ".metadata"), "wb") as out:
    pickle.dump(metadata, out)
for name, content in files.items():
    with open(os.path.join(step, name), "wb") as out:
        out.write(content.getvalue())
with open(os.path.join(step, "metadata.json"), "w") as out:
    config = {"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch"}
    json.dump({**config, "common_backend_version": 1}, out)
torch.save({"args": argparse.Namespace(padded_vocab_size=8), "iteration": 5}, os.path.join(step, "common.pt"))
with open(os.path.join(root, "latest_checkpointed_iteration.txt"), "w") as out:
    out.write("5")
for state, tensors in expected.items():
    save_file(tensors, os.path.join(root, f"expected_{state}.safetensors"))
