// Quantizing a model into a compressed-tensors folder, from a small model made here: what is quantized and what is not,
// scales that fused modules share, where tensors lie, what is refused, and that nothing is left behind then.
import assert from "node:assert/strict";
import { test } from "node:test";
import { layout } from "../../core/artifact/layout.ts";
import type { Checkpoint, CheckpointFile, TensorEntry } from "../../core/checkpoint.ts";
import { findForm, parseCompressedConfig } from "../../core/formats/quantized/compressed-tensors-config.ts";
import { listCompressed } from "../../core/formats/quantized/compressed-tensors-read.ts";
import { safetensors } from "../../core/formats/safetensors/folder.ts";
import { encodeSafetensorsFile } from "../../core/formats/safetensors/safetensors.ts";
import { partsMatrix } from "../../core/plan/memory.ts";
import { FOLDER_SCHEMES } from "../../core/schemes/registry.ts";
import { partRange } from "../../core/schemes/scheme.ts";
import { DTYPE_BITS } from "../../core/tensor.ts";
import { createRowReader, elementPieces } from "../../engine/quantize-parts.ts";
import { createWasmKernels } from "../../kernels/wasm/host.ts";
import { convertStep } from "../../steps/convert/convert.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { quantizeFolderStep } from "../../steps/quantize/folder.ts";
import { runStep } from "../../steps/step.ts";
import { readAll, writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore, newYard, openerOf, putText, testDeps } from "./deps.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { runPipeline } from "./pipeline.ts";

const LAYER = "model.layers.0.";
const SHAPES: Readonly<Record<string, readonly number[]>> = {
  "model.embed_tokens.weight": [6, 256],
  "model.norm.weight": [255],
  "lm_head.weight": [6, 256],
  [`${LAYER}input_layernorm.weight`]: [256],
  [`${LAYER}self_attn.q_proj.weight`]: [64, 256],
  [`${LAYER}self_attn.k_proj.weight`]: [33, 256],
  [`${LAYER}self_attn.v_proj.weight`]: [64, 256],
  [`${LAYER}self_attn.q_proj.bias`]: [64],
  [`${LAYER}mlp.gate.weight`]: [4, 256],
  [`${LAYER}mlp.down_proj.weight`]: [256, 128],
};

type Change = {
  readonly shapes?: Readonly<Record<string, readonly number[]>>;
  readonly config?: Readonly<Record<string, unknown>>;
  readonly first?: Readonly<Record<string, number>>;
};

async function putModel({ shapes = {}, config = {}, first = {} }: Change = {}) {
  const store = newStore();
  const specs = Object.entries({ ...SHAPES, ...shapes }).map(([name, shape]) => ({
    name,
    dtype: "F32" as const,
    shape,
  }));
  const values = new Map<string, Float32Array>();
  const file = encodeSafetensorsFile(specs, ({ name, bytes }, seed) => {
    const own = Float32Array.from({ length: bytes / 4 }, (_, i) => (seed + 1) * Math.sin(seed * 37 + i * 0.7));
    if (first[name] !== undefined) own[0] = first[name];
    values.set(name, own);
    return own;
  });
  await writeBytes(store, "model.safetensors", file);
  await putText(store, "config.json", JSON.stringify({ model_type: "llama", vocab_size: 6, ...config }));
  await putText(store, "tokenizer.json", "{}");
  return { store, values };
}

async function run(scheme: string, change: Change = {}, more: Record<string, unknown> = {}) {
  const { store, values } = await putModel(change);
  const target = newStore();
  const opener = openerOf(store, target);
  const input = { source: store.uri, target: target.uri, scheme, ...more };
  const result = await runStep(quantizeFolderStep, input, testDeps(opener)).catch(async (error: unknown) => {
    for await (const { key } of target.list("")) assert.notEqual(key, "config.json");
    throw error;
  });
  return { result, checkpoint: await openParts(target), target, values };
}

