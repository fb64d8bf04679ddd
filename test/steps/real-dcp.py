# Loads a distributed checkpoint with torch.distributed.checkpoint, twice: into tensors of the sizes that its metadata
# states, and as the nested dicts that it was planned as. Prints what both hold, as real-torch.py does. Called by
# real-torch.test.ts.
import json
import sys

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

folder = sys.argv[1]
metadata = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
tensors = {name: entry for name, entry in metadata.items() if hasattr(entry, "size")}
flat = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in tensors.items()}
dcp.load(flat, checkpoint_id=folder)
nested = {}
_load_state_dict(nested, storage_reader=dcp.FileSystemReader(folder), planner=_EmptyStateDictLoadPlanner(), no_dist=True)


def leaves(path, value):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves([*path, key], item)
    else:
        yield ".".join(path), value


same = {name: value for name, value in leaves([], nested) if torch.is_tensor(value)}
for number, group in enumerate(nested.get("optim", {}).get("param_groups", [])):
    assert isinstance(group["betas"], tuple) and group["params"], group
    for name in group["params"]:
        assert nested["optim"][f"param_groups.{name}.lr"] == group["lr"], (number, name)
assert same.keys() == flat.keys(), (sorted(same)[:3], sorted(flat)[:3])
for name, tensor in flat.items():
    assert torch.equal(tensor, same[name]), name
    data = tensor.contiguous().flatten().view(torch.uint8)
    print(json.dumps([name, str(tensor.dtype), list(tensor.shape), bytes(data.tolist()).hex()]))
