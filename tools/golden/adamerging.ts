// Golden cases of AdaMerging: the reference learned coefficients for a small network and merged with them. Learning is
// not ours; the merge with the learned coefficients is, written into a recipe as a person would: one number a model, or
// a list of filters by tensor.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import * as z from "zod";
import { encodeSafetensorsFile } from "../../core/formats/safetensors/safetensors.ts";
import { adamerging } from "../../core/methods/adamerging.ts";
import { openCheckpointFile } from "../../steps/open-checkpoint.ts";
import { createDirectoryStore } from "../../stores/directory.ts";
import { failed, PASSED, type Verdict } from "./case.ts";
import { runMerge } from "./run-merge.ts";
import { difference, readTensor, valuesOf } from "./tensors.ts";

const adamergingCase = z.object({
  kind: z.literal("adamerging"),
  input: z.string(),
  expected: z.string(),
  tolerance: z.object({ mode: z.literal("close"), rtol: z.number(), atol: z.number() }),
});

type Values = ReadonlyMap<string, { readonly shape: readonly number[]; readonly values: Float32Array }>;

/** Every merged tensor of a case. */
export async function runAdamerging(folder: string, document: unknown): Promise<Verdict> {
  const { input, expected: file, tolerance } = adamergingCase.parse(document);
  const [given, expected] = [await readValues(join(folder, input)), await readValues(join(folder, file))];
  const lambdas = expected.get("lambdas");
  if (lambdas === undefined) return failed("no lambdas");
  const scratch = await mkdtemp(join(tmpdir(), "mergeyard-adamerging-"));
  try {
    // Rows of the table follow the network's own order: a layer's weight before its bias.
    const names = partOf(given, "pre").map(([name]) => name);
    const order = names.sort((a, b) => a.split(".")[0]?.localeCompare(b.split(".")[0] ?? "") || b.localeCompare(a));
    await writeModel(join(scratch, "base.safetensors"), given, undefined);
    const [rows = 1, columns = 1] = lambdas.shape;
    const models = [];
    for (let task = 0; task + 1 < columns; task++) {
      const model = `task${task}.safetensors`;
      await writeModel(join(scratch, model), given, `tv${task}`);
      const values = order.map((_, row) => lambdas.values[(rows === 1 ? 0 : row) * columns + task + 1] ?? 0);
      const coefficient =
        rows === 1 ? values[0] : order.map((name, row) => ({ filter: name, value: values[row] ?? 0 }));
      models.push({ model, parameters: { coefficient } });
    }
    const recipe = { merge_method: adamerging.id, base_model: "base.safetensors", models };
    const { tensors } = await runMerge(scratch, JSON.stringify(recipe));
    for (const name of order) {
      const [got, want] = [tensors.get(name), expected.get(`merged.${name}`)];
      if (got === undefined || want === undefined) return failed(`no tensor ${name}`);
      const bytes = new Uint8Array(want.values.buffer, want.values.byteOffset, want.values.byteLength);
      const why = difference(got, { dtype: "F32", shape: want.shape, bytes }, tolerance);
      if (why !== undefined) return failed(`${name}: ${why}`);
    }
    return PASSED;
  } finally {
    await rm(scratch, { recursive: true });
  }
}

async function readValues(path: string): Promise<Values> {
  const store = createDirectoryStore(dirname(path), { durable: false });
  const { checkpoint } = await openCheckpointFile(store, basename(path));
  const read = checkpoint.tensors.map(async (entry) => {
    return [entry.name, { shape: entry.shape, values: valuesOf(await readTensor(store, entry)) }] as const;
  });
  return new Map(await Promise.all(read));
}

/** The tensors below a name, without it. */
function partOf(values: Values, part: string) {
  return [...values].flatMap(([name, own]) =>
    name.startsWith(`${part}.`) ? [[name.slice(part.length + 1), own] as const] : [],
  );
}

/** The network before training, or what a task made of it. */
async function writeModel(path: string, given: Values, task: string | undefined): Promise<void> {
  const base = partOf(given, "pre");
  const specs = base.map(([name, { shape }]) => ({ name, dtype: "F32" as const, shape }));
  const file = encodeSafetensorsFile(specs, ({ name }) => {
    const change = task === undefined ? undefined : given.get(`${task}.${name}`)?.values;
    return given.get(`pre.${name}`)?.values.map((value, i) => value + (change?.[i] ?? 0));
  });
  await writeFile(path, file);
}
