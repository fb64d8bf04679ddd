// Golden cases of alignment: a model whose units are permuted to match another's, by the step that users run. Source of
// the form: merge reference, sections 10 and 15.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";
import { alignTasks } from "../../core/methods/frames/task-space.ts";
import { onHeap, rowOf } from "../../core/ops/linalg/matrix.ts";
import { alignStep } from "../../steps/models/align.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { runStep } from "../../steps/step.ts";
import { createMemoryStore } from "../../stores/memory.ts";
import { writeBytes } from "../../stores/objects.ts";
import { failed, skipped, type Verdict } from "./case.ts";
import { compareAll, listTensors, readFileTensors } from "./compare.ts";
import { readTensors, type Tensor, valuesOf } from "./tensors.ts";

const matchingCase = z.object({
  id: z.string(),
  method: z.literal("weight_matching"),
  models: z.tuple([z.string(), z.string()]),
  axes_to_perm: z.record(z.string(), z.array(z.string().nullable())),
  parameters: z.object({ max_iter: z.int(), visit_order_per_iteration: z.array(z.array(z.int())) }),
  tolerance: z.unknown(),
  expected: z.string(),
});

const knotsCase = z.object({
  method: z.literal("knots"),
  models: z.array(z.string()),
  base_model: z.string(),
  tensors: z.tuple([z.string()]),
  parameters: z.object({ eps: z.number() }),
  tolerance: z.unknown(),
  expected: z.string(),
});

/** A case of kind alignment. */
export async function runAlignment(folder: string, content: { readonly kind: string }): Promise<Verdict> {
  const knots = knotsCase.safeParse(content);
  if (knots.success) return runKnots(folder, knots.data);
  const parsed = matchingCase.safeParse(content);
  if (!parsed.success) return skipped("the alignment");
  const { id, models, axes_to_perm: spec, parameters, tolerance, expected } = parsed.data;
  const stores = [...models, "out"].map((name) => createMemoryStore(`${id}-${name}`));
  for (const [index, file] of models.entries()) {
    const bytes = readFileSync(join(folder, file));
    const store = stores[index];
    if (store !== undefined) await writeBytes(store, "model.safetensors", bytes);
  }
  const [reference, model, target] = stores;
  if (reference === undefined || model === undefined || target === undefined) return skipped("the alignment");
  const { max_iter: maxIterations, visit_order_per_iteration: visits } = parameters;
  const places = { model: model.uri, reference: reference.uri, target: target.uri };
  await runStep(
    alignStep,
    { ...places, spec, maxIterations, visits },
    {
      openStore: (uri) => stores.find((store) => store.uri === uri) ?? target,
      now: () => 0,
      log: () => {},
      signal: new AbortController().signal,
    },
  );
  const { checkpoint } = await openCheckpoint(target, "");
  const got = await readTensors(target, checkpoint);
  return compareAll(folder, got, await listTensors(folder, expected), expected, tolerance);
}

/** The decomposition that the method `knots` starts from: its singular values, and every task rebuilt from it. */
async function runKnots(folder: string, entry: z.output<typeof knotsCase>): Promise<Verdict> {
  const [name] = entry.tensors;
  const read = async (model: string): Promise<Tensor | undefined> =>
    (await readFileTensors(folder, `${model}/model.safetensors`)).get(name);
  const base = await read(entry.base_model);
  const tasks = await Promise.all(entry.models.map(read));
  if (base === undefined) return failed(`no tensor ${name}`);
  const [rows = 0, columns = 0] = base.shape;
  const [origin, width] = [valuesOf(base), tasks.length * columns];
  const sideBySide = { rows, columns: width, values: new Float64Array(rows * width) };
  for (const [task, tensor] of tasks.entries()) {
    if (tensor === undefined) return failed(`no tensor ${name}`);
    valuesOf(tensor).forEach((value, at) => {
      const [row, column] = [Math.floor(at / columns), at % columns];
      sideBySide.values[row * width + task * columns + column] = Math.fround(value - (origin[at] ?? 0));
    });
  }
  const { left, values, right } = alignTasks(sideBySide, entry.parameters.eps, onHeap);
  const rebuilt = tasks.map((_, task) => {
    const own = Float32Array.from({ length: rows * columns }, (__, at) => {
      const [row, column] = [Math.floor(at / columns), task * columns + (at % columns)];
      return values.reduce(
        (sum, value, i) => sum + value * (rowOf(left, i)[row] ?? 0) * (rowOf(right, i)[column] ?? 0),
        0,
      );
    });
    return [`rebuilt${task}`, { dtype: "F32", shape: [rows, columns], bytes: new Uint8Array(own.buffer) }] as const;
  });
  const singular = new Uint8Array(Float32Array.from(values).buffer);
  const got = new Map<string, Tensor>([["S", { dtype: "F32", shape: [values.length], bytes: singular }], ...rebuilt]);
  return compareAll(folder, got, await listTensors(folder, entry.expected), entry.expected, entry.tolerance);
}
