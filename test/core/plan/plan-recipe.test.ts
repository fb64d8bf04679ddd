// Recipes of several documents: their merges are planned together, each from the headers that the one before will have.
import assert from "node:assert/strict";
import test from "node:test";
import { encodeSafetensorsHeader } from "../../../core/formats/safetensors/safetensors.ts";
import { sourceSchema, unitSchema } from "../../../core/plan/schema.ts";
import { assertRefused } from "../../refusal.ts";
import { tokenizerBytes } from "../tokenizer/tokenizers.ts";
import { makeCheckpoint, makeLlama, planDocuments } from "./checkpoints.ts";

const merge = (name: string | undefined, models: readonly string[], more = "") =>
  `${name === undefined ? "" : `name: ${name}\n`}merge_method: linear\nparameters: {weight: 1}\n` +
  `models: [${models.map((model) => `{model: ${model}}`).join(", ")}]\n${more}`;

test("later documents read the files of earlier ones at the places that their headers will say", () => {
  const { sources, documents, output } = planDocuments(
    [merge("first", ["a", "b"], "dtype: bfloat16\n"), merge(undefined, ["first", "c"])].join("---\n"),
    { a: makeLlama(), b: makeLlama(), c: makeLlama() },
    {},
    { shardBytes: 200, stage: 2 },
  );
  assert.deepEqual(
    sources.map(({ model, state, mergedBy }) => [model, state, mergedBy?.stage]),
    [
      ["a", "foreign", undefined],
      ["b", "foreign", undefined],
      ["c", "foreign", undefined],
      ["first", "merged", 2],
    ],
  );
  for (const source of sources) sourceSchema.parse(source);
  const [first, last] = documents;
  assert.deepEqual([first?.name, last?.name, last?.plan], ["first", undefined, output]);
  assert.ok((first?.plan.units.length ?? 0) > 1, "several files");
  for (const unit of first?.plan.units ?? []) assert.deepEqual([unit.stage, unit.intermediate], [2, true]);
  for (const unit of output.units) assert.deepEqual([unit.stage, unit.intermediate], [3, undefined]);
  for (const unit of [...(first?.plan.units ?? []), ...output.units]) unitSchema.parse(unit);
  for (const { inputs, name } of output.units.flatMap(({ tensors }) => tensors)) {
    const [made, own] = inputs;
    assert.deepEqual([made?.source, own?.source, made?.dtype], [3, 2, "BF16"]);
    const [range] = made?.ranges ?? [];
    const unit = first?.plan.units.find(({ file }) => file === range?.file);
    const tensor = unit?.tensors.find((entry) => entry.name === name);
    const { header } = encodeSafetensorsHeader(unit?.tensors ?? [], new Map([["format", "pt"]]));
    assert.deepEqual(range, { file: unit?.file, offset: header.length + (tensor?.offset ?? -1), bytes: tensor?.bytes });
  }
});

test("files beside the weights come from where they first were, and each licence once", () => {
  const files = (...names: readonly string[]) => names.map((name) => ({ name, bytes: 7 }));
  const { output } = planDocuments(
    [merge("first", ["a", "b"]), merge("second", ["first", "a"]), merge(undefined, ["second", "b"])].join("---\n"),
    {
      a: makeLlama({ sideFiles: files("LICENSE", "generation_config.json", "tokenizer.json") }),
      b: makeLlama({ sideFiles: files("LICENSE") }),
    },
  );
  const taken = output.sideFiles.flatMap((file) =>
    file.from === "source" ? [[file.name, file.source, file.file]] : [],
  );
  assert.deepEqual(taken, [
    ["LICENSE", 0, "LICENSE"],
    ["LICENSE.b", 1, "LICENSE"],
    ["generation_config.json", 0, "generation_config.json"],
    ["tokenizer.json", 0, "tokenizer.json"],
  ]);
});

test("the card lists the models that exist, and not what the recipe itself makes", () => {
  const { output } = planDocuments([merge("first", ["a", "b"]), merge(undefined, ["first", "c"])].join("---\n"), {
    a: makeLlama(),
    b: makeLlama(),
    c: makeLlama(),
  });
  const card = output.sideFiles.find(({ name }) => name === "README.md");
  const text = card?.from === "text" ? card.text : "";
  assert.deepEqual(
    [...text.matchAll(/^\| (\w+) \| <!-- digest of source (\d) -->/gm)].map(([, name, index]) => [name, index]),
    [
      ["a", "0"],
      ["b", "1"],
      ["c", "2"],
    ],
  );
});

test("a later document uses the vocabulary that an earlier one made", () => {
  const tokens = (...words: readonly string[]) => ({
    "tokenizer.json": tokenizerBytes({ vocab: Object.fromEntries(words.map((word, id) => [word, id])) }),
  });
  const small = (vocabulary: number) => makeLlama({ vocabulary, layers: 1 });
  const union = "tokenizer: {source: union}\n";
  const { output } = planDocuments(
    [merge("first", ["a", "b"], union), merge(undefined, ["first", "c"], union)].join("---\n"),
    {
      a: small(2),
      b: small(2),
      c: small(2),
    },
    { a: tokens("p", "q"), b: tokens("q", "r"), c: tokens("r", "s") },
  );
  const file = output.sideFiles.find(({ name }) => name === "tokenizer.json");
  assert.deepEqual(JSON.parse(file?.from === "text" ? file.text : "").model.vocab, { p: 0, q: 1, r: 2, s: 3 });
  const embedding = output.units.flatMap(({ tensors }) => tensors).find(({ name }) => /embed/.test(name));
  const [made, own] = embedding?.inputs ?? [];
  assert.deepEqual(
    [made?.source, made?.rows?.others[0]?.source, made?.rows?.runs],
    [
      3,
      2,
      [
        [0, 0, 3],
        [1, 1, 1],
      ],
    ],
  );
  assert.deepEqual([own?.source, own?.rows?.others[0]?.source], [2, 3]);
});

test("warnings say which document they are of, and a mismatch is found before anything is merged", () => {
  const idle = merge("first", ["a"], "").replace("{weight: 1}", "{weight: [{filter: nowhere, value: 1}, {value: 2}]}");
  const { warnings } = planDocuments([idle, merge(undefined, ["first", "b"])].join("---\n"), {
    a: makeLlama(),
    b: makeLlama(),
  });
  assert.ok(
    warnings.some((warning) => warning.startsWith("first: ")),
    String(warnings),
  );
  const narrow = makeCheckpoint({ "model.norm.weight": [5] });
  const wide = makeCheckpoint({ "model.norm.weight": [4] });
  assertRefused(
    () =>
      planDocuments([merge("first", ["a"]), merge(undefined, ["first", "b"])].join("---\n"), { a: wide, b: narrow }),
    {
      code: "PlanShapeMismatch",
      tensor: "model.norm.weight",
    },
  );
});
