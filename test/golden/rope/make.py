# Makes llama3.json: what torch 2.13.0 gives for the frequencies of Llama 3's scaling, by the formula of llama.cpp's
# converter (LlamaModel.generate_extra_tensors), for the numbers of Llama 3.1 and 3.2.
import json
import math

import torch


def factors(base, dim, factor, low, high, before):
    freqs = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    made = []
    for freq in freqs:
        wave = 2 * math.pi / freq
        if wave < before / high:
            made.append(1)
        elif wave > before / low:
            made.append(factor)
        else:
            smooth = (before / wave - low) / (high - low)
            made.append(1 / ((1 - smooth) / factor + smooth))
    return torch.tensor(made, dtype=torch.float32).tolist()


cases = [
    {"theta": theta, "headSize": dim, "factor": factor, "values": factors(theta, dim, factor, 1.0, 4.0, 8192)}
    for theta, dim, factor in [(500000.0, 128, 8.0), (500000.0, 64, 32.0)]
]
with open("llama3.json", "w") as file:
    json.dump(cases, file)
