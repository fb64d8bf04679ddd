// Restoring ranks of another topology from a real training checkpoint: all ranks together are the checkpoint.
import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { layout } from "../../core/artifact/layout.ts";
import type { Universal } from "../../core/artifact/universal.ts";
import { readSafetensorsHeader } from "../../core/formats/safetensors/safetensors.ts";
import type { RestoredParameter } from "../../core/universal/plan-restore.ts";
import { readUniversal } from "../../steps/checkpoint-listing.ts";
import { convertStep } from "../../steps/convert/convert.ts";
import { restoreStep } from "../../steps/pull/restore.ts";
import { runStep } from "../../steps/step.ts";
import { initYard } from "../../steps/yard.ts";
import { readAll, writeBytes } from "../../stores/objects.ts";
import { openStore } from "../../stores/open.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore, testDeps } from "./deps.ts";

const TRAINED = pathToFileURL(path.resolve(import.meta.dirname, "../golden/deepspeed/z1_tp2_pp2_dp2_bf16_tied")).href;
const open =
  (...stores: readonly ObjectStore[]) =>
  (uri: string) =>
    stores.find((store) => store.uri === uri) ?? openStore(uri, {});

/** A yard with the universal checkpoint of a real training run. */
async function trainedYard(): Promise<{ readonly yard: ObjectStore; readonly prefix: string }> {
  const [yard, universal] = [newStore(), newStore()];
  await initYard(yard);
  const deps = testDeps(open(yard, universal));
  const { digest } = await runStep(convertStep, { source: TRAINED, target: universal.uri, to: "universal" }, deps);
  const prefix = layout.checkpoint("trained", digest ?? "");
  for await (const { key, bytes } of universal.list("")) {
    await writeBytes(yard, prefix + key, await readAll(universal, key, bytes));
  }
  return { yard, prefix };
}

/** float32 values of every tensor of a file. */
async function readTensors(store: ObjectStore, key: string): Promise<Map<string, Float32Array>> {
  const info = await store.head(key);
  if (info === undefined) return new Map();
  const file = await readAll(store, key, info.bytes);
  const header = await readSafetensorsHeader(async (offset, bytes) => file.slice(offset, offset + bytes), {
    name: key,
    bytes: info.bytes,
  });
  return new Map(
    header.tensors.map(({ name, ranges: [range] }) => {
      const start = range?.offset ?? 0;
      return [name, new Float32Array(file.slice(start, start + (range?.bytes ?? 0)).buffer)];
    }),
  );
}

async function readState(yard: ObjectStore, prefix: string, universal: Universal, state: "exp_avg" | "model") {
  const values = new Map<string, Float32Array>();
  for (const parameter of universal.parameters) {
    const place = state === "model" ? parameter : parameter.states?.[state];
    if (place === undefined) continue;
    const bytes = new Uint8Array(place.bytes);
    await yard.readInto(prefix + place.file, place.offset, bytes);
    values.set(parameter.name, new Float32Array(bytes.buffer));
  }
  return values;
}

/** Element numbers of the whole parameter for each element of a slice; -1 for padding. */
function elementsOf({ shape, slice, boxes }: RestoredParameter): Int32Array {
  const found = new Int32Array(slice.reduce((product, length) => product * length, 1)).fill(-1);
  const columns = shape[1] ?? 1;
  const sliceColumns = slice[1] ?? 1;
  for (const { offset, size, target } of boxes) {
    for (let row = 0; row < (size[0] ?? 1); row += 1) {
      for (let column = 0; column < (size[1] ?? 1); column += 1) {
        const to = ((target[0] ?? 0) + row) * sliceColumns + (target[1] ?? 0) + column;
        found[to] = ((offset[0] ?? 0) + row) * columns + (offset[1] ?? 0) + column;
      }
    }
  }
  return found;
}

test("all ranks of a topology together hold every value and state of the checkpoint", async () => {
  const { yard, prefix } = await trainedYard();
  const { universal } = await readUniversal(yard, prefix, new AbortController().signal);
  const [weights, moments] = [
    await readState(yard, prefix, universal, "model"),
    await readState(yard, prefix, universal, "exp_avg"),
  ];
  for (const [tp, pp, dp] of [
    [1, 1, 1],
    [2, 1, 2],
    [4, 2, 1],
    [2, 2, 3],
  ] as const) {
    const seen = new Map([...moments].map(([name, values]) => [name, new Uint8Array(values.length)]));
    for (let rank = 0; rank < tp * pp * dp; rank += 1) {
      const target = newStore();
      const input = { yard: yard.uri, model: "trained", target: target.uri, tp, pp, dp, rank };
      const result = await runStep(restoreStep, input, testDeps(open(yard, target)));
      assert.ok(rank === 0 || result.fetchedBytes > 0);
      const record = JSON.parse(Buffer.from(await readAll(target, "rank.json", 1e7)).toString());
      const [slices, runs] = [
        await readTensors(target, "model.safetensors"),
        await readTensors(target, "exp_avg.safetensors"),
      ];
      for (const parameter of record.parameters as RestoredParameter[]) {
        const elements = elementsOf(parameter);
        const whole = weights.get(parameter.name);
        slices.get(parameter.name)?.forEach((value, index) => {
          const element = elements[index] ?? -1;
          assert.equal(value, element === -1 ? 0 : whole?.[element], `${parameter.name} of rank ${rank}`);
        });
        const { start = 0 } = parameter.state ?? {};
        runs.get(parameter.name)?.forEach((value, index) => {
          const element = elements[start + index] ?? -1;
          assert.equal(value, element === -1 ? 0 : moments.get(parameter.name)?.[element]);
          const marks = seen.get(parameter.name);
          if (marks !== undefined && element !== -1) marks[element] = 1;
        });
      }
    }
    for (const [name, marks] of seen)
      assert.ok(
        marks.every((mark) => mark === 1),
        `${name} at ${tp} x ${pp} x ${dp}`,
      );
  }
});

