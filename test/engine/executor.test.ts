// Goal: the executor makes exactly the planned file, the same for any threads, windows and regions, or leaves nothing.
// Method: small models on disk, units planned by hand, results compared with plain arithmetic and with each other.
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { digestBytes } from "../../core/artifact/digest.ts";
import { encodeSafetensorsHeader } from "../../core/formats/safetensors/safetensors.ts";
import type { MergeUnit, UnitTensor } from "../../core/plan/schema.ts";
import { type Dtype, elementBytes, elementCount, tensorBytes } from "../../core/tensor.ts";
import type { MergeRequest } from "../../engine/request.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { createMergeExecutor } from "../../workers/merge-executor.ts";

type Spec = { readonly name: string; readonly dtype: Dtype; readonly shape: readonly number[] };

/** A scalar, an empty tensor, an odd length, several tiles, and one large enough for several regions. */
const SPECS: readonly Spec[] = [
  { name: "empty", dtype: "F32", shape: [0, 7] },
  { name: "large", dtype: "F32", shape: [2500, 1001] },
  { name: "matrix", dtype: "F32", shape: [171, 97] },
  { name: "odd", dtype: "F32", shape: [13] },
  { name: "scalar", dtype: "F32", shape: [] },
  { name: "wide", dtype: "F32", shape: [3, 700_001] },
];

let folder = "";
const executor = createMergeExecutor(createStoreOpener({}));
const MODELS = ["a", "b", "c"] as const;

before(() => {
  folder = mkdtempSync(join(tmpdir(), "mergeyard-engine-"));
  MODELS.forEach((model, index) => {
    writeModel(model, (element, tensor) => Math.sin(element * 0.37 + tensor + index) * (1 + index));
  });
});
after(async () => {
  await executor.close();
  rmSync(folder, { recursive: true });
});

/** Writes SPECS as one safetensors file with values from a formula. */
function writeModel(model: string, value: (element: number, tensor: number) => number): void {
  const { header } = encodeSafetensorsHeader(SPECS, new Map());
  const data = SPECS.map(({ shape }, tensor) => {
    const values = Float32Array.from({ length: elementCount(shape) }, (_, element) => value(element, tensor));
    return new Uint8Array(values.buffer);
  });
  mkdirSync(join(folder, model), { recursive: true });
  writeFileSync(join(folder, model, "model.safetensors"), Buffer.concat([header, ...data]));
}

type Options = { readonly dtype?: Dtype; readonly method?: string; readonly nonFinite?: "error" | "propagate" };

function unitOf({ dtype = "F32", method = "linear", nonFinite = "error" }: Options = {}): MergeUnit {
  const inputHeader = encodeSafetensorsHeader(SPECS, new Map()).header.byteLength;
  const outputs = SPECS.map((spec) => ({ ...spec, dtype }));
  const outputHeader = encodeSafetensorsHeader(outputs, new Map([["format", "pt"]])).header.byteLength;
  let [inputOffset, offset] = [inputHeader, 0];
  const tensors = outputs.map(({ name, shape }): UnitTensor => {
    const inputBytes = tensorBytes("F32", shape);
    const inputs = MODELS.slice(0, method === "copy" ? 1 : 3).map((_, source) => ({
      source,
      tensor: name,
      dtype: "F32" as const,
      shape: [...shape],
      // Two ranges, cut inside an element's neighbourhood on purpose: a tensor is the concatenation of its ranges.
      ranges: [
        { file: "model.safetensors", offset: inputOffset, bytes: Math.floor(inputBytes / 3) },
        {
          file: "model.safetensors",
          offset: inputOffset + Math.floor(inputBytes / 3),
          bytes: inputBytes - Math.floor(inputBytes / 3),
        },
      ],
      isBase: false,
      parameters: { weight: [0.5, 0.3, 0.2][source] ?? 0 },
    }));
    const bytes = tensorBytes(dtype, shape);
    const tensor = {
      name,
      dtype,
      shape: [...shape],
      offset,
      bytes,
      method,
      parameters: { normalize: true },
      seed: 0,
      inputs,
    };
    inputOffset += inputBytes;
    offset += bytes;
    return tensor;
  });
  const sizes = { fileBytes: outputHeader + offset, peakBytes: 0, bytesRead: 0, bytesWritten: 0 };
  return {
    op: "merge",
    stage: 0,
    index: 0,
    file: "model.safetensors",
    ...sizes,
    tensors,
    derived: [],
    nonFinite,
    strict: false,
    statistics: false,
  };
}

