# Makes this folder: two small models with tokenizers trained on the licence of this repository, and what
# mergekit-tokensurgeon (mergekit 0.1.4, torch 2.13, transformers 5.18, tokenizers 0.23) makes of them.
# Run here: python make.py, with mergekit installed. The seeds are below.
import os
import shutil
import subprocess
import sys

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = open("../../../LICENSE", encoding="ascii").read()
LETTERS = sorted(set(TEXT.replace(" ", "\u0120").replace("\n", "\u010a")))


def make(folder, text, size, hidden, seed, bos, eos):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[bos, eos], initial_alphabet=LETTERS, show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=hidden, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=fast.bos_token_id, eos_token_id=fast.eos_token_id,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)


def expect(name, *options):
    shutil.rmtree("made", ignore_errors=True)
    command = [sys.argv[1] if len(sys.argv) > 1 else "mergekit-tokensurgeon", "base", "donor", "made", *options]
    subprocess.run(command, check=True)
    rows = load_file("made/model.safetensors")
    shutil.rmtree("made")
    return {f"{name}/{key}": rows[key] for key in ("model.embed_tokens.weight", "lm_head.weight")}


half = len(TEXT) // 2
make("base", TEXT[:half], 120, 8, 1, "<s>", "</s>")
make("donor", TEXT[half:], 140, 12, 2, "<|begin|>", "<|end|>")
expected = expect("omp", "--k", "6") | expect("prefix", "--k", "6", "--prefix-match", "yes")
for scheme in ("distance_proportional", "barycentric", "least_squares"):
    nearest = ("-a", "common_interpolation", "--k", "6", "--weight-scheme", scheme)
    expected |= expect(scheme, *nearest)
    if scheme == "distance_proportional":
        expected |= expect("cosine", *nearest, "--cosine-similarity")
# Both matrices are made alike: of all but the first the head is left out.
save_file(
    {key: rows for key, rows in expected.items() if key.startswith("omp") or "embed" in key}, "expected.safetensors"
)
for leftover in ("base/generation_config.json", "donor/generation_config.json"):
    os.remove(leftover)
