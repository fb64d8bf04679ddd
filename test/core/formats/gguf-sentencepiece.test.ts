// SentencePiece tokenizers as metadata of a GGUF file: what the reference makes of a trained model, and models that are
// cut, changed or of another algorithm.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { hasCode } from "../../../core/error.ts";
import { describeTokenizerFiles, GGUF_TOKENIZER_FILES } from "../../../core/formats/gguf/tokenizer-files.ts";
import { rebuildTokenizer } from "../../../core/formats/gguf/tokenizer-json.ts";
import type { GgufMetadata } from "../../../core/formats/gguf/type-codes.ts";
import { parseSentencePiece } from "../../../core/tokenizer/sentencepiece.ts";
import { refusal } from "../../refusal.ts";

const GOLDEN = join(import.meta.dirname, "../../golden/sentencepiece");
const read = (name: string) => new Uint8Array(readFileSync(join(GOLDEN, name)));
const readJson = (name: string) => JSON.parse(new TextDecoder().decode(read(name)));
const HERE = GGUF_TOKENIZER_FILES.filter((name) => name !== "chat_template.jinja");
const FILES: ReadonlyMap<string, Uint8Array> = new Map(HERE.map((name) => [name, read(name)]));
const encode = (value: unknown) => new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value));

/** Plain values by what follows `tokenizer.`. */
function plain(metadata: GgufMetadata | undefined): Record<string, unknown> {
  const entries = [...(metadata ?? [])].map(([key, entry]) => {
    const value = entry.kind === "array" ? entry.values.map((item) => "value" in item && item.value) : entry.value;
    return [key.replace(/^tokenizer\.(?:ggml\.)?/, ""), value] as const;
  });
  return Object.fromEntries(entries);
}

/** A field of a message, by its wire type 2 or 0. */
const field = (number: number, content: readonly number[]) => [number * 8 + 2, content.length, ...content];
const piece = (text: string, more: readonly number[] = []) => field(1, [...field(1, [...encode(text)]), ...more]);
const algorithm = (value: number) => field(2, [24, value]);

const refused = (model: Uint8Array, config = {}) =>
  assert.throws(() => describeTokenizerFiles(new Map([["tokenizer.model", model]]), config), {
    code: "QuantizeTokenizerUnsupported",
  });

test("tokens, scores, kinds and special ids are those of the reference", () => {
  const expected = readJson("expected.json");
  assert.deepEqual(plain(describeTokenizerFiles(FILES, readJson("config.json"))), {
    model: "llama",
    pre: "default",
    tokens: expected.tokens,
    scores: expected.scores,
    token_type: expected.types,
    bos_token_id: expected.ids.bos,
    eos_token_id: expected.ids.eos,
    unknown_token_id: expected.ids.unk,
    padding_token_id: expected.ids.pad,
    add_bos_token: expected.adds.bos,
    add_eos_token: expected.adds.eos,
    add_space_prefix: false,
    chat_template: expected.template,
  });
});

test("a model alone has its own kinds, ids by the config, and a template that lies beside it", () => {
  const files = new Map([
    ["tokenizer.model", read("tokenizer.model")],
    ["chat_template.jinja", encode("{{x}}")],
  ]);
  const { token_type: types, chat_template, ...ids } = plain(describeTokenizerFiles(files, { eos_token_id: 2 }));
  assert.deepEqual(Array.isArray(types) && types.slice(0, 6), [2, 3, 3, 3, 1, 6]);
  assert.deepEqual([ids.bos_token_id, ids.eos_token_id, ids.add_space_prefix], [undefined, 2, undefined]);
  assert.equal(chat_template, "{{x}}");
  const { pieces } = parseSentencePiece(read("tokenizer.model"));
  assert.deepEqual(pieces[4], { text: "<usr>", score: 0, kind: "user-defined" });
});

test("without a model it is tokenizer.json, and without either there is none", () => {
  assert.equal(describeTokenizerFiles(new Map(), {}), undefined);
  const level = { pre_tokenizer: { type: "ByteLevel" }, model: { type: "BPE", vocab: { a: 0 }, merges: [] } };
  const files = new Map([["tokenizer.json", encode(level)]]);
  assert.equal(plain(describeTokenizerFiles(files, { vocab_size: 1 })).model, "gpt2");
});

