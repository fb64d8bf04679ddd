// Goal: the same recipe and inputs give the same bytes for any number of threads, any window and any share of the
// inputs kept from pass to pass, sparsifying and random methods included. Method: one unit of odd shapes through the
// executor on a grid of threads and memory, and single tensors through the engine on a grid of windows; digests and
// measured numbers are compared.
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import { totalModel } from "../../core/artifact/totals.ts";
import { encodeSafetensorsHeader } from "../../core/formats/safetensors/safetensors.ts";
import type { MergeMethod, ModelState } from "../../core/methods/method.ts";
import { findMethod, METHOD_IDS } from "../../core/methods/registry.ts";
import type { MergeUnit } from "../../core/plan/schema.ts";
import { elementCount, tensorBytes } from "../../core/tensor.ts";
import { measuredTensors } from "../../engine/measure-tensors.ts";
import type { MergeRequest } from "../../engine/request.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { createMergeExecutor } from "../../workers/merge-executor.ts";
import { uniforms } from "../random-numbers.ts";
import { runTensor, type TensorCase, unitTensorOf } from "./in-memory.ts";

const METHODS = [
  "ties",
  "dare_ties",
  "della",
  "breadcrumbs",
  "sce",
  "ties_paper",
  "localize_and_stitch",
  "pcb",
] as const;
/** So large that order statistics come from a sample. */
const SAMPLED = [301, 1003] as const;
/** A vector, odd rows, slices longer than a tile, and tensors large enough for several windows and regions. */
const SHAPES = [[517], SAMPLED, [2, 90, 7], [5, 850_001], [3, 9001], [3, 1_450_001]] as const;
/** Measuring along the way must not change a byte, nor what is measured depend on the cut. */
const MACHINES = [
  { threads: 1, memoryBytes: 2 ** 30, statistics: false },
  { threads: 1, memoryBytes: 2 ** 28, statistics: true },
  { threads: 2, memoryBytes: 2 ** 28, statistics: false },
  { threads: 3, memoryBytes: 2 ** 30, statistics: true },
] as const;
const PARAMETERS = [
  { weight: 0.7, density: 0.4, epsilon: 0.1, gamma: 0.02 },
  { weight: -0.2, density: 0.6, epsilon: 0.1, gamma: 0.05 },
];
const MODELS = ["base", "ft0", "ft1"];

/** BF16 bits of a model: magnitudes of few values, so that many are equal at every cut. */
function stored(model: number, count: number): Uint16Array {
  const next = uniforms(model * 7919 + 1);
  return Uint16Array.from({ length: count }, (_, i) => {
    const change = Math.floor(next() * 2 ** 12) % 8;
    return 0x3c00 + ((i * 7) % 512) + (model === 0 ? 0 : change);
  });
}

function method(id: string): MergeMethod {
  const found = findMethod(id);
  assert.ok(found !== undefined, `${id} is registered`);
  return found;
}

/** The method's own parameters among all of them. */
function ownParameters(id: string, values: Record<string, number>): Record<string, number> {
  const known = Object.keys(method(id).modelParameters.shape);
  return Object.fromEntries(Object.entries(values).filter(([name]) => known.includes(name)));
}

function caseOf(id: string, shape: readonly number[], name: string, count = elementCount(shape)): TensorCase {
  const models = MODELS.map((model, index) => {
    const values = new Float32Array(Uint32Array.from(stored(index, count), (half) => half << 16).buffer);
    return { model, values, dtype: "BF16" as const, parameters: ownParameters(id, PARAMETERS[index - 1] ?? {}) };
  });
  return { method: method(id), shape, models, dtype: "BF16", name, seed: 11 };
}

let folder = "";
const executor = createMergeExecutor(createStoreOpener({}));
before(() => {
  folder = mkdtempSync(join(tmpdir(), "mergeyard-determinism-"));
  MODELS.forEach((model, index) => {
    const data = SHAPES.map((shape) => new Uint8Array(stored(index, elementCount(shape)).buffer));
    mkdirSync(join(folder, model));
    writeFileSync(join(folder, model, "model.safetensors"), Buffer.concat([headerOf(), ...data]));
  });
});
after(async () => {
  await executor.close();
  rmSync(folder, { recursive: true });
});

function headerOf(): Uint8Array {
  const tensors = SHAPES.map((shape, index) => ({ name: `t${index}`, dtype: "BF16" as const, shape }));
  return encodeSafetensorsHeader(tensors, new Map([["format", "pt"]])).header;
}

