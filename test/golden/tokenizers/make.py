"""Made expected.json: what the tokenizers library encodes texts to, for variants of the two tokenizers of ../moe.

python make.py, with tokenizers 0.23. A variant takes the place of parts of a tokenizer.json: `document` of the file,
`model` of its model, `added` of its added tokens.
"""
import json
import os

from tokenizers import Tokenizer

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES
)
DEEPSEEK = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"]


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def byte_level(prefix=False, regex=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def metaspace(**more):
    return {"normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", **more}}


def added(content, **flags):
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"content": content, **plain, **flags}


FLAGS = [
    added("<l>", lstrip=True), added("<r>", rstrip=True), added("the sea", single_word=True),
    added("<n>", normalized=True, special=False), added("<n>x"), added("return it", normalized=True),
]
VARIANTS = {
    "sentencepiece": ("llama", {}),
    "sentencepiece-first": ("llama", {"document": metaspace(prepend_scheme="first", split=False)}),
    "sentencepiece-legacy": ("llama", {"document": metaspace(add_prefix_space=True)}),
    "sentencepiece-never": ("llama", {"document": metaspace(prepend_scheme="never", split=True)}),
    "sentencepiece-unknown": ("llama", {"model": {"byte_fallback": False}}),
    "sentencepiece-unknown-each": ("llama", {"model": {"byte_fallback": False, "fuse_unk": False}}),
    "sentencepiece-dropped": ("llama", {"model": {"byte_fallback": False, "unk_token": None}}),
    "sentencepiece-flags": ("llama", {"added": FLAGS}),
    "qwen": ("qwen2", {}),
    "qwen-flags": ("qwen2", {"added": FLAGS}),
    "llama-3": (
        "qwen2",
        {"document": {"normalizer": None, "pre_tokenizer": sequence(split(LLAMA3), byte_level())},
         "model": {"ignore_merges": True}},
    ),
    "gpt-2": ("qwen2", {"document": {"normalizer": None, "pre_tokenizer": byte_level(True, True)}}),
    "digits": (
        "qwen2",
        {"document": {"normalizer": {"type": "NFKC"}, "pre_tokenizer": sequence(
            {"type": "Digits", "individual_digits": True}, byte_level(False, True))}},
    ),
    "tekken": ("qwen2", {"document": {"normalizer": None, "pre_tokenizer": sequence(split(TEKKEN), byte_level())}}),
    "deepseek": (
        "qwen2",
        {"document": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "NFD"}]},
                      "pre_tokenizer": sequence(*[split(pattern) for pattern in DEEPSEEK],
                                                {"type": "Digits", "individual_digits": False}, byte_level())}},
    ),
    "inverted": (
        "qwen2",
        {"document": {"pre_tokenizer": sequence(split(r"\s?\p{L}+", "Removed", True), split("e", "Removed", kind="String"),
                                                byte_level())}},
    ),
}
TEXTS = [
    "def merge(experts): return sum(experts)",
    "<s>the ship <s> poets</s>",
    " the  sea,   ship ",
    "",
    " ",
    "Gru\u0308ße, GRÜẞE: naïve café ﬁn Ⅻ ½ ۳۴",
    "日本語 の テキスト 한국어",
    "👍🏽 \U0001f469\u200d\U0001f4bb",
    "It's DON'T we'll I\u2019ve 'ſ 'Re",
    "1234567 3.14\n\n\tx\r\n  y \u00a0z\u0085w\ufeffv\u2028",
    "theethe seaseven the seathe sea. return it",
    "x <l> y <r>  z<n>x<n> <n>xa <l><r> <|im_start|>user\n<|im_end|>",
    "▁the▁sea ▁ <0x0A> e\u0301\u0323",
    "seven " * 9 + "é" * 5,
]

os.chdir(os.path.dirname(os.path.abspath(__file__)))
variants = []
for name, (family, parts) in VARIANTS.items():
    with open(f"../moe/models/{family}-base/tokenizer.json", encoding="utf-8") as file:
        document = json.load(file)
    document.update(parts.get("document", {}))
    document["model"].update(parts.get("model", {}))
    # Ids go on where the file's end: the library renumbers others.
    first = Tokenizer.from_str(json.dumps(document)).get_vocab_size()
    more = [{"id": first + index, **token} for index, token in enumerate(parts.get("added", []))]
    document["added_tokens"] += more
    tokenizer = Tokenizer.from_str(json.dumps(document))
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    variants.append({"name": name, "family": family, **parts, **({"added": more} if more else {}), "ids": ids})
with open("expected.json", "w") as file:
    json.dump({"texts": TEXTS, "variants": variants}, file, separators=(",", ":"))
