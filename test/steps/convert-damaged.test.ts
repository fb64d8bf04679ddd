// Goal: a universal checkpoint whose bytes are not those of its digests is converted into nothing.
// Method: one bit of one tensor is turned, first, in the middle or last, in a file of parameters or of a state; every
// target that reads the tensor names it and leaves nothing, and one that does not read it is made.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { listTensorFiles, parseUniversal } from "../../core/artifact/universal.ts";
import { checkSource } from "../../engine/checked-source.ts";
import { CONVERSION_TARGETS, convertStep } from "../../steps/convert/convert.ts";
import { listKeys } from "../../steps/records.ts";
import { runStep } from "../../steps/step.ts";
import { readAll, writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { refusal } from "../refusal.ts";
import { newStore, openerOf, testDeps } from "./deps.ts";
import { convertInto, goldenStore } from "./folders.ts";

const RANKS = { topology: { tp: 2, pp: 1, dp: 2, zero: 1 as const } };

/** A universal checkpoint of which byte `at` of a file is another; the tensor that holds it. */
async function damage(file: string, at: (bytes: number) => number) {
  const { target: store } = await convertInto(await goldenStore("deepspeed/z3_tp2_pp1_dp2_bf16"), "universal");
  const listings = listTensorFiles(parseUniversal(await readAll(store, "universal.json", 1e7)));
  const tensors = listings.find(({ name }) => name === file)?.tensors ?? assert.fail(file);
  const bytes = await readAll(store, file, 1e8);
  const start = tensors[0]?.offset ?? 0;
  const place = start + at(bytes.length - start);
  bytes[place] = (bytes[place] ?? 0) ^ 1;
  await writeBytes(store, file, bytes);
  const tensor = tensors.find(({ offset, bytes: own }) => place >= offset && place < offset + own)?.name;
  return { store, tensor, listings };
}

async function refuse(
  store: ObjectStore,
  tensor: string | undefined,
  to: (typeof CONVERSION_TARGETS)[number],
  more = {},
) {
  const target = newStore();
  const input = { source: store.uri, target: target.uri, to, ...more };
  const converting = runStep(convertStep, input, testDeps(openerOf(store, target)));
  await assert.rejects(converting, refusal({ code: "YardFileCorrupt", tensor }), to);
  assert.deepEqual(await listKeys(target, ""), [], `${to} left files`);
}

suite("a damaged universal checkpoint", () => {
  for (const [place, at] of [
    ["first", () => 0],
    ["middle", (bytes: number) => bytes >> 1],
    ["last", (bytes: number) => bytes - 1],
  ] as const) {
    test(`is refused by every target when its ${place} byte of parameters differs`, async () => {
      const { store, tensor } = await damage("model.safetensors", at);
      for (const to of CONVERSION_TARGETS) await refuse(store, tensor, to, to === "deepspeed" ? RANKS : {});
      await refuse(store, tensor, "safetensors", { dtype: "F16" });
      await refuse(store, tensor, "torch", { dtype: "BF16" });
    });
  }

  test("is refused by every target that keeps states when a state differs", async () => {
    const { store, tensor } = await damage("exp_avg_sq.safetensors", (bytes) => bytes >> 1);
    for (const to of ["universal", "dcp", "deepspeed-universal", "deepspeed"] as const) {
      await refuse(store, tensor, to, to === "deepspeed" ? RANKS : {});
    }
    await convertInto(store, "safetensors");
    await convertInto(store, "torch");
  });
});

test("tensors are checked whatever the order and the pieces they are read in", async () => {
  const { store, tensor, listings } = await damage("model.safetensors", (bytes) => bytes - 1);
  const [{ tensors } = assert.fail()] = listings.filter(({ name }) => name === "model.safetensors");
  const { offset, bytes } = tensors.at(-1) ?? assert.fail();
  const { signal } = new AbortController();
  for (const pieces of [[0], [bytes - 1], [bytes >> 1, 0], [0, 1, bytes >> 1]]) {
    const checked = checkSource(store, "", listings);
    for (const from of pieces) await checked.store.readInto("model.safetensors", offset + from, new Uint8Array(1));
    await assert.rejects(checked.finish({ signal }), {
      code: "YardFileCorrupt",
      where: { store: store.uri, file: "model.safetensors", tensor },
    });
  }
  const others = checkSource(store, "", listings);
  await others.store.readInto("model.safetensors", 0, new Uint8Array(offset));
  await others.finish({ signal });
});
