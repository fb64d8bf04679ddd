// Golden cases of methods that take statistics measured elsewhere: a case keeps those of all models in one file; each
// model's become a file of its own, and the case a recipe that names them.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import * as z from "zod";
import { encodeSafetensorsFile } from "../../core/formats/safetensors/safetensors.ts";
import { findMethod } from "../../core/methods/registry.ts";
import { skipped, type Verdict } from "./case.ts";
import { compareAll, readFileTensors } from "./compare.ts";
import { type MergedTensors, runMerge } from "./run-merge.ts";

const statisticsCase = z.object({
  kind: z.literal("activations"),
  method: z.string(),
  parameters: z.record(z.string(), z.union([z.number(), z.boolean(), z.array(z.number())])),
  models: z.array(z.string()),
  /** Tensors `fisher<model>.<tensor>`. */
  fisher: z.string().optional(),
  /** Tensors `gram<model>`, all of the tensor `gram_for`. */
  gram: z.string().optional(),
  gram_for: z.string().optional(),
  tensors: z.array(z.string()),
  tolerance: z.unknown(),
  expected: z.string(),
});

/** Every tensor of a case. */
export async function runWithStatistics(folder: string, document: unknown): Promise<Verdict> {
  const entry = statisticsCase.parse(document);
  const { method, fisher, gram, gram_for: target = "", tensors } = entry;
  if (findMethod(method) === undefined) return skipped(`the method ${method}`);
  const given = await readFileTensors(folder, fisher ?? gram ?? "");
  const ownOf = (index: number): MergedTensors =>
    new Map(
      [...given].flatMap(([name, tensor]) => {
        if (name === `gram${index}`) return [[target, tensor] as const];
        const prefix = `fisher${index}.`;
        return name.startsWith(prefix) ? [[name.slice(prefix.length), tensor] as const] : [];
      }),
    );
  const { coefficients, ...parameters } = entry.parameters;
  const scratch = await mkdtemp(join(tmpdir(), "mergeyard-statistics-"));
  try {
    const models = await Promise.all(
      entry.models.map(async (model, index) => {
        const file = join(scratch, `${index}.safetensors`);
        await writeTensors(file, ownOf(index));
        const weight = Array.isArray(coefficients) ? coefficients[index] : undefined;
        const own = weight === undefined ? {} : { parameters: { weight } };
        return { model, statistics: relative(folder, file), ...own };
      }),
    );
    const recipe = { merge_method: method, models, parameters };
    const merged = await runMerge(folder, JSON.stringify(recipe), tensors);
    return await compareAll(folder, merged.tensors, tensors, entry.expected, entry.tolerance);
  } finally {
    await rm(scratch, { recursive: true });
  }
}

async function writeTensors(path: string, tensors: MergedTensors): Promise<void> {
  const specs = [...tensors].map(([name, { shape }]) => ({ name, dtype: "F32" as const, shape }));
  await writeFile(
    path,
    encodeSafetensorsFile(specs, ({ name }) => tensors.get(name)?.bytes),
  );
}
