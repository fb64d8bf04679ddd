# Makes this folder: a small SentencePiece model, the files that lie beside one, and what llama.cpp's converter makes of
# them. Pieces are read by sentencepiece 0.2.2, special tokens by SpecialVocab of gguf 0.19.0; the list of tokens is
# built as convert_hf_to_gguf.py does it (_create_vocab_sentencepiece). Run in this folder; training has no seed to set.
import json
import os

import gguf
import sentencepiece

TEXT = "the quick brown fox jumps over the lazy dog and thinks that this is the end of the other day"
ROWS = 320

with open("text.txt", "w") as file:
    file.write("\n".join(TEXT[i:] for i in range(len(TEXT))))
sentencepiece.SentencePieceTrainer.train(
    input="text.txt",
    model_prefix="tokenizer",
    vocab_size=300,
    model_type="bpe",
    byte_fallback=True,
    normalization_rule_name="identity",
    user_defined_symbols=["<usr>"],
    control_symbols=["<ctl>"],
    train_extremely_large_corpus=False,
)
os.remove("text.txt")
os.remove("tokenizer.vocab")

ADDED = {"<a>": 300, "<b>": 301}
DECODER = {
    "0": {"content": "<unk>", "special": True},
    "1": {"content": "<s>", "special": True},
    "2": {"content": "</s>", "special": True},
    "301": {"content": "<|end|>", "special": False},
    "302": {"content": "\u2581x", "special": False},
    "303": {"content": "<pad2>", "special": True},
    "400": {"content": "<beyond>", "special": True},
}
SETTINGS = {
    "added_tokens_decoder": DECODER,
    "bos_token": "<s>",
    "eos_token": {"content": "<|end|>"},
    "pad_token": "<pad2>",
    "add_eos_token": False,
    "add_prefix_space": False,
    "chat_template": "{{ messages }}",
}
TEMPLATE = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
FAST = {
    "added_tokens": [{"id": int(at), "content": each["content"]} for at, each in DECODER.items()],
    "post_processor": {"type": "TemplateProcessing", "single": TEMPLATE, "pair": TEMPLATE},
    "model": {"type": "BPE", "byte_fallback": True, "vocab": {}, "merges": []},
}
CONFIG = {"vocab_size": ROWS, "bos_token_id": 1, "eos_token_id": 2, "unk_token_id": 0, "pad_token_id": 999}


def write(name, value):
    with open(name, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False)


write("added_tokens.json", ADDED)
write("tokenizer_config.json", SETTINGS)
write("tokenizer.json", FAST)
write("config.json", CONFIG)

TYPES = gguf.TokenType
model = sentencepiece.SentencePieceProcessor()
model.LoadFromFile("tokenizer.model")
tokens = [(f"[PAD{i}]", -10000.0, TYPES.UNUSED) for i in range(ROWS)]
for i in range(model.vocab_size()):
    kind = TYPES.NORMAL
    if model.IsUnknown(i):
        kind = TYPES.UNKNOWN
    elif model.IsControl(i):
        kind = TYPES.CONTROL
    elif model.IsUnused(i):
        kind = TYPES.UNUSED
    elif model.IsByte(i):
        kind = TYPES.BYTE
    tokens[i] = (model.IdToPiece(i), model.GetScore(i), kind)
for text, i in ADDED.items():
    tokens[i] = (text, -1000.0, TYPES.USER_DEFINED)
for at, each in DECODER.items():
    i, text = int(at), each["content"]
    if i >= ROWS:
        continue
    control = each["special"] or (text.startswith("<|") and text.endswith("|>"))
    tokens[i] = (text if control else text.replace("\u2581", " "), -1000.0, TYPES.CONTROL if control else TYPES.USER_DEFINED)

special = gguf.SpecialVocab(".", n_vocab=ROWS)
write(
    "expected.json",
    {
        "tokens": [text for text, _, _ in tokens],
        "scores": [score for _, score, _ in tokens],
        "types": [int(kind) for _, _, kind in tokens],
        "ids": special.special_token_ids,
        "adds": special.add_special_token,
        "template": special.chat_template,
    },
)
