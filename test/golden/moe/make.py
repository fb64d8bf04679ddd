"""Made the files beside this one: tiny random dense models, and the mixtures of experts that mergekit-moe makes of them.

python make.py MERGEKIT, with torch 2.13, transformers 5.18, tokenizers 0.23 and safetensors; MERGEKIT is a checkout of
arcee-ai/mergekit at a6e402884ba9bc30da7f23e8304a35f19485de95. Seeds: the models' below; nothing else is random.
"""
import json
import os
import shutil
import sys

import pydantic
import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM,
)

sys.path.insert(0, sys.argv[1])
pydantic.BaseModel.model_config["arbitrary_types_allowed"] = True
from mergekit.moe.config import MoEMergeConfig  # noqa: E402
from mergekit.options import MergeOptions  # noqa: E402
from mergekit.scripts.moe import build  # noqa: E402

TEXT = ["def merge(experts): return sum(experts) / len(experts)", "the sea, the ship and the seven poets", "Grüße"] * 20
EXPERT = ".mlp."


def make_model(name, seed, kind, config, dtype, expert, **more):
    torch.manual_seed(seed)
    model = kind(config(
        vocab_size=330, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, **more,
    )).to(dtype)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.5)
    model.save_pretrained(name)
    os.remove(f"{name}/generation_config.json")
    if expert:
        weights = load_file(f"{name}/model.safetensors")
        save_file({key: value for key, value in weights.items() if EXPERT in key}, f"{name}/model.safetensors")


def sentencepiece_like():
    trained = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trained.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=325, special_tokens=special, show_progress=False))
    document = json.loads(trained.to_str())
    document["pre_tokenizer"] = None
    document["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]}
    document["added_tokens"] = [dict(token, normalized=False) for token in document["added_tokens"][:3]]
    return document


def byte_level():
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    )
    trained.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return json.loads(trained.to_str())


def add_tokenizer(folder, document, bos, eos):
    with open(f"{folder}/tokenizer.json", "w", encoding="utf-8") as file:
        json.dump(document, file, ensure_ascii=False, separators=(",", ":"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    with open(f"{folder}/tokenizer_config.json", "w") as file:
        json.dump(config, file)


os.chdir(os.path.dirname(os.path.abspath(__file__)))
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig, torch.bfloat16, {}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, torch.float16, {}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, torch.bfloat16, {"head_dim": 8}),
}
for number, (family, (kind, config, dtype, more)) in enumerate(FAMILIES.items()):
    for seed, role in enumerate(["base", "a", "b"]):
        make_model(f"models/{family}-{role}", 10 * number + seed, kind, config, dtype, role != "base", **more)
    if family == "llama":
        add_tokenizer("models/llama-base", sentencepiece_like(), "<s>", "</s>")
    else:
        add_tokenizer(f"models/{family}-base", byte_level(), None, "<|endoftext|>")

for name in sorted(entry[:-5] for entry in os.listdir(".") if entry.endswith(".yaml")):
    os.makedirs("made", exist_ok=True)
    with open(f"{name}.yaml") as file:
        recipe = MoEMergeConfig.model_validate(yaml.safe_load(file))
    build(recipe, "made", MergeOptions())
    weights = load_file("made/model.safetensors")
    with open("made/config.json") as file:
        made = json.load(file)
    with open(f"{name}.json", "w") as file:
        json.dump({"tensors": sorted(weights), "config": made}, file, indent=1)
    kept = {key: value for key, value in weights.items() if EXPERT in key or key.endswith(".bias")}
    save_file(kept, f"{name}.safetensors")
    shutil.rmtree("made")

# Gates from hidden states, of the same recipes. mergekit-moe runs the base in bfloat16, which leaves two digits of them:
# here it is made to do so in float32. Prompts of one length are not padded, which `hidden_avg` would count.
load = AutoModelForCausalLM.from_pretrained
AutoModelForCausalLM.from_pretrained = staticmethod(lambda path, **_: load(path, dtype=torch.float32))
hidden = []
for name, mode in [("mixtral", "hidden"), ("qwen2", "hidden_last"), ("qwen3", "hidden"), ("qwen3", "hidden_avg")]:
    os.makedirs("made")
    with open(f"{name}.yaml") as file:
        document = {**yaml.safe_load(file), "gate_mode": mode, "dtype": "float32"}
    build(MoEMergeConfig.model_validate(document), "made", MergeOptions())
    gates = {key: value for key, value in load_file("made/model.safetensors").items() if key.endswith("gate.weight")}
    values = {key: [float(f"{value:.8g}") for value in gate.flatten().tolist()] for key, gate in sorted(gates.items())}
    hidden.append({"recipe": name, "gate_mode": mode, "gates": values})
    shutil.rmtree("made")
with open("hidden.json", "w") as file:
    json.dump(hidden, file, separators=(",", ":"))