/** The folder as its files have it: codes and scales. */
async function openParts(store: ObjectStore): Promise<Checkpoint> {
  const files: CheckpointFile[] = [];
  for await (const { key, bytes } of store.list("")) files.push({ name: key, bytes });
  const read = async (file: string, offset: number, bytes: number) => {
    const into = new Uint8Array(bytes);
    if (bytes > 0) await store.readInto(file, offset, into);
    return into;
  };
  return (await safetensors.open({ files, read })).checkpoint;
}

async function bytesOf(store: ObjectStore, entry: TensorEntry | undefined): Promise<Uint8Array> {
  const [range] = entry?.ranges ?? [];
  assert.ok(range !== undefined);
  const bytes = new Uint8Array(range.bytes);
  await store.readInto(range.file, range.offset, bytes);
  return bytes;
}

/** The weights of every quantized module as a reader sees them, some rows at a time. */
async function readBack({ target, values }: Awaited<ReturnType<typeof run>>) {
  const { checkpoint } = await openCheckpoint(target, "");
  const back = new Map<string, Float32Array>();
  for (const { name, shape, ranges, packing } of checkpoint.tensors) {
    if (packing?.parts === undefined) continue;
    const { scheme, matrix, parts } = partsMatrix(packing.parts, shape);
    const weights = values.get(name);
    assert.ok(weights !== undefined, name);
    const restored = new Float32Array(weights.length);
    const step = scheme.rowsTogether(matrix.columns);
    for (let first = 0; first < matrix.rows; first += step) {
      const count = Math.min(step, matrix.rows - first);
      const bytes = new Map<string, Uint8Array>();
      for (const [index, part] of parts.entries()) {
        const range = partRange(part, first, count);
        const into = new Uint8Array(range.bytes);
        await target.readInto(ranges[index]?.file ?? "", (ranges[index]?.offset ?? 0) + range.offset, into);
        bytes.set(part.name, into);
      }
      const own = restored.subarray(first * matrix.columns, (first + count) * matrix.columns);
      scheme.dequantize({ matrix, first, count, values: own, parts: bytes });
    }
    const noise = restored.reduce((sum, value, i) => sum + (value - (weights[i] ?? 0)) ** 2, 0);
    const signal = weights.reduce((sum, value) => sum + value * value, 0);
    assert.ok(10 * Math.log10(signal / noise) > 3, `${name} in ${scheme.id}`);
    back.set(name, restored);
  }
  assert.deepEqual(checkpoint.tensors.map(({ name }) => name).sort(), [...values.keys()].sort());
  return back;
}

/** Rows that every container can hold. */
const EVEN: Change = { shapes: { [`${LAYER}self_attn.k_proj.weight`]: [32, 256] } };
const changeFor = (id: string) => (FOLDER_SCHEMES.get(id)?.form.container === "compressed-tensors" ? {} : EVEN);

test("every scheme is read back by what the folder says, in one shard or several", async () => {
  for (const scheme of FOLDER_SCHEMES.keys()) {
    const change = changeFor(scheme);
    const whole = await run(scheme, change);
    const back = await readBack(whole);
    assert.equal(back.size, 4, scheme);
    assert.equal(whole.result.quantized, 4);
    if (!/128|dynamic|tensor|16$/.test(scheme)) continue;
    const cut = await run(scheme, change, { shardBytes: 20_000 });
    assert.ok(cut.checkpoint.tensorFiles.length > 1);
    assert.deepEqual(await readBack(cut), back, scheme);
  }
});

