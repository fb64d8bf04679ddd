// What diff says of two checkpoints.
import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeSafetensorsFile } from "../../core/formats/safetensors/safetensors.ts";
import type { Dtype } from "../../core/tensor.ts";
import { diffStep } from "../../steps/diff.ts";
import { runStep } from "../../steps/step.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore, openerOf, testDeps } from "./deps.ts";

type Tensor = { readonly dtype?: Dtype; readonly shape?: number[]; readonly values: readonly number[] };

async function checkpoint(tensors: Readonly<Record<string, Tensor>>): Promise<ObjectStore> {
  const store = newStore();
  const specs = Object.entries(tensors).map(([name, { dtype = "F32", shape, values }]) => {
    return { name, dtype, shape: shape ?? [values.length] };
  });
  const file = encodeSafetensorsFile(specs, ({ name, dtype }) => {
    const values = tensors[name]?.values ?? [];
    const arrays: Partial<Record<Dtype, () => ArrayBufferView>> = {
      F32: () => Float32Array.from(values),
      F64: () => Float64Array.from(values),
      I64: () => BigInt64Array.from(values, BigInt),
      // The upper halves of values that BF16 holds exactly.
      BF16: () => Uint16Array.from(values, (value) => (new Uint32Array(Float32Array.of(value).buffer)[0] ?? 0) >>> 16),
    };
    return arrays[dtype]?.();
  });
  await writeBytes(store, "model.safetensors", file);
  return store;
}

const diff = (a: ObjectStore, b: ObjectStore) =>
  runStep(diffStep, { a: { folder: a.uri }, b: { folder: b.uri } }, testDeps(openerOf(a, b)));

test("tensors are equal, changed by so much, of another shape, or only in one", async () => {
  const a = await checkpoint({
    same: { values: [1, Number.NaN, -0] },
    moved: { values: [3, 4, 0] },
    cut: { values: [1, 2, 3, 4], shape: [2, 2] },
    gone: { values: [1] },
    ids: { dtype: "I64", values: [1, 2] },
    equalIds: { dtype: "I64", values: [1, 2] },
  });
  const b = await checkpoint({
    same: { values: [1, Number.NaN, 0] },
    moved: { values: [3, 4.5, 1] },
    cut: { values: [1, 2, 3, 4] },
    added: { values: [1] },
    ids: { dtype: "I64", values: [1, 3] },
    equalIds: { dtype: "I64", values: [1, 2] },
  });
  const { equal, onlyA, onlyB, shapes, changed } = await diff(a, b);
  assert.deepEqual([equal, onlyA, onlyB], [2, ["gone"], ["added"]]);
  assert.deepEqual(shapes, [{ name: "cut", a: [2, 2], b: [4] }]);
  const [ids, moved] = [...changed].sort((x, y) => (x.name < y.name ? -1 : 1));
  assert.deepEqual(ids, {
    name: "ids",
    dtypes: ["I64", "I64"],
    elements: 2,
    changed: null,
    maxAbs: null,
    relative: null,
  });
  assert.deepEqual([moved?.changed, moved?.maxAbs, moved?.relative], [2, 1, Math.sqrt(1.25 / 25)]);
});

test("dtypes that differ are compared by value, over windows of different lengths", async () => {
  const values = Array.from({ length: 3_000_000 }, (_, index) => (index % 251) - 125);
  const wide = values.with(2_999_999, 100);
  const result = await diff(
    await checkpoint({ w: { values } }),
    await checkpoint({ w: { dtype: "BF16", values: wide } }),
  );
  const [only] = result.changed;
  assert.deepEqual([only?.dtypes, only?.changed], [["F32", "BF16"], 1]);
  const same = await diff(
    await checkpoint({ w: { dtype: "F64", values } }),
    await checkpoint({ w: { dtype: "BF16", values } }),
  );
  assert.deepEqual([same.changed[0]?.changed, same.changed[0]?.maxAbs], [0, 0]);
});

test("an infinity or NaN on one side counts as a change, and not into the distance", async () => {
  const a = await checkpoint({ w: { values: [1, 2, 2] } });
  const b = await checkpoint({ w: { values: [Number.POSITIVE_INFINITY, Number.NaN, 3] } });
  const [only] = (await diff(a, b)).changed;
  assert.deepEqual([only?.changed, only?.maxAbs, only?.relative], [3, 1, 1 / 3]);
});