test("a model that readers of this name would not run is refused, as are files that say nonsense beside it", () => {
  refused(Uint8Array.from([...piece("a"), ...algorithm(1)]));
  refused(Uint8Array.from(piece("a")));
  refused(Uint8Array.from([...piece("a"), ...piece("b"), ...algorithm(2)]), { vocab_size: 1 });
  const cases: readonly (readonly [string, unknown])[] = [
    ["added_tokens.json", { "<x>": -1 }],
    ["added_tokens.json", "["],
    ["tokenizer_config.json", { added_tokens_decoder: { "0": {} } }],
    ["tokenizer.json", { added_tokens: [{ id: 0 }] }],
  ];
  for (const [name, content] of cases) {
    const files = new Map([...FILES, [name, encode(content)]]);
    assert.throws(
      () => describeTokenizerFiles(files, { vocab_size: 320 }),
      refusal({ code: "QuantizeTokenizerUnsupported", file: name }),
    );
  }
});

test("bytes that are no model are refused wherever they stop being one", () => {
  for (const bytes of [
    [],
    [0x0b], // a group
    [0x00], // field 0
    [0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], // a length beyond the end
    [0x08, ...Array.from({ length: 11 }, () => 0x80)], // a number without end
    [0x0d, 1, 2], // four bytes of which two are there
    field(1, field(1, [0xff, 0xfe])), // no UTF-8
    field(1, [24, 9]), // a kind of piece that is none
    [...piece("a"), ...algorithm(7)],
  ]) {
    refused(Uint8Array.from(bytes));
  }
  const whole = read("tokenizer.model");
  for (let end = 0; end < whole.length; end += 97) tryParse(whole.subarray(0, end));
  for (let place = 0; place < whole.length; place += 13) {
    for (const byte of [0, 0x7f, 0x80, 0xff]) tryParse(whole.with(place, byte));
  }
});

/** Either a model or one typed refusal. */
function tryParse(bytes: Uint8Array): void {
  try {
    parseSentencePiece(bytes);
  } catch (error) {
    assert.ok(hasCode(error, "QuantizeTokenizerUnsupported"), String(error));
  }
}

/** What a file with this metadata gives back, and what a file of that says. */
function rebuildAgain(metadata: GgufMetadata, config: Readonly<Record<string, unknown>>) {
  const { documents, lost } = rebuildTokenizer(metadata);
  assert.equal(lost, undefined);
  const files = new Map(documents);
  assert.deepEqual([...files.keys()], ["tokenizer.model", "tokenizer_config.json"]);
  return { files, again: describeTokenizerFiles(files, config) };
}

test("metadata becomes a model and settings that say the same again, and pieces that a reader finds", () => {
  const config = readJson("config.json");
  const ids = { bos_token_id: 1, eos_token_id: 301, pad_token_id: 303, unk_token_id: 0 };
  const metadata = describeTokenizerFiles(FILES, config);
  assert.ok(metadata !== undefined);
  const { files, again } = rebuildAgain(metadata, { ...config, ...ids });
  assert.deepEqual(plain(again), plain(metadata));
  const [own, rebuilt] = [read("tokenizer.model"), files.get("tokenizer.model") ?? new Uint8Array()].map(
    parseSentencePiece,
  );
  // A user-defined piece of the model itself is a normal token in GGUF, so comes back as one.
  const expected = own?.pieces.map((piece) => (piece.kind === "user-defined" ? { ...piece, kind: "normal" } : piece));
  assert.deepEqual(rebuilt?.pieces, expected);
  assert.deepEqual([rebuilt?.algorithm, rebuilt?.addsPrefix], ["bpe", false]);
  const alone = describeTokenizerFiles(new Map([["tokenizer.model", read("tokenizer.model")]]), { bos_token_id: 1 });
  assert.ok(alone !== undefined);
  assert.deepEqual(plain(rebuildAgain(alone, { bos_token_id: 1 }).again), plain(alone));
});

test("metadata that makes no model is said to be lost", () => {
  const metadata = describeTokenizerFiles(FILES, readJson("config.json"));
  assert.ok(metadata !== undefined);
  const list = (element: "f32" | "i32", values: readonly number[]): GgufMetadata => {
    const key = element === "f32" ? "scores" : "token_type";
    const items = values.map((value) => ({ kind: element, value }) as const);
    return new Map([...metadata, [`tokenizer.ggml.${key}`, { kind: "array", element, values: items }]]);
  };
  const { types } = readJson("expected.json");
  const without = new Map([...metadata].filter(([key]) => !key.endsWith(".scores")));
  for (const broken of [
    without,
    list("f32", [1, 2]),
    list(
      "i32",
      types.map(() => 9),
    ),
  ]) {
    assert.deepEqual(rebuildTokenizer(broken), { documents: [], lost: "llama, default" });
  }
});
