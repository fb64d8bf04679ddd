// A pipeline that merges models of different vocabularies: tokenizer files are fetched from uploads, rows come from
// universal checkpoints, and a change in a model that only gives a token is noticed.
import assert from "node:assert/strict";
import { test } from "node:test";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { readAll } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newYard, openerOf, putText, testDeps } from "./deps.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { runPipeline } from "./pipeline.ts";
import { putModel } from "./small-model.ts";

const RECIPE = `name: words
models: { one: incoming/a, two: incoming/b, three: incoming/c }
merge:
  merge_method: linear
  models:
    - { model: one, parameters: { weight: 1 } }
    - { model: two, parameters: { weight: 1 } }
  tokenizer:
    source: union
    tokens: { extra: { source: { kind: model_token, model: three, token_id: 2 } } }
publish: { model: words, channel: nightly }
`;

/** A model whose 16 tokens are `prefix` and a number, the first eight of them shared ones. */
async function putWords(yard: ObjectStore, folder: string, seed: number, prefix: string): Promise<void> {
  await putModel(yard, folder, { seed });
  const tokens = Array.from({ length: 16 }, (_, id) => [id < 8 ? `shared${7 - id}` : `${prefix}${id}`, id]);
  const model = { type: "WordLevel", unk_token: "x", vocab: Object.fromEntries(tokens) };
  await putText(yard, `${folder}tokenizer.json`, JSON.stringify({ version: "1.0", added_tokens: [], model }));
}

async function readRows(yard: ObjectStore, prefix: string): Promise<readonly Float32Array[]> {
  const opened = await openCheckpoint(yard, prefix);
  const entry = opened.checkpoint.tensors.find(({ name }) => name === "model.embed_tokens.weight");
  const [range] = entry?.ranges ?? [];
  const bytes = await readAll(yard, `${prefix}${range?.file ?? ""}`, 1e6);
  const values = new Float32Array(bytes.slice(range?.offset, (range?.offset ?? 0) + (range?.bytes ?? 0)).buffer);
  return Array.from({ length: values.length / 8 }, (_, row) => values.subarray(8 * row, 8 * row + 8));
}

test("embeddings are merged token by token, and a changed giver of one token makes a new version", async () => {
  const yard = await newYard();
  await putWords(yard, "incoming/a/1/", 1, "a");
  await putWords(yard, "incoming/b/1/", 2, "b");
  await putWords(yard, "incoming/c/1/", 3, "c");
  await putText(yard, "pipelines/small.yaml", RECIPE);
  const merged: string[] = [];
  const openStore = openerOf(yard);
  const deps = testDeps(openStore, {
    executeMerge: createInThreadExecutor(
      openStore,
      ({ unit }) => void merged.push(...unit.tensors.map(({ name }) => name)),
    ),
  });
  const first = await runPipeline(yard, deps);
  const prefix = `artifacts/words/${first.result?.version}/`;
  const config = JSON.parse(Buffer.from(await readAll(yard, `${prefix}config.json`, 1e6)).toString());
  assert.equal(config.vocab_size, 25);
  const tokenizer = JSON.parse(Buffer.from(await readAll(yard, `${prefix}tokenizer.json`, 1e6)).toString());
  const ids: Record<string, number> = tokenizer.model.vocab;
  const [rows, a, b, c] = await Promise.all([
    readRows(yard, prefix),
    readRows(yard, "incoming/a/1/"),
    readRows(yard, "incoming/b/1/"),
    readRows(yard, "incoming/c/1/"),
  ]);
  const mean = (x?: Float32Array, y?: Float32Array) =>
    x?.map((value, index) => Math.fround(value + (y?.[index] ?? 0)) / 2);
  assert.deepEqual(rows[ids.shared3 ?? -1], mean(a[4], b[4]));
  assert.deepEqual(rows[ids.a9 ?? -1], mean(a[9], a[9]));
  assert.deepEqual(rows[ids.b9 ?? -1], mean(b[9], b[9]));
  assert.deepEqual(rows[ids.extra ?? -1], mean(c[2], c[2]));

  await putWords(yard, "incoming/c/2/", 4, "c");
  merged.length = 0;
  const second = await runPipeline(yard, deps);
  assert.notEqual(second.result?.version, first.result?.version);
  assert.deepEqual(merged, ["model.embed_tokens.weight"], "everything else comes from the cache");
});