test("a folder whose parts do not belong together is refused", async () => {
  const { checkpoint, target } = await run("int4_group128");
  const read = (entry: TensorEntry) => bytesOf(target, entry);
  const change = (edit: (entry: TensorEntry) => readonly TensorEntry[]) => {
    return listCompressed({ ...checkpoint, tensors: checkpoint.tensors.flatMap(edit) }, read);
  };
  const name = `${LAYER}self_attn.q_proj`;
  const refused = (edit: (entry: TensorEntry) => readonly TensorEntry[], tensor: string) =>
    assert.rejects(change(edit), (error: { code: string; where: object }) => {
      assert.deepEqual([error.code, error.where], ["QuantizedFolderInvalid", { tensor }]);
      return true;
    });
  const is = (entry: TensorEntry, part: string) => entry.name === `${name}.${part}`;
  await refused((entry) => (is(entry, "weight_scale") ? [] : [entry]), `${name}.weight_scale`);
  await refused((entry) => (is(entry, "weight_shape") ? [] : [entry]), `${name}.weight_shape`);
  await refused((entry) => [is(entry, "weight_scale") ? { ...entry, shape: [64, 3] } : entry], `${name}.weight_scale`);
  await refused(
    (entry) => [is(entry, "weight_packed") ? { ...entry, shape: [32, 64] } : entry],
    `${name}.weight_shape`,
  );
  await refused(
    (entry) => (is(entry, "weight_scale") ? [entry, { ...entry, name: `${name}.weight_extra` }] : [entry]),
    `${name}.weight_extra`,
  );
});

test("rows that a source stores interleaved come back in their order", async () => {
  const { store, values } = await putModel();
  const entry = { name: `${LAYER}self_attn.q_proj.weight`, dtype: "F32", shape: [64, 256] } as const;
  const [found] = (await openCheckpoint(store, "")).checkpoint.tensors.filter(({ name }) => name === entry.name);
  assert.ok(found !== undefined);
  const kernels = createWasmKernels(2 ** 24);
  const source = {
    source: store.uri,
    openStore: openerOf(store),
    signal: new AbortController().signal,
    mayBlock: false,
    kernels,
  };
  const packed = { ...found, packing: { interleavedHeads: 2 } };
  const read = createRowReader(packed, 256, 64, source);
  const rows = (await read(0, 64)).values.slice(0, 64 * 256);
  const own = values.get(entry.name) ?? new Float32Array();
  // Row 16 s + i of a head is its stored row 2 i + s.
  assert.deepEqual(rows.slice(16 * 256, 17 * 256), own.slice(256, 2 * 256));
  const pieces: number[] = [];
  for await (const piece of elementPieces(packed, source)) pieces.push(...new Float32Array(piece.slice().buffer));
  assert.deepEqual(Float32Array.from(pieces), rows);
});

test("a folder converts back to a model of the weights that its parts stand for", async () => {
  for (const scheme of FOLDER_SCHEMES.keys()) {
    const made = await run(scheme, changeFor(scheme));
    const back = await readBack(made);
    const target = newStore();
    const deps = testDeps(openerOf(made.target, target));
    await runStep(convertStep, { source: made.target.uri, target: target.uri, to: "safetensors" }, deps);
    const { checkpoint } = await openCheckpoint(target, "");
    assert.equal(checkpoint.config?.quantization_config, undefined);
    assert.equal(checkpoint.config?.model_type, "llama");
    assert.deepEqual(checkpoint.tensors.map(({ name }) => name).sort(), [...made.values.keys()].sort());
    for (const entry of checkpoint.tensors) {
      const expected = back.get(entry.name) ?? made.values.get(entry.name);
      const bytes = await bytesOf(target, entry);
      assert.deepEqual(new Float32Array(bytes.buffer), expected, `${scheme} ${entry.name}`);
    }
  }
});