test("a vocabulary is padded as convert pads it for the same ranks", async () => {
  const { yard } = await trainedYard();
  // Two ranks held 32 rows each of 50: padded to multiples of 8 x ranks.
  for (const [tp, vocabularyMultiple, rows] of [
    [1, undefined, 56],
    [2, undefined, 32],
    [4, undefined, 16],
    [4, 16, 16],
    [4, 32, 32],
    [4, 1, 13],
  ] as const) {
    const target = newStore();
    const input = {
      yard: yard.uri,
      model: "trained",
      target: target.uri,
      tp,
      pp: 1,
      dp: 1,
      rank: 0,
      vocabularyMultiple,
    };
    await runStep(restoreStep, input, testDeps(open(yard, target)));
    const record = JSON.parse(Buffer.from(await readAll(target, "rank.json", 1e7)).toString());
    const words = record.parameters.find(({ name }: { name: string }) => name.endsWith("word_embeddings.weight"));
    assert.equal(words.slice[0], rows, `tp ${tp}, multiple ${vocabularyMultiple}`);
  }
});

test("a rank fetches its part and not the rest", async () => {
  const { yard, prefix } = await trainedYard();
  const { universal, bytes } = await readUniversal(yard, prefix, new AbortController().signal);
  const total = universal.files.reduce((sum, file) => sum + file.bytes, 0);
  const target = newStore();
  const input = { yard: yard.uri, model: "trained", target: target.uri, tp: 2, pp: 2, dp: 4, rank: 5 };
  const { fetchedBytes } = await runStep(restoreStep, input, testDeps(open(yard, target)));
  assert.ok(fetchedBytes - bytes.length < total / 2, `${fetchedBytes - bytes.length} of ${total} bytes`);
  const again = await runStep(restoreStep, input, testDeps(open(yard, target)));
  assert.equal(
    again.bytes,
    (await Array.fromAsync(target.list(""))).reduce(
      (sum, file) => sum + (file.key === "rank.json" ? 0 : file.bytes),
      0,
    ),
  );
});

test("an uploaded universal checkpoint is restored from where it lies, once it is complete", async () => {
  const { yard, prefix } = await trainedYard();
  const upload = "incoming/other/1/";
  for await (const { key } of yard.list(prefix)) {
    await yard.create(`${upload}${key.slice(prefix.length)}`, await readAll(yard, key, 1e8));
  }
  const base = { yard: yard.uri, tp: 1, pp: 1, dp: 2, rank: 1 };
  const restore = (model: string, target: ObjectStore) =>
    runStep(restoreStep, { ...base, model, target: target.uri }, testDeps(open(yard, target)));
  await yard.create(`${upload}_PUSH`, new Uint8Array(0));
  await assert.rejects(restore("other", newStore()), {
    code: "YardModelMissing",
    expected: "checkpoints/other/DIGEST/universal.json, or an upload with one",
    hint: /convert --to universal/,
  });
  await yard.delete(`${upload}_PUSH`);
  await yard.create(`${upload}_COMPLETE`, new Uint8Array(0));
  const [own, made] = [await restore("other", newStore()), await restore("trained", newStore())];
  assert.deepEqual([own.checkpoint, made.checkpoint], [upload, prefix]);
  assert.deepEqual([own.digest, own.bytes], [made.digest, made.bytes]);
});

test("a damaged tensor, a foreign folder and a missing checkpoint are refused", async () => {
  const { yard, prefix } = await trainedYard();
  const base = { yard: yard.uri, tp: 1, pp: 1, dp: 1, rank: 0 };
  const restore = (model: string, target: ObjectStore) =>
    runStep(restoreStep, { ...base, model, target: target.uri }, testDeps(open(yard, target)));
  const occupied = newStore();
  await occupied.create("notes.txt", new Uint8Array(1));
  await assert.rejects(restore("trained", occupied), { code: "YardTargetOccupied" });
  await assert.rejects(restore("other", newStore()), { code: "YardModelMissing" });
  await assert.rejects(restore(`trained@${"0".repeat(16)}`, newStore()), { code: "YardModelMissing" });
  // Of weights and of states: on one rank both are whole.
  for (const name of ["exp_avg.safetensors", "model.safetensors"]) {
    const key = `${prefix}${name}`;
    const sound = await readAll(yard, key, 1e8);
    await writeBytes(yard, key, sound.with(-1, (sound.at(-1) ?? 0) ^ 1));
    const target = newStore();
    await assert.rejects(restore("trained", target), { code: "YardFileCorrupt" }, name);
    assert.equal(await target.head("rank.json"), undefined);
    await writeBytes(yard, key, sound);
  }
});
