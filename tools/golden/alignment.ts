// Golden cases of alignment: a model whose units are permuted to match another's, by the step that users run. Source of
// the form: merge reference, sections 10 and 15.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { alignStep } from "../../steps/align.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { runStep } from "../../steps/step.ts";
import { createMemoryStore } from "../../stores/memory.ts";
import { writeObject } from "../../stores/objects.ts";
import { skipped, type Verdict } from "./case.ts";
import { compareAll, listTensors } from "./compare.ts";
import { readTensor } from "./tensors.ts";

const matchingCase = z.object({
  id: z.string(),
  method: z.literal("weight_matching"),
  models: z.tuple([z.string(), z.string()]),
  axes_to_perm: z.record(z.string(), z.array(z.string().nullable())),
  parameters: z.object({ max_iter: z.int(), visit_order_per_iteration: z.array(z.array(z.int())) }),
  tolerance: z.unknown(),
  expected: z.string(),
});

/** A case of kind alignment. */
export async function runAlignment(folder: string, content: { readonly kind: string }): Promise<Verdict> {
  const parsed = matchingCase.safeParse(content);
  if (!parsed.success) return skipped("the alignment");
  const { id, models, axes_to_perm: spec, parameters, tolerance, expected } = parsed.data;
  const stores = [...models, "out"].map((name) => createMemoryStore(`${id}-${name}`));
  for (const [index, file] of models.entries()) {
    const bytes = readFileSync(join(folder, file));
    const store = stores[index];
    if (store !== undefined) await writeObject(store, "model.safetensors", bytes, bytes.length);
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
  const got = new Map(
    await Promise.all(checkpoint.tensors.map(async (entry) => [entry.name, await readTensor(target, entry)] as const)),
  );
  return compareAll(folder, got, await listTensors(folder, expected), expected, tolerance);
}
