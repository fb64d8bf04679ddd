# Loads files with a real torch and prints what they hold, one JSON object a line: name, dtype, shape, and the bytes as
# hexadecimal text. Called by real-torch.test.ts.
import json
import sys
import types

import torch

# The one class of DeepSpeed that its loader of stage 3 asks for; DeepSpeed itself is not needed.
scalers = types.ModuleType("deepspeed.runtime.fp16.loss_scaler")
scalers.LossScaler = type("LossScaler", (), {"__module__": scalers.__name__})
sys.modules[scalers.__name__] = scalers
if hasattr(torch.serialization, "add_safe_globals"):
    torch.serialization.add_safe_globals([scalers.LossScaler])


def show(name, tensor):
    flat = tensor.contiguous().flatten()
    data = flat.view(torch.uint8) if flat.numel() and tensor.dtype != torch.bool else flat
    print(json.dumps([name, str(tensor.dtype), list(tensor.shape), bytes(data.tolist()).hex()]))


def walk(name, value):
    if isinstance(value, torch.Tensor):
        show(name, value)
    elif isinstance(value, dict):
        for key, item in value.items():
            walk(f"{name}/{key}", item)
    elif isinstance(value, scalers.LossScaler):
        print(json.dumps([name, "LossScaler", [], f"{value.cur_scale} {value.dynamic}"]))


for file in sys.argv[1:]:
    walk(file.rsplit("/", 1)[1], torch.load(file, weights_only=True))