test("a folder is merged as its weights, whole windows of rows or parts of them", async () => {
  const text = `name: half
models: { one: incoming/a, two: incoming/b }
merge:
  merge_method: linear
  dtype: float32
  models: [{ model: one, parameters: { weight: 1 } }, { model: two, parameters: { weight: 2 } }]
publish: { model: ab, channel: nightly }
`;
  for (const scheme of [
    "int4_group32_asym",
    "fp8_block",
    "gptq4_group128",
    "awq4_group128",
    "nf4_block64",
    "hqq4_group64",
  ]) {
    const made = await run(scheme, changeFor(scheme));
    const plain = newStore();
    const deps = testDeps(openerOf(made.target, plain));
    await runStep(convertStep, { source: made.target.uri, target: plain.uri, to: "safetensors" }, deps);
    const digests: unknown[] = [];
    for (const upload of [made.target, plain]) {
      const yard = await newYard();
      const openStore = openerOf(yard);
      for (const [folder, from] of [
        ["a", upload],
        ["b", plain],
      ] as const) {
        for await (const { key } of from.list("")) {
          await yard.create(`incoming/${folder}/1/${key}`, await readAll(from, key, 1e8));
        }
      }
      await putText(yard, "pipelines/small.yaml", text);
      const own = testDeps(openStore, { executeMerge: createInThreadExecutor(openStore) });
      const { result } = await runPipeline(yard, own);
      const { checkpoint } = await openCheckpoint(yard, layout.version("ab", result?.version ?? ""));
      digests.push(checkpoint.tensors.map(({ name, digest }) => [name, digest]));
    }
    assert.deepEqual(digests[0], digests[1], scheme);
  }
});

test("every tensor begins at a multiple of its element", async () => {
  for (const scheme of ["int4_group32_asym", "fp8_dynamic", "int8_dynamic"]) {
    const { checkpoint } = await run(scheme);
    for (const { name, dtype, ranges } of checkpoint.tensors) {
      assert.equal((ranges[0]?.offset ?? 1) % (DTYPE_BITS[dtype] / 8), 0, `${scheme}: ${name}`);
    }
  }
});

test("what is not a linear module of a layer stays, and is named where servers want it", async () => {
  const { checkpoint, target, values, result } = await run("fp8_dynamic");
  assert.deepEqual(result.ignore, ["lm_head", `${LAYER}mlp.gate`]);
  for (const name of ["model.embed_tokens.weight", "lm_head.weight", `${LAYER}mlp.gate.weight`, "model.norm.weight"]) {
    const bytes = await bytesOf(
      target,
      checkpoint.tensors.find((entry) => entry.name === name),
    );
    assert.deepEqual(new Float32Array(bytes.buffer), values.get(name), name);
  }
  assert.ok(checkpoint.sideFiles.some(({ name }) => name === "tokenizer.json"));
});

test("tensors that servers fuse share the scale of the whole, wherever shards cut them apart", async () => {
  const shapes = { [`${LAYER}mlp.gate_proj.weight`]: [64, 256], [`${LAYER}mlp.up_proj.weight`]: [64, 256] };
  const fused = [
    ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    ["mlp.gate_proj", "mlp.up_proj"],
    ["mlp.down_proj"],
  ];
  for (const [scheme, part, scaleOf] of [
    ["fp8_tensor", "weight_scale", (most: number) => most / 448],
    ["int8_tensor", "weight_scale", (most: number) => most / 127.5],
    ["nvfp4a16", "weight_global_scale", (most: number) => (448 * 6) / most],
  ] as const) {
    const { checkpoint, target, values } = await run(scheme, { shapes }, { shardBytes: 12_000 });
    assert.ok(checkpoint.tensorFiles.length > 4, scheme);
    const largest = (module: string) =>
      (values.get(`${LAYER}${module}.weight`) ?? new Float32Array()).reduce(
        (most, v) => Math.max(most, Math.abs(v)),
        0,
      );
    for (const modules of fused) {
      const expected = Math.fround(scaleOf(Math.max(...modules.map(largest))));
      for (const module of modules) {
        const entry = checkpoint.tensors.find(({ name }) => name === `${LAYER}${module}.${part}`);
        const [scale] = new Float32Array((await bytesOf(target, entry)).buffer);
        assert.ok(Math.abs((scale ?? 0) / expected - 1) < 2 ** -22, `${scheme} ${module}: ${scale}, not ${expected}`);
      }
    }
  }
});

test("modules that are ignored stay as they are", async () => {
  const { result, checkpoint } = await run("int4_group128", {}, { ignore: ["re:.*self_attn", `${LAYER}nothing`] });
  assert.equal(result.quantized, 1);
  assert.ok(result.ignore.includes(`${LAYER}self_attn.q_proj`));
  assert.ok(checkpoint.tensors.some(({ name }) => name === `${LAYER}self_attn.q_proj.weight`));
});

