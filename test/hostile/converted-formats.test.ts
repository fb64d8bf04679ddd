// Damaged checkpoints of the formats that conversions read and write. Goal and method are those of checkpoints.test.ts,
// here through the opening of a folder as every command does it: GGUF files, compressed-tensors folders, DeepSpeed's
// universal folder, distributed checkpoints of both variants and Megatron's. Headers and documents are damaged, since
// opening reads no weights. FUZZ_TIMES in the environment asks for so many times the rounds.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { suite, test } from "node:test";
import { MergeyardError } from "../../core/error.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { quantizeFolderStep } from "../../steps/quantize/folder.ts";
import { quantizeStep } from "../../steps/quantize/quantize.ts";
import { runStep } from "../../steps/step.ts";
import { readAll } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { createQuantizeExecutor } from "../../workers/quantize-executor.ts";
import { newStore, openerOf, testDeps } from "../steps/deps.ts";
import { convertInto, goldenStore, namesIn } from "../steps/folders.ts";
import { withinBounds } from "./bounds.ts";
import { createPicker, mutate } from "./mutate.ts";

const MODEL = join(import.meta.dirname, "../../examples/models/base");
const ROUNDS = 100 * Number(process.env.FUZZ_TIMES ?? 1);
/** CPU seconds for one damaged folder: a hundred times what opening a whole one takes. */
const SECONDS_MAX = 2;
/** Headers lie in these first bytes; what follows is weights, which opening does not read. */
const DAMAGED_BYTES = 64 * 1024;

type Files = ReadonlyMap<string, Uint8Array>;

async function filesOf(store: ObjectStore, below = "", without = /^$/): Promise<Files> {
  const files = new Map<string, Uint8Array>();
  for (const name of await namesIn(store)) {
    if (name.startsWith(below) && !without.test(name)) {
      files.set(name.slice(below.length), await readAll(store, name, 1e8));
    }
  }
  return files;
}

async function exampleModel(): Promise<ObjectStore> {
  const store = newStore();
  for (const name of readdirSync(MODEL)) await store.create(name, readFileSync(join(MODEL, name)));
  return store;
}

async function ggufFiles(): Promise<Files> {
  const [source, target] = [await exampleModel(), newStore()];
  const input = { source: source.uri, target: target.uri, name: "model.gguf", scheme: "q4_0", tokenizer: false };
  const openStore = openerOf(source, target);
  const { execute } = createQuantizeExecutor(openStore);
  await runStep(quantizeStep, input, { ...testDeps(openStore), executeQuantize: execute });
  return filesOf(target);
}

async function compressedFiles(scheme: "int4_group32_asym" | "fp8_block"): Promise<Files> {
  const [source, target] = [await exampleModel(), newStore()];
  const input = { source: source.uri, target: target.uri, scheme };
  await runStep(quantizeFolderStep, input, testDeps(openerOf(source, target)));
  return filesOf(target);
}

const TRAINED = "deepspeed/z2_tp1_pp1_dp3_fp32_padding";
const CASES: readonly (readonly [title: string, make: () => Promise<Files>])[] = [
  ["a GGUF file", ggufFiles],
  ["a compressed-tensors folder of packed integers", () => compressedFiles("int4_group32_asym")],
  ["a compressed-tensors folder of FP8", () => compressedFiles("fp8_block")],
  ["DeepSpeed's universal folder", async () => filesOf(await goldenStore(TRAINED), "global_step3_universal/")],
  ["a distributed checkpoint", async () => filesOf((await convertInto(await goldenStore(TRAINED), "dcp")).target)],
  ["sharded safetensors", async () => filesOf(await goldenStore("dcp/hf_sharded"))],
  ["Megatron's torch_dist", async () => filesOf(await goldenStore("megatron"), "", /^expected|\.py$/)],
  [
    "a universal checkpoint of a training state",
    async () => filesOf((await convertInto(await goldenStore(TRAINED), "universal")).target),
  ],
];

/** Opens the files as a folder; false when it was refused with a typed error. */
async function opens(files: Files, label: string): Promise<boolean> {
  const store = newStore();
  for (const [name, bytes] of files) await store.create(name, bytes);
  try {
    await withinBounds(label, SECONDS_MAX, () => openCheckpoint(store, ""));
    return true;
  } catch (error) {
    assert.ok(error instanceof MergeyardError, `${label}: ${error instanceof Error ? error.stack : String(error)}`);
    assert.ok(error.message.length < 4000, `${label}: an error is not a copy of the file`);
    return false;
  }
}

suite("damaged headers and documents open or are refused", () => {
  for (const [title, make] of CASES) {
    test(title, async () => {
      const whole = await make();
      assert.ok(await opens(whole, "whole"), "undamaged it opens");
      const names = [...whole.keys()];
      let opened = 0;
      for (let round = 0; round < ROUNDS; round += 1) {
        const pick = createPicker(round);
        const name = names[round % names.length] ?? assert.fail();
        const bytes = whole.get(name) ?? assert.fail();
        const [header, rest] = [bytes.subarray(0, DAMAGED_BYTES), bytes.subarray(DAMAGED_BYTES)];
        const damaged = Buffer.concat([mutate(header, pick), rest]);
        if (await opens(new Map([...whole, [name, damaged]]), `${name} seed ${round}`)) opened += 1;
      }
      assert.ok(opened < ROUNDS, "some damage is noticed");
    });
  }
});
