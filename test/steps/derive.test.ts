// Deriving models of fewer bits from stored INT8, from a small model made here: the values of the reference's table,
// what the folder says of itself, shards, and what is refused.
import assert from "node:assert/strict";
import { test } from "node:test";
import { viewOf } from "../../core/data-view.ts";
import { describeCompressed } from "../../core/formats/quantized/compressed-tensors-config.ts";
import { encodeSafetensorsFile } from "../../core/formats/safetensors/safetensors.ts";
import { deriveCodes, LOWER_BITS, type LowerBits, refitScale } from "../../core/schemes/double-rounding.ts";
import { dequantizeMatrix, quantizeMatrix } from "../../core/schemes/part-matrix.ts";
import { COMPRESSED_SCHEMES } from "../../core/schemes/registry.ts";
import { ROUNDINGS } from "../../core/schemes/rounding.ts";
import type { Matrix } from "../../core/schemes/scheme.ts";
import type { Dtype } from "../../core/tensor.ts";
import { readValues } from "../../steps/models/whole-tensors.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { deriveStep } from "../../steps/quantize/derive.ts";
import { runStep } from "../../steps/step.ts";
import { readAll, writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { gaussians } from "../core/schemes/gaussians.ts";
import { refusal } from "../refusal.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";

const MODULES: Readonly<Record<string, readonly [number, number]>> = {
  "model.layers.0.self_attn.q_proj": [48, 1024],
  "model.layers.0.self_attn.k_proj": [33, 1024],
  "model.layers.0.mlp.down_proj": [128, 256],
};
const ROUTER = "model.layers.0.mlp.gate.weight";

type Stored = {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
};

async function putTensors(store: ObjectStore, prefix: string, tensors: readonly Stored[], config: object) {
  const file = encodeSafetensorsFile(tensors, ({ name }) => tensors.find((tensor) => tensor.name === name)?.bytes);
  await writeBytes(store, `${prefix}model.safetensors`, file);
  await putText(store, `${prefix}config.json`, JSON.stringify({ model_type: "llama", vocab_size: 6, ...config }));
  await putText(store, `${prefix}tokenizer.json`, "{}");
}

function floats(name: string, shape: readonly number[], values: Float32Array): Stored {
  return { name, dtype: "F32", shape, bytes: new Uint8Array(values.buffer) };
}

/** A model as floats and as INT8 of the scheme, in folders `float/` and `int8/` of a store. */
async function putModel(schemeId: string, dtype: Matrix["dtype"] = "F32") {
  const scheme = COMPRESSED_SCHEMES.get(schemeId);
  assert.ok(scheme !== undefined);
  const store = newStore();
  const weights = Object.entries(MODULES).map(([module, shape], seed) => {
    return { module, shape, values: gaussians(shape[0] * shape[1], seed) };
  });
  const others = [
    floats("model.embed_tokens.weight", [6, 8], gaussians(48, 7)),
    floats("model.norm.weight", [7], gaussians(7, 8)),
    floats(ROUTER, [4, 8], gaussians(32, 9)),
  ];
  const parts = weights.flatMap(({ module, shape: [rows, columns], values }) => {
    const matrix = { rows, columns, dtype };
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const bytes = quantizeMatrix(scheme, matrix, values, { largest });
    return scheme.parts(matrix).map(({ name, dtype: own, shape }): Stored => {
      return { name: `${module}.${name}`, dtype: own, shape, bytes: bytes.get(name) ?? new Uint8Array() };
    });
  });
  const quantization_config = describeCompressed(
    [{ form: scheme.form, modules: [] }],
    ["lm_head", "model.layers.0.mlp.gate"],
  );
  await putTensors(store, "int8/", [...others, ...parts], { quantization_config });
  const whole = weights.map(({ module, shape, values }) => floats(`${module}.weight`, shape, values));
  await putTensors(store, "float/", [...others, ...whole], {});
  return { store, weights };
}

async function derive(store: ObjectStore, bits: number, more: Record<string, unknown> = {}) {
  const target = newStore();
  const input = { source: { store: store.uri, prefix: "int8/" }, target: target.uri, bits, ...more };
  const result = await runStep(deriveStep, input, testDeps(openerOf(store, target))).catch(async (error: unknown) => {
    for await (const { key } of target.list("")) assert.notEqual(key, "config.json");
    throw error;
  });
  return { result, target };
}

/** The values of every tensor of a folder. */
async function valuesOf(store: ObjectStore): Promise<ReadonlyMap<string, Float32Array>> {
  const opened = await openCheckpoint(store, "");
  const values = new Map<string, Float32Array>();
  for (const entry of opened.checkpoint.tensors) {
    values.set(entry.name, await readValues({ store, prefix: "", opened }, entry, new AbortController().signal));
  }
  return values;
}

test("deriving costs what the reference measured: at most 0.7 dB against quantizing the original", async () => {
  const { store } = await putModel("int8_group128");
  // Of Gaussian groups of 128, with refitted scales. Quantization reference, section 10.
  const table = { 6: 31.0, 4: 19.5, 2: 7.7 } as const;
  for (const bits of LOWER_BITS) {
    const { result } = await derive(store, bits, { original: { store: store.uri, prefix: "float/" } });
    const { original, derived } = result;
    assert.equal(derived, 3);
    assert.ok(original !== null);
    assert.ok(Math.abs(original.derived - table[bits]) < 0.15, `${bits} bits derived: ${original.derived} dB`);
    assert.equal(original.gap, original.direct - original.derived);
    assert.ok(original.gap < 0.7, `${bits} bits: ${original.gap} dB`);
  }
});

test("every form of INT8 gives the values of Double Rounding, in one shard or several", async () => {
  for (const id of ["int8_group128", "int8_group32", "int8_channel", "int8_dynamic", "int8_tensor"]) {
    for (const [bits, dtype] of [
      [6, "BF16"],
      [4, "F16"],
      [2, "F32"],
    ] as const) {
      const { store, weights } = await putModel(id, dtype);
      const { target, result } = await derive(store, bits);
      const values = await valuesOf(target);
      for (const { module, shape, values: own } of weights) {
        const expected = expectedValues(id, { rows: shape[0], columns: shape[1], dtype }, own, bits);
        const found = values.get(`${module}.weight`) ?? new Float32Array();
        // The scale is rounded to its dtype.
        const unit = dtype === "BF16" ? 2 ** -8 : dtype === "F16" ? 2 ** -9 : 2 ** -22;
        const wrong = expected.findIndex((value, i) => {
          return !(Math.abs((found[i] ?? Number.NaN) - value) <= Math.abs(value) * unit);
        });
        assert.equal(wrong, -1, `${id}, ${bits} bits: ${module}`);
      }
      assert.ok(result.snr !== null && result.snr > 5 * bits - 5, `${id}, ${bits} bits: ${result.snr} dB`);
      assert.ok(result.clipped < 0.1 && (bits > 2 || result.clipped > 0));
      if (bits !== 4) continue;
      const cut = await derive(store, bits, { shardBytes: 40_000 });
      assert.ok(cut.result.files > result.files);
      assert.deepEqual(await valuesOf(cut.target), values, id);
    }
  }
});

/** In plain words: INT8 codes, rounded once more, and the step that fits best for each group. */
function expectedValues(id: string, matrix: Matrix, values: Float32Array, bits: LowerBits): Float32Array {
  const scheme = COMPRESSED_SCHEMES.get(id);
  assert.ok(scheme !== undefined);
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const parts = quantizeMatrix(scheme, matrix, values, { largest });
  const stored = dequantizeMatrix(scheme, matrix, parts);
  const scales = viewOf(parts.get("weight_scale") ?? new Uint8Array());
  const width = scheme.form.group ?? matrix.columns;
  const expected = new Float32Array(stored.length);
  for (let first = 0; first < stored.length; first += width) {
    const step = ROUNDINGS[matrix.dtype].read(scales, id === "int8_tensor" ? 0 : first / width);
    const codes = Int8Array.from(stored.subarray(first, first + width), (value) => Math.round(value / step));
    const derived = deriveCodes(codes, bits);
    expected.set(
      Float32Array.from(derived, (code) => code * refitScale(codes, derived, step, bits)),
      first,
    );
  }
  return expected;
}

test("the folder says what it is: packed integers for the same modules; nothing else changes", async () => {
  const { store } = await putModel("int8_dynamic", "BF16");
  for (const bits of LOWER_BITS) {
    const { target, result } = await derive(store, bits);
    const config = JSON.parse(new TextDecoder().decode(await readAll(target, "config.json", 1e6)));
    const { quantization_config: described, ...rest } = config;
    assert.deepEqual(rest, { model_type: "llama", vocab_size: 6 });
    assert.deepEqual(described.ignore, ["lm_head", "model.layers.0.mlp.gate"]);
    const { weights, input_activations: inputs, format } = described.config_groups.group_0;
    assert.deepEqual([format, weights.num_bits, weights.strategy, inputs], ["pack-quantized", bits, "channel", null]);
    assert.equal(result.scheme, `int${bits}_channel`);
    const names: string[] = [];
    for await (const { key } of target.list("")) names.push(key);
    assert.deepEqual(names.sort(), ["config.json", "model.safetensors", "tokenizer.json"]);
    const router = (await valuesOf(target)).get(ROUTER);
    assert.deepEqual(router, gaussians(32, 9));
  }
});

test("what is not symmetric INT8 is refused, and so is a folder that holds something", async () => {
  const refused = async (scheme: string, where: object) => {
    const { store } = await putModel(scheme);
    await assert.rejects(derive(store, 4), (error: { code: string; where: object }) => {
      assert.equal(error.code, "DeriveSourceUnsupported");
      assert.deepEqual(error.where, where);
      return true;
    });
  };
  const tensor = "model.layers.0.mlp.down_proj.weight";
  for (const scheme of ["int8_channel_asym", "int4_group128", "fp8_dynamic"]) await refused(scheme, { tensor });
  const { store } = await putModel("int8_channel");
  const floating = { source: { store: store.uri, prefix: "float/" } };
  await assert.rejects(derive(store, 4, floating), { code: "DeriveSourceUnsupported" });
  await assert.rejects(derive(store, 5), { name: "ZodError" });
  const target = newStore();
  await putText(target, "mine.txt", "x");
  const input = { source: { store: store.uri, prefix: "int8/" }, target: target.uri, bits: 4 };
  const deps = testDeps(openerOf(store, target));
  await assert.rejects(runStep(deriveStep, input, deps), { code: "YardTargetOccupied" });
});

test("an original of other weights is refused", async () => {
  const { store } = await putModel("int8_channel");
  await putTensors(store, "other/", [floats("model.norm.weight", [7], gaussians(7, 8))], {});
  const original = { store: store.uri, prefix: "other/" };
  const expected = { code: "DeriveOriginalMismatch", tensor: "model.layers.0.mlp.down_proj.weight" };
  await assert.rejects(derive(store, 4, { original }), refusal(expected));
});

test("files that end too early make no model", async () => {
  const { store } = await putModel("int8_channel");
  const file = await readAll(store, "int8/model.safetensors", 1e8);
  const faulty: ObjectStore = {
    ...store,
    readInto: (key, offset, into, options) =>
      offset > file.length / 4 ? Promise.reject(new Error("cut off")) : store.readInto(key, offset, into, options),
  };
  await assert.rejects(derive(faulty, 4), /cut off/);
});
