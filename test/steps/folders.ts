// Folders of the golden sets in memory stores, and conversions between stores, for tests of the converter.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type * as z from "zod";
import type { convertInputSchema, convertOutputSchema } from "../../steps/convert/convert.ts";
import { convertStep } from "../../steps/convert/convert.ts";
import { quantizeFolderStep } from "../../steps/quantize/folder.ts";
import { quantizeStep } from "../../steps/quantize/quantize.ts";
import { runStep } from "../../steps/step.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { createQuantizeExecutor } from "../../workers/quantize-executor.ts";
import { newStore, openerOf, testDeps } from "./deps.ts";

const GOLDEN = join(import.meta.dirname, "../golden");

/** Copies a golden folder under a prefix. */
export async function putGolden(store: ObjectStore, folder: string, prefix = ""): Promise<void> {
  const root = join(GOLDEN, folder);
  for (const entry of readdirSync(root, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const bytes = readFileSync(path);
    await writeBytes(store, `${prefix}${path.slice(root.length + 1)}`, bytes);
  }
}

export async function goldenStore(folder: string): Promise<ObjectStore> {
  const store = newStore();
  await putGolden(store, folder);
  return store;
}

const EXAMPLE = join(import.meta.dirname, "../../examples/models/base");

export async function exampleModel(): Promise<ObjectStore> {
  const store = newStore();
  for (const name of readdirSync(EXAMPLE)) await store.create(name, readFileSync(join(EXAMPLE, name)));
  return store;
}

/** The example as one GGUF file, `model.gguf`. */
export async function exampleGguf(scheme: string): Promise<ObjectStore> {
  const [source, target] = [await exampleModel(), newStore()];
  const input = { source: source.uri, target: target.uri, name: "model.gguf", scheme, tokenizer: false };
  const openStore = openerOf(source, target);
  const { execute } = createQuantizeExecutor(openStore);
  await runStep(quantizeStep, input, { ...testDeps(openStore), executeQuantize: execute });
  return target;
}

/** The example as a compressed-tensors folder. */
export async function exampleCompressed(scheme: string): Promise<ObjectStore> {
  const [source, target] = [await exampleModel(), newStore()];
  const input = { source: source.uri, target: target.uri, scheme };
  await runStep(quantizeFolderStep, input, testDeps(openerOf(source, target)));
  return target;
}

type Input = z.input<typeof convertInputSchema>;

/** Converts into a new store. */
export async function convertInto(
  source: ObjectStore,
  to: Input["to"],
  options: Partial<Input> = {},
): Promise<{ readonly target: ObjectStore; readonly output: z.output<typeof convertOutputSchema> }> {
  const target = newStore();
  const deps = testDeps(openerOf(source, target));
  const output = await runStep(convertStep, { source: source.uri, target: target.uri, to, ...options }, deps);
  return { target, output };
}