function unitOf(id: string): MergeUnit {
  let offset = 0;
  const tensors = SHAPES.map((shape, index) => {
    const tensor = unitTensorOf(caseOf(id, shape, `t${index}`, 0));
    const bytes = tensorBytes("BF16", shape);
    const range = { file: "model.safetensors", offset: headerOf().byteLength + offset, bytes };
    const placed = { ...tensor, offset, inputs: tensor.inputs.map((input) => ({ ...input, ranges: [range] })) };
    offset += bytes;
    return placed;
  });
  return {
    op: "merge",
    stage: 0,
    index: 0,
    peakBytes: 0,
    bytesRead: 0,
    bytesWritten: 0,
    file: "model.safetensors",
    fileBytes: headerOf().byteLength + offset,
    tensors,
    derived: [],
    nonFinite: "error",
    strict: false,
    statistics: false,
  };
}

/** What the rounds of a unit's method decide, where it has any. */
async function stateOf(request: Omit<MergeRequest, "target">): Promise<ModelState | undefined> {
  const tensors = measuredTensors(request.unit);
  const [first] = tensors;
  if (first === undefined) return undefined;
  const elements = tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0);
  const inputs = first.inputs.map((input, index) => ({ ...input, model: MODELS[index] ?? "" }));
  const model = { elements, tensors: tensors.length, parameters: first.parameters, inputs };
  let state: ModelState = {};
  for (const [index, round] of (method(first.method).wholeModel?.rounds(first) ?? []).entries()) {
    const { signal } = new AbortController();
    const { part } = await executor.measure({ ...request, round: index, state }, { signal });
    state = { ...state, ...round.decide(totalModel(round.totals(first), part), model, state) };
  }
  return state;
}

/** What methods ask for beside their models' parameters, and steps that do not take long. */
const NEEDED: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  nearswap: { t: 0.1 },
  slerp: { t: 0.3 },
  wudi: { iter_num: 10 },
};
/** Small enough for windows of one element, and larger than a tile. */
const SMALL = [[517], [2, 30, 7], [37, 233]] as const;

describe("the same bytes of one tensor with any window, kept between passes or not", () => {
  for (const id of METHOD_IDS) {
    test(id, async () => {
      const { base, inputCount, locality } = method(id);
      // A whole tensor is one tile whatever the window.
      const windows = locality === "tensor" ? [1, 2 ** 16] : [1, 256, 8192, 2 ** 16];
      for (const shape of SMALL) {
        const digests = new Set<string>();
        const whole = caseOf(id, shape, "t");
        const first = base === "required" || base === "member" ? 0 : 1;
        const models = whole.models.slice(first, first + inputCount.max).map((model, index) => {
          // Not all methods take the negative weight.
          const values = { ...PARAMETERS[index % 2], weight: 0.7 - 0.2 * index, coefficient: 0.4 };
          return { ...model, parameters: ownParameters(id, values) };
        });
        const own = { ...whole, models, hasBase: first === 0, parameters: NEEDED[id] ?? {} };
        for (const windowElements of windows) {
          for (const keptBytes of [0, 20_000, 2 ** 22]) {
            const { result, passes } = await runTensor(own, { windowElements, keptBytes });
            digests.add(result.digest);
            if (keptBytes === 2 ** 22) assert.ok(passes <= 1.01, `${passes} times read, though all of it was kept`);
          }
        }
        assert.equal(digests.size, 1, `[${shape}]`);
      }
    });
  }
});

describe("the same bytes", () => {
  const sources = MODELS.map((model) => ({ model, store: join(folder, model), prefix: "", digests: undefined }));
  const { signal } = new AbortController();
  for (const id of METHODS) {
    test(`${id} on any number of threads with any memory, measured or not`, async () => {
      const digests = new Set<string>();
      const measured = new Set<string>();
      for (const { threads, memoryBytes, statistics } of MACHINES) {
        const store = `${pathToFileURL(join(folder, "out"))}?durable=false`;
        const target = { store, key: `${id}.safetensors`, derivedPrefix: "" };
        const request = { unit: { ...unitOf(id), statistics }, sources, threads, memoryBytes };
        const state = await stateOf(request);
        const { file, statistics: found } = await executor.execute({ ...request, state, target }, { signal });
        digests.add(file.digest);
        if (found === null) continue;
        assert.ok(found.every(({ kept }) => kept?.length === 2));
        measured.add(JSON.stringify(found));
      }
      assert.equal(digests.size, 1);
      assert.equal(measured.size, 1);
    });

    if (method(id).wholeModel !== undefined) continue;
    test(`${id} with any window`, async () => {
      const digests = new Set<string>();
      const entry = caseOf(id, SAMPLED, "t");
      for (const windowElements of [1, 8192, 24_576, 2 ** 19]) {
        digests.add((await runTensor(entry, { windowElements })).result.digest);
      }
      assert.equal(digests.size, 1);
    });
  }
});