function requestOf(unit: MergeUnit, more: Partial<MergeRequest> = {}): MergeRequest {
  const sources = MODELS.map((model) => ({ model, store: join(folder, model), prefix: "", digests: undefined }));
  const target = { store: `${join(folder, "out")}`, key: "model.safetensors", derivedPrefix: "" };
  return { unit, sources, target, threads: 2, memoryBytes: 2 ** 29, ...more };
}

const run = (request: MergeRequest) => executor.execute(request, { signal: new AbortController().signal });

/** What is left in the output folder, the store's own working files aside. */
function leftovers(): readonly string[] {
  const entries = readdirSync(join(folder, "out"), { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => entry.name);
}

describe("a merge unit", () => {
  test("writes the planned header and the weighted average, and states their digests", async () => {
    const unit = unitOf();
    const { file } = await run(requestOf(unit));
    const written = readFileSync(join(folder, "out", "model.safetensors"));
    assert.equal(written.byteLength, unit.fileBytes);
    const data = MODELS.map((model) => readFileSync(join(folder, model, "model.safetensors")));
    for (const [index, tensor] of file.tensors.entries()) {
      const bytes = written.subarray(tensor.offset, tensor.offset + tensor.bytes);
      assert.equal(tensor.digest, digestBytes(bytes));
      const offset = unit.tensors[index]?.inputs[0]?.ranges[0]?.offset ?? 0;
      for (let element = 0; element < elementCount(tensor.shape); element += 97) {
        const at = (buffer: Buffer | undefined) => buffer?.readFloatLE(offset + 4 * element) ?? Number.NaN;
        const [a, b, c] = data.map(at);
        const f = Math.fround;
        const [wa, wb, wc] = [f(0.5), f(0.3), f(0.2)];
        const sum = f(f(f(f(a ?? 0) * wa) + f(f(b ?? 0) * wb)) + f(f(c ?? 0) * wc));
        assert.equal(bytes.readFloatLE(4 * element), f(sum / f(f(wa + wb) + wc)));
      }
    }
  });

  test("has the same digest for any number of threads, memory, and output read back as input", async () => {
    const digests = new Set<string>();
    for (const threads of [1, 2, 3]) {
      for (const memoryBytes of [2 ** 29, 140 * 2 ** 20 + threads * 36 * 2 ** 20]) {
        digests.add((await run(requestOf(unitOf({ dtype: "BF16" }), { threads, memoryBytes }))).file.digest);
      }
    }
    assert.equal(digests.size, 1);
  });

  test("copies a tensor's bytes, whatever they are", async () => {
    const { file } = await run(requestOf(unitOf({ method: "copy" })));
    const source = readFileSync(join(folder, "a", "model.safetensors"));
    const header = encodeSafetensorsHeader(SPECS, new Map()).header.byteLength;
    const written = readFileSync(join(folder, "out", "model.safetensors"));
    const first = file.tensors[0]?.offset ?? 0;
    assert.deepEqual(Buffer.compare(written.subarray(first), source.subarray(header)), 0);
  });

  test("copies small tensors within the memory that the plan states for them", async () => {
    const unit = unitOf({ method: "copy" });
    const small = unit.tensors.filter(({ bytes }) => bytes < 100);
    const tensors = small.map((tensor, index) => ({ ...tensor, offset: index === 0 ? 0 : 52 }));
    const header = encodeSafetensorsHeader(tensors, new Map([["format", "pt"]])).header.byteLength;
    const fileBytes = header + tensors.reduce((sum, { bytes }) => sum + bytes, 0);
    const { file } = await run(requestOf({ ...unit, tensors, fileBytes }, { threads: 1 }));
    assert.deepEqual(
      file.tensors.map(({ name }) => name),
      ["empty", "odd", "scalar"],
    );
  });

  test("measures norms, cosines and sign conflicts of the task vectors, and changes no byte by it", async () => {
    const base = unitOf();
    const tensors = base.tensors.map((tensor) => ({
      ...tensor,
      inputs: tensor.inputs.map((input, index) => ({ ...input, isBase: index === 0 })),
    }));
    const plain = await run(requestOf({ ...base, tensors }));
    const measured = await run(requestOf({ ...base, tensors, statistics: true }));
    assert.equal(plain.statistics, null);
    assert.equal(measured.file.digest, plain.file.digest);
    const found = measured.statistics?.find(({ name }) => name === "matrix");
    const [a, b, c] = MODELS.map((model) => readFileSync(join(folder, model, "model.safetensors")));
    const tensor = tensors.find(({ name }) => name === "matrix");
    const offset = tensor?.inputs[0]?.ranges[0]?.offset ?? 0;
    let [bb, bc, cc, conflicts] = [0, 0, 0, 0];
    for (let at = offset; at < offset + (tensor?.bytes ?? 0); at += 4) {
      const value = (buffer: Buffer | undefined) => buffer?.readFloatLE(at) ?? 0;
      const [x, y] = [Math.fround(value(b) - value(a)), Math.fround(value(c) - value(a))];
      [bb, bc, cc] = [bb + x * x, bc + x * y, cc + y * y];
      if (x * y < 0) conflicts++;
    }
    assert.deepEqual(found?.models, ["b", "c"]);
    assert.equal(found?.base, "a");
    assert.equal(found?.elements, 171 * 97);
    assert.equal(found?.signConflicts, conflicts);
    const close = (got: number | null | undefined, want: number) => assert.ok(Math.abs((got ?? 0) / want - 1) < 1e-12);
    close(found?.norms[0], Math.sqrt(bb));
    close(found?.norms[1], Math.sqrt(cc));
    close(found?.cosines[0], bc / Math.sqrt(bb * cc));
  });

  test("counts every byte read and written as it goes", async () => {
    const seen: number[] = [];
    const options = {
      signal: new AbortController().signal,
      progress: (done: { bytesRead: number }) => seen.push(done.bytesRead),
    };
    const unit = unitOf({ dtype: "F16" });
    const result = await executor.execute(requestOf(unit), options);
    const inputBytes = SPECS.reduce((sum, { shape }) => sum + 3 * tensorBytes("F32", shape), 0);
    assert.equal(result.bytesRead, inputBytes);
    assert.equal(seen.at(-1), inputBytes);
    assert.equal(
      result.bytesWritten,
      SPECS.reduce((sum, { shape }) => sum + elementBytes("F16", elementCount(shape)), 0),
    );
  });
});

describe("a merge unit that fails leaves nothing", () => {
  before(() => rmSync(join(folder, "out"), { recursive: true, force: true }));

  test("NaN in an input: the model, the tensor and the count are named", async () => {
    writeModel("broken", (element, tensor) => (tensor === 2 && element % 5000 === 7 ? Number.NaN : 1));
    const sources = requestOf(unitOf()).sources.map((source, index) =>
      index === 1 ? { ...source, model: "broken", store: join(folder, "broken") } : source,
    );
    await assert.rejects(run(requestOf(unitOf(), { sources })), {
      code: "EngineNonFinite",
      where: { model: "broken", tensor: "matrix" },
      found: "4 values",
    });
    assert.deepEqual(leftovers(), []);
    const { nonFinite } = await run(requestOf(unitOf({ nonFinite: "propagate" }), { sources }));
    assert.deepEqual(nonFinite, { inputs: { a: 0, broken: 4, c: 0 }, output: 4 });
    rmSync(join(folder, "out", "model.safetensors"));
  });

  test("a result that overflows the output dtype is not an input's fault", async () => {
    writeModel("huge", () => 3e38);
    const sources = requestOf(unitOf()).sources.map((source) => ({ ...source, store: join(folder, "huge") }));
    await assert.rejects(run(requestOf(unitOf({ dtype: "F16" }), { sources })), {
      code: "EngineNonFinite",
      where: { tensor: "large" },
    });
    assert.deepEqual(leftovers(), []);
  });

  test("a tensor that is not what was recorded", async () => {
    const digests = { matrix: digestBytes("something else") };
    const sources = requestOf(unitOf()).sources.map((source) => ({ ...source, digests }));
    await assert.rejects(run(requestOf(unitOf(), { sources })), {
      code: "EngineInputChanged",
      where: { model: "a", tensor: "matrix" },
      expected: digests.matrix,
    });
    assert.deepEqual(leftovers(), []);
  });

  test("a source that ends early", async () => {
    const whole = readFileSync(join(folder, "a", "model.safetensors"));
    mkdirSync(join(folder, "short"), { recursive: true });
    writeFileSync(join(folder, "short", "model.safetensors"), whole.subarray(0, whole.byteLength - 4));
    const sources = requestOf(unitOf()).sources.map((source) => ({ ...source, store: join(folder, "short") }));
    await assert.rejects(run(requestOf(unitOf(), { sources })), { code: "StoreShortRead" });
    assert.deepEqual(leftovers(), []);
  });

  test("too little memory is refused with how much it takes", async () => {
    await assert.rejects(run(requestOf(unitOf(), { memoryBytes: 2 ** 20 })), {
      code: "EngineMemoryTooSmall",
      found: `${2 ** 20} bytes`,
    });
    assert.deepEqual(leftovers(), []);
  });

  test("cancelling in the middle; the executor works on afterwards", async () => {
    const controller = new AbortController();
    const progress = (): void => controller.abort(new Error("enough"));
    await assert.rejects(executor.execute(requestOf(unitOf()), { signal: controller.signal, progress }), {
      message: "enough",
    });
    assert.deepEqual(leftovers(), []);
    await run(requestOf(unitOf()));
  });
});