test("rows of any width and number fit schemes without groups", async () => {
  const shapes = { [`${LAYER}mlp.up_proj.weight`]: [3, 5] };
  const { result } = await run("fp8_dynamic", { shapes });
  assert.equal(result.quantized, 5);
});

test("what cannot be quantized is refused, and no folder becomes a model", async () => {
  const refused = (scheme: string, change: Change, code: string, where: object, more = {}) =>
    assert.rejects(run(scheme, change, more), (error: { code: string; where: object }) => {
      assert.equal(error.code, code);
      assert.deepEqual({ ...error.where, ...where }, error.where);
      return true;
    });
  const down = `${LAYER}mlp.down_proj.weight`;
  await refused("int4_group128", { shapes: { [down]: [256, 96] } }, "QuantizeShapeUnsupported", { tensor: down });
  await refused("fp8_dynamic", { first: { [down]: Number.NaN } }, "QuantizeNotFinite", { tensor: down });
  await refused("fp8_tensor", { first: { [down]: Number.POSITIVE_INFINITY } }, "QuantizeNotFinite", { tensor: down });
  const field = "quantization_config";
  await refused("fp8_dynamic", { config: { [field]: {} } }, "QuantizeModelUnsupported", { field });
  const experts = { "model.layers.0.mlp.experts.gate_up_proj": [2, 4, 4] };
  await refused("fp8_dynamic", { shapes: experts }, "QuantizeModelUnsupported", {
    tensor: "model.layers.0.mlp.experts.gate_up_proj",
  });
  const transposed = { "h.0.attn.c_attn.weight": [256, 768] };
  await refused("fp8_dynamic", { shapes: transposed }, "QuantizeModelUnsupported", {
    tensor: "h.0.attn.c_attn.weight",
  });
  await refused("fp8_dynamic", {}, "QuantizedFolderUnsupported", {}, { ignore: ["re:("] });
});

test("a folder that holds something is not written to", async () => {
  const { store } = await putModel();
  const target = newStore();
  await putText(target, "mine.txt", "x");
  const input = { source: store.uri, target: target.uri, scheme: "fp8_dynamic" };
  await assert.rejects(runStep(quantizeFolderStep, input, testDeps(openerOf(store, target))), {
    code: "YardTargetOccupied",
  });
});

test("configs of other tools are understood, and those that cannot be followed are refused", () => {
  const weights = { num_bits: 4, type: "int", symmetric: true, group_size: 128 };
  const config = (more: object, format = "pack-quantized") => ({
    quant_method: "compressed-tensors",
    format,
    ignore: ["lm_head", "re:.*gate$"],
    config_groups: {
      a: { targets: ["re:.*q_proj"], weights: { ...weights, ...more } },
      b: { targets: ["Linear"], weights },
    },
  });
  const parsed = parseCompressedConfig(config({ group_size: -1 }));
  assert.equal(findForm(parsed, "lm_head"), undefined);
  assert.equal(findForm(parsed, "model.layers.0.mlp.gate"), undefined);
  assert.equal(findForm(parsed, "model.layers.0.q_proj")?.strategy, "channel");
  assert.equal(findForm(parsed, "model.layers.0.k_proj")?.group, 128);
  const naive = parseCompressedConfig(config({ num_bits: 8, type: "float", strategy: "tensor" }, "naive-quantized"));
  assert.equal(naive.groups[0]?.form.format, "float-quantized");
  const odd = [{ config_groups: 3 }, { ignore: ["re:lm(?!_head)"] }, { ignore: ["re:(gate"] }];
  const others = odd.map((more) => ({ ...config({}), ...more }));
  for (const broken of [config({}, "marlin-24"), config({ num_bits: 99 }), ...others]) {
    assert.throws(() => parseCompressedConfig(broken), { code: "QuantizedFolderUnsupported" });
  }
});
