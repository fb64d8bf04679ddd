"""Makes families.json: what llama.cpp's own converter and quantizer make of a small model of each family.

usage: python make.py LLAMA_CPP LLAMA_QUANTIZE

LLAMA_CPP is a checkout of llama.cpp (v0.5.0 was used), LLAMA_QUANTIZE a program that takes what llama-quantize takes
(IN OUT TYPE). Needs torch, transformers (5.18), tokenizers, safetensors and numpy. Names and shapes of tensors are those
that transformers saves; values follow from a tensor's place in the list of names and are exact in float32. The
tokenizer is only there because the converter wants one; its entries are left out.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import transformers as T
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

LLAMA_CPP, QUANTIZE = Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, str(LLAMA_CPP / "gguf-py"))
from gguf import GGUFReader  # noqa: E402

USUAL = dict(
    hidden_size=256,
    intermediate_size=288,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=8,
    max_position_embeddings=128,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=None,
)
SCALES = dict(attention_multiplier=0.05, embedding_multiplier=12.0, residual_multiplier=0.22, logits_scaling=8.0)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32.0}
FAMILIES = {
    "granite": dict(rms_norm_eps=1e-5, **SCALES),
    "smollm3": dict(rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 5e6}),
    "olmo2": dict(rms_norm_eps=1e-6),
    "olmo3": dict(
        rms_norm_eps=1e-6,
        sliding_window=32,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "full_attention": {**YARN, "rope_theta": 5e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "olmoe": dict(rms_norm_eps=1e-5, num_key_value_heads=4, num_experts=3, num_experts_per_tok=2),
    "seed_oss": dict(rms_norm_eps=1e-6, head_dim=128, attention_bias=True),
    "exaone4": dict(rms_norm_eps=1e-5, sliding_window=None, layer_types=["full_attention"] * 2),
    "ernie4_5": dict(rms_norm_eps=1e-5, head_dim=128),
    "glm4": dict(rms_norm_eps=1e-5, head_dim=64, attention_bias=True),
    "cohere": dict(layer_norm_eps=1e-5, logit_scale=0.0625),
    "cohere2": dict(layer_norm_eps=1e-5, logit_scale=0.25, sliding_window=32, rotary_pct=1.0),
    "phi3": dict(
        rms_norm_eps=1e-5,
        sliding_window=None,
        max_position_embeddings=1024,
        original_max_position_embeddings=128,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.75,
            "long_factor": [1 + at / 8 for at in range(24)],
            "short_factor": [1 + at / 64 for at in range(24)],
        },
    ),
    "starcoder2": dict(norm_epsilon=1e-5, sliding_window=None),
    "qwen2_moe": dict(
        rms_norm_eps=1e-6,
        num_hidden_layers=4,
        num_experts=3,
        num_experts_per_tok=2,
        moe_intermediate_size=256,
        shared_expert_intermediate_size=512,
    ),
}
# Models that also see images: only the text model is in the file.
EYE = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
WHOLES = {
    "gemma3": dict(
        mm_tokens_per_image=4,
        text_config=dict(USUAL, head_dim=64, query_pre_attn_scalar=64, sliding_window=32, rms_norm_eps=1e-6),
    ),
    "mistral3": dict(
        tie_word_embeddings=False,
        text_config=dict(USUAL, model_type="mistral", head_dim=64, sliding_window=None, rms_norm_eps=1e-5),
    ),
}
CONVERTER = """
import runpy, sys
sys.path[:0] = [{0!r}, {0!r} + "/gguf-py"]
import conversion.base as base
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
base.TextModel._set_vocab_sentencepiece = base.TextModel._set_vocab_gpt2
sys.argv = ["convert_hf_to_gguf.py", *sys.argv[1:]]
runpy.run_path({0!r} + "/convert_hf_to_gguf.py", run_name="__main__")
"""


def values(place, shape):
    """Fractions of 65536 from -1/2 to 1/2."""
    at = np.arange(int(np.prod(shape)), dtype=np.int64)
    return ((((at * 7919 + place * 104729) % 65537) - 32768) / 65536).astype(np.float32).reshape(shape)


def make(name, change, folder):
    if name in WHOLES:
        config = T.AutoConfig.for_model(name, vision_config=EYE, **change)
        T.AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    else:
        config = T.AutoConfig.for_model(name, **{**USUAL, **change})
        T.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    file = folder / "model.safetensors"
    shapes = sorted((key, list(value.shape)) for key, value in load_file(file).items())
    save_file({key: values(place, shape) for place, (key, shape) in enumerate(shapes)}, file)
    tokens = {"a": 0, "b": 1, "<|endoftext|>": 2, "<|user|>": 3, "c": 4, "d": 5}
    tokenizer = Tokenizer(models.BPE(tokens, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|user|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    own = "GPT2Tokenizer" if name == "phi3" else "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": own}))
    out, small = folder / "out.gguf", folder / "small.gguf"
    program = [sys.executable, "-c", CONVERTER.format(str(LLAMA_CPP)), str(folder), "--outfile", str(out)]
    subprocess.run([*program, "--outtype", "f32"], check=True)
    subprocess.run([QUANTIZE, str(out), str(small), "Q4_K_M"], check=True)
    exact, quantized = GGUFReader(out), GGUFReader(small)
    entries = {key: field.contents() for key, field in exact.fields.items() if not key.startswith(("GGUF.", "tokenizer."))}
    entries.pop("general.name", None)
    return {
        "config": json.loads((folder / "config.json").read_text()),
        "stored": shapes,
        "entries": entries,
        "tensors": {
            each.name: [each.shape.tolist()[::-1], hashlib.sha256(each.data.tobytes()).hexdigest()[:16]]
            for each in exact.tensors
        },
        "q4_k_m": [[each.name, each.tensor_type.name] for each in quantized.tensors],
    }


found = {}
for name, change in {**FAMILIES, **WHOLES}.items():
    with tempfile.TemporaryDirectory() as folder:
        found[name] = make(name, change, Path(folder))
lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in found.items())
(Path(__file__).parent / "families.json").write_text(f"{{\n{lines}\n}}\n")
