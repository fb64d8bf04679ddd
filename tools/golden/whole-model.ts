// Golden cases of methods that look at whole models, and of those that keep tasks apart: a case becomes recipes, whose
// rounds run as those of any merge.
import * as z from "zod";
import { findMethod } from "../../core/methods/registry.ts";
import { failed, PASSED, skipped, type Verdict } from "./case.ts";
import { compareAll, openExpected } from "./compare.ts";
import { runMerge } from "./run-merge.ts";
import { difference, readTensor, type Tensor, valuesOf } from "./tensors.ts";

const globalCase = z.object({
  kind: z.literal("global"),
  method: z.string(),
  parameters: z.record(z.string(), z.union([z.number(), z.string()])),
  models: z.array(z.string()),
  base_model: z.string(),
  tensors: z.array(z.string()),
  /** Where the expected file holds only some of the tensors. */
  compared: z.array(z.string()).optional(),
  tolerance: z.unknown(),
  expected: z.string(),
});
const emrCase = z.object({
  method: z.string(),
  models: z.array(z.object({ model: z.string() })),
  base_model: z.string(),
  tensors: z.array(z.string()),
  expected_rescalers: z.array(z.number()),
  tolerance: z.object({ mode: z.literal("close"), rtol: z.number(), atol: z.number() }),
  expected: z.string(),
});

/** A recipe of a case; `task` is the model whose task the output is for. */
type Merge = {
  readonly method: string;
  readonly base: string;
  readonly models: readonly string[];
  readonly task?: string;
  readonly parameters: Record<string, unknown>;
};

/** One merged model of all the case's tensors, or the mask of every model. */
export async function runGlobal(folder: string, document: unknown): Promise<Verdict> {
  const entry = globalCase.parse(document);
  if (findMethod(entry.method) === undefined) return skipped(`the method ${entry.method}`);
  // Words of a case may say more than their first: `release (pcb-merging.py)`.
  const parameters = Object.fromEntries(
    Object.entries(entry.parameters).map(([name, value]) => [
      name,
      typeof value === "string" ? value.split(" ")[0] : value,
    ]),
  );
  const { method, base_model: base, models, tensors, tolerance, expected } = entry;
  const { checkpoint } = await openExpected(folder, expected);
  if (checkpoint.tensors.some(({ name }) => name === "masks")) {
    const tasks = models.map((task) => ({ method, base, models, task, parameters: { ...parameters, emit: "mask" } }));
    return compareMasks(folder, tasks, entry);
  }
  const merged = await merge(folder, { method, base, models, parameters }, tensors);
  return compareAll(folder, merged, entry.compared ?? tensors, expected, tolerance);
}

function merge(folder: string, { method, base, models, task, parameters }: Merge, tensors: readonly string[]) {
  const recipe = {
    merge_method: method,
    base_model: base,
    models: models.map((model) => ({ model, ...(model === task ? { parameters: { task: true } } : {}) })),
    parameters,
  };
  return runMerge(folder, JSON.stringify(recipe), tensors).then((outcome) => outcome.tensors);
}

/** `masks` of the expected file: one row a model, tensors laid end to end in the order of their names. */
async function compareMasks(
  folder: string,
  tasks: readonly Merge[],
  { tensors, expected }: z.output<typeof globalCase>,
): Promise<Verdict> {
  const { store, checkpoint } = await openExpected(folder, expected);
  const [entry] = checkpoint.tensors;
  if (entry === undefined) return failed("the expected file is empty");
  const { bytes } = await readTensor(store, entry);
  const rows: number[] = [];
  for (const task of tasks) {
    const merged = await merge(folder, task, tensors);
    for (const name of [...tensors].sort()) {
      const tensor = merged.get(name);
      if (tensor === undefined) return failed(`no tensor ${name}`);
      for (const value of valuesOf(tensor)) rows.push(value);
    }
  }
  const wrong = rows.findIndex((value, index) => value !== bytes[index]);
  if (rows.length === bytes.length && wrong < 0) return PASSED;
  return failed(`element ${wrong} of ${rows.length} masks is ${rows[wrong]}, expected ${bytes[wrong]}`);
}

/** The shared vector, every task's mask, and every task's model put together from them and its rescaler. */
export async function runEmr(folder: string, document: unknown): Promise<Verdict> {
  const entry = emrCase.parse(document);
  const { method, base_model: base, tensors, expected, tolerance } = entry;
  const models = entry.models.map(({ model }) => model);
  const { store, checkpoint } = await openExpected(folder, expected);
  const expectedOf = async (name: string): Promise<Float32Array> => {
    const stored = checkpoint.tensors.find((own) => own.name === name);
    if (stored === undefined) throw new Error(`the expected file has no tensor ${name}`);
    const { dtype, bytes, ...rest } = await readTensor(store, stored);
    return dtype === "U8" ? Float32Array.from(bytes) : valuesOf({ dtype, bytes, ...rest });
  };
  const run = (emit: string, task?: string) =>
    merge(folder, { method, base, models, parameters: { emit }, ...(task === undefined ? {} : { task }) }, tensors);
  const origin = await merge(folder, { method: "passthrough", base, models: [base], parameters: {} }, tensors);
  const unified = await run("unified");
  for (const [index, task] of models.entries()) {
    const [mask, own] = [await run("mask", task), await run("model", task)];
    for (const name of tensors) {
      const shape = own.get(name)?.shape ?? [];
      const [shared, kept] = [await expectedOf(`unified.${name}`), await expectedOf(`mask${index}.${name}`)];
      const start = valuesOf(origin.get(name) ?? EMPTY);
      const scale = entry.expected_rescalers[index] ?? Number.NaN;
      const model = start.map((value, i) => value + (shared[i] ?? 0) * (kept[i] ?? 0) * scale);
      const why =
        difference(unified.get(name) ?? EMPTY, tensorOf(shared, shape), tolerance) ??
        difference(mask.get(name) ?? EMPTY, tensorOf(kept, shape), { mode: "exact" }) ??
        difference(own.get(name) ?? EMPTY, tensorOf(model, shape), tolerance);
      if (why !== undefined) return failed(`${task}, ${name}: ${why}`);
    }
  }
  return PASSED;
}

const EMPTY: Tensor = { dtype: "F32", shape: [0], bytes: new Uint8Array(0) };

function tensorOf(values: Float32Array, shape: readonly number[]): Tensor {
  return { dtype: "F32", shape, bytes: new Uint8Array(values.buffer, values.byteOffset, values.byteLength) };
}
