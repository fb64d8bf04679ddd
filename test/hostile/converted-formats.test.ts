// Damaged checkpoints of the formats that conversions read and write. Goal and method are those of checkpoints.test.ts,
// here through the opening of a folder as every command does it: GGUF files, compressed-tensors folders, DeepSpeed's
// universal folder, distributed checkpoints of both variants and Megatron's. Headers and documents are damaged, since
// opening reads no weights. FUZZ_TIMES in the environment asks for so many times the rounds.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { MergeyardError } from "../../core/error.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { listKeys } from "../../steps/records.ts";
import { readAll } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore } from "../steps/deps.ts";
import { convertInto, exampleCompressed, exampleGguf, goldenStore } from "../steps/folders.ts";
import { withinBounds } from "./bounds.ts";
import { createPicker, mutate } from "./mutate.ts";

const ROUNDS = 100 * Number(process.env.FUZZ_TIMES ?? 1);
/** CPU seconds for one damaged folder: a hundred times what opening a whole one takes. */
const SECONDS_MAX = 2;
/** Headers lie in these first bytes; what follows is weights, which opening does not read. */
const DAMAGED_BYTES = 64 * 1024;

type Files = ReadonlyMap<string, Uint8Array>;

async function filesOf(store: ObjectStore, below = "", without = /^$/): Promise<Files> {
  const files = new Map<string, Uint8Array>();
  for (const name of await listKeys(store, "")) {
    if (name.startsWith(below) && !without.test(name)) {
      files.set(name.slice(below.length), await readAll(store, name, 1e8));
    }
  }
  return files;
}

const TRAINED = "deepspeed/z2_tp1_pp1_dp3_fp32_padding";
const CASES: readonly (readonly [title: string, make: () => Promise<Files>])[] = [
  ["a GGUF file", async () => filesOf(await exampleGguf("q4_0"))],
  ["a compressed-tensors folder of packed integers", async () => filesOf(await exampleCompressed("int4_group32_asym"))],
  ["a compressed-tensors folder of FP8", async () => filesOf(await exampleCompressed("fp8_block"))],
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
