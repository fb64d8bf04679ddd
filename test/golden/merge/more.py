"""Makes the cases that no reference code covers: Localize-and-Stitch without data, and the uniform soup.

numpy 1.24.2, no random numbers. Run in this folder: python3 more.py; it replaces its own cases in cases.json.
"""

import json
import struct

import numpy

MODELS = ["ft1", "ft2", "ft3"]
DENSITY = 0.05
KEPT = [
    "model.layers.0.input_layernorm.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.mlp.down_proj.weight",
]


def read(path):
    data = open(path, "rb").read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        values = numpy.frombuffer(data[8 + length + begin : 8 + length + end], "<f4")
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def write(path, tensors):
    header, data = {}, b""
    for name in sorted(tensors):
        own = tensors[name].astype("<f4").tobytes()
        offsets = [len(data), len(data) + len(own)]
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": offsets}
        data += own
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    open(path, "wb").write(struct.pack("<Q", len(text)) + text + data)


def stitch(base, models):
    """Masks by one sort of each model's whole task vector; a kept element is divided by the masks that hold it."""
    names = sorted(base)
    deltas = [{name: model[name] - base[name] for name in names} for model in models]
    cuts = []
    for delta in deltas:
        magnitudes = numpy.sort(numpy.abs(numpy.concatenate([delta[name].ravel() for name in names])))[::-1]
        cuts.append(magnitudes[int(DENSITY * len(magnitudes)) - 1])
    merged = {}
    for name in KEPT:
        masks = [numpy.abs(delta[name]) > cut for delta, cut in zip(deltas, cuts)]
        count = numpy.maximum(sum(mask.astype("f4") for mask in masks), 1)
        merged[name] = base[name] + sum(delta[name] * (mask / count) for delta, mask in zip(deltas, masks))
    return merged


def main():
    base = read("models/base-f32/model.safetensors")
    models = [read(f"models/{name}-f32/model.safetensors") for name in MODELS]
    soup = {name: sum(model[name].astype("f8") for model in models) / len(models) for name in KEPT}
    paths = [f"models/{name}-f32" for name in MODELS]
    common = {"source": {"repo": "this one", "how": "test/golden/merge/more.py"}}
    tolerance = {"mode": "close", "rtol": 2e-6, "atol": 1e-7}
    cases = [
        {
            "id": "localize-and-stitch",
            "kind": "global",
            "method": "localize_and_stitch",
            "parameters": {"density": DENSITY},
            "models": paths,
            "base_model": "models/base-f32",
            "tensors": sorted(base),
            "compared": KEPT,
            "tolerance": tolerance,
            "expected": "expected/localize-and-stitch.safetensors",
            **common,
        },
        {
            "id": "uniform-soup",
            "kind": "method",
            "method": "uniform_soup",
            "parameters": {},
            "models": [{"model": path, "parameters": {}} for path in paths],
            "base_model": None,
            "tensors": KEPT,
            "tolerance": tolerance,
            "expected": "expected/uniform-soup.safetensors",
            **common,
        },
    ]
    write(cases[0]["expected"], stitch(base, models))
    write(cases[1]["expected"], soup)
    document = json.load(open("cases.json"))
    own = {case["id"] for case in cases}
    document["cases"] = [case for case in document["cases"] if case["id"] not in own] + cases
    json.dump(document, open("cases.json", "w"), separators=(",", ":"), ensure_ascii=False)


main()
