// Golden cases of LoRA adapters: extracted from a model, or combined from adapters in a folder each, by the steps that
// users run; the written adapter is read back and compared. Source of the form: merge reference, sections 12 and 15.
import { join } from "node:path";
import * as z from "zod";
import { COMBINATIONS } from "../../core/adapter/combine.ts";
import { encodeSafetensorsFile } from "../../core/formats/safetensors/safetensors.ts";
import { extractLoraStep } from "../../steps/models/extract-lora.ts";
import { mergeLoraStep } from "../../steps/models/merge-lora.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { runStep, type StepDeps } from "../../steps/step.ts";
import { createDirectoryStore } from "../../stores/directory.ts";
import { createMemoryStore } from "../../stores/memory.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { failed, skipped, type Verdict } from "./case.ts";
import { compareAll, listTensors, readFileTensors } from "./compare.ts";
import { readTensors, type Tensor, valuesOf } from "./tensors.ts";

const common = { id: z.string(), tolerance: z.unknown(), expected: z.string() };
const extractCase = z.object({
  ...common,
  parameters: z.object({ max_rank: z.int(), distribute_scale: z.boolean(), sv_epsilon: z.number() }),
  models: z.array(z.string()).length(1),
  base_model: z.string(),
  expected_ranks: z.record(z.string(), z.int()),
});
const combineCase = z.object({
  ...common,
  method: z.string(),
  input: z.string(),
  parameters: z.object({
    weights: z.array(z.number()),
    scaling: z.array(z.number()),
    density: z.number().optional(),
    majority_sign_method: z.string().optional(),
    rank: z.int().optional(),
    clamp: z.number().optional(),
  }),
});

/** A case of kind lora. */
export async function runLora(
  folder: string,
  content: { readonly kind: string; readonly method?: unknown },
): Promise<Verdict> {
  if (content.method === "extract_lora") return runExtract(folder, extractCase.parse(content));
  return runCombine(folder, combineCase.parse(content));
}

async function runExtract(folder: string, entry: z.output<typeof extractCase>): Promise<Verdict> {
  const target = createMemoryStore(entry.id);
  const deps = depsOf((uri) => (uri === target.uri ? target : createDirectoryStore(uri, { durable: false })));
  const { max_rank: maxRank, distribute_scale: distributeScale, sv_epsilon: svEpsilon } = entry.parameters;
  const [model = ""] = entry.models;
  const places = { model: join(folder, model), base: join(folder, entry.base_model), target: target.uri };
  await runStep(extractLoraStep, { ...places, maxRank, distributeScale, svEpsilon }, deps);
  const adapter = await readAll(target);
  const got = new Map<string, Tensor>();
  for (const [name, rank] of Object.entries(entry.expected_ranks)) {
    const { a, b } = factorsOf(adapter, name.replace(/\.weight$/, ""));
    if (a === undefined || b === undefined) return failed(`no factors of ${name}`);
    if (a.shape[0] !== rank) return failed(`${name} has rank ${a.shape[0]}, expected ${rank}`);
    got.set(`${name}.delta`, product(b, a));
    got.set(`${name}.A_row_norms`, rowNorms(a));
    got.set(`${name}.B_col_norms`, rowNorms(turn(b)));
  }
  return compareAll(folder, got, await listTensors(folder, entry.expected), entry.expected, entry.tolerance);
}

async function runCombine(folder: string, entry: z.output<typeof combineCase>): Promise<Verdict> {
  const combination = entry.method.replace(/^lora_/, "");
  if (!COMBINATIONS.has(combination)) return skipped(`the combination ${combination}`);
  const input = await readFileTensors(folder, entry.input);
  const stores = new Map<string, ObjectStore>();
  const { weights, scaling, density, majority_sign_method: majority, rank, clamp } = entry.parameters;
  for (const [index, scale] of scaling.entries()) {
    const own = new Map<string, Tensor>();
    for (const side of ["A", "B"]) {
      const tensor = input.get(`a${index}.lora_${side}`);
      if (tensor === undefined) return failed(`the input has no adapter ${index}`);
      own.set(`base_model.model.m.lora_${side}.weight`, tensor);
    }
    const store = createMemoryStore(`${entry.id}-${index}`);
    await writeAdapter(store, own, scale);
    stores.set(store.uri, store);
  }
  const adapters = [...stores.keys()].map((source, index) => ({ source, weight: weights[index] }));
  const target = createMemoryStore(`${entry.id}-out`);
  const deps = depsOf((uri) => stores.get(uri) ?? target);
  const request = { adapters, target: target.uri, combination, density, majority, rank, clamp, strict: true };
  await runStep(mergeLoraStep, request, deps);
  const { a, b } = factorsOf(await readAll(target), "m");
  if (a === undefined || b === undefined) return failed("the result has no factors");
  const got = new Map([["lora_A", a] as const, ["lora_B", b] as const, ["delta", product(b, a)] as const]);
  return compareAll(folder, got, await listTensors(folder, entry.expected), entry.expected, entry.tolerance);
}

function depsOf(openStore: StepDeps["openStore"]): StepDeps {
  return { openStore, now: () => 0, log: () => {}, signal: new AbortController().signal };
}

async function readAll(store: ObjectStore): Promise<ReadonlyMap<string, Tensor>> {
  return readTensors(store, (await openCheckpoint(store, "")).checkpoint);
}

function factorsOf(adapter: ReadonlyMap<string, Tensor>, module: string) {
  const factor = (side: string) => adapter.get(`base_model.model.${module}.lora_${side}.weight`);
  return { a: factor("A"), b: factor("B") };
}

async function writeAdapter(store: ObjectStore, tensors: ReadonlyMap<string, Tensor>, scale: number): Promise<void> {
  const specs = [...tensors].map(([name, { shape }]) => ({ name, dtype: "F32" as const, shape }));
  const file = encodeSafetensorsFile(specs, ({ name }) => tensors.get(name)?.bytes);
  await writeBytes(store, "adapter_model.safetensors", file);
  const rank = [...tensors.values()][0]?.shape[0] ?? 1;
  const config = Buffer.from(JSON.stringify({ peft_type: "LORA", r: rank, lora_alpha: scale * rank }));
  await writeBytes(store, "adapter_config.json", config);
}

function tensorOf(shape: readonly number[], values: Float32Array): Tensor {
  return { dtype: "F32", shape, bytes: new Uint8Array(values.buffer) };
}

function product(left: Tensor, right: Tensor): Tensor {
  const [rows = 0, inner = 0] = left.shape;
  const columns = right.shape[1] ?? 0;
  const [a, b] = [valuesOf(left), valuesOf(right)];
  const values = Float32Array.from({ length: rows * columns }, (_, at) => {
    let sum = 0;
    for (let k = 0; k < inner; k++) {
      sum += (a[Math.floor(at / columns) * inner + k] ?? 0) * (b[k * columns + (at % columns)] ?? 0);
    }
    return sum;
  });
  return tensorOf([rows, columns], values);
}

function turn(matrix: Tensor): Tensor {
  const [rows = 0, columns = 0] = matrix.shape;
  const values = valuesOf(matrix);
  const turned = values.map((_, at) => values[(at % rows) * columns + Math.floor(at / rows)] ?? 0);
  return tensorOf([columns, rows], turned);
}

function rowNorms(matrix: Tensor): Tensor {
  const [rows = 0, columns = 0] = matrix.shape;
  const values = valuesOf(matrix);
  const norms = Float32Array.from({ length: rows }, (_, row) =>
    Math.hypot(...values.subarray(row * columns, (row + 1) * columns)),
  );
  return tensorOf([rows], norms);
}
