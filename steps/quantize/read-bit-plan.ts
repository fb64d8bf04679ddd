// Reading a bit plan from the file that a person may have edited.
import { parse } from "yaml";
import { bitPlanSchema } from "../../core/bit-plan/document.ts";
import { MergeyardError } from "../../core/error.ts";
import { RECIPE_LIMITS } from "../../core/limits.ts";
import { parseAs } from "../../core/parse-as.ts";
import { readAll } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";

/** The scheme of every matrix, by its name in the quantized file. Throws BitPlanInvalid and what the store throws. */
export async function readBitPlan(
  store: ObjectStore,
  file: string,
  signal: AbortSignal,
): Promise<Readonly<Record<string, string>>> {
  const bytes = await readAll(store, file, RECIPE_LIMITS.bytes, { signal });
  const refuse = (found: string, field?: string) =>
    new MergeyardError("BitPlanInvalid", {
      where: { file, ...(field === undefined ? {} : { field }) },
      found,
      expected: "`bit_plan: 1` and a scheme for every matrix under `tensors`",
    });
  return parseAs(bitPlanSchema, parseYaml(bytes, refuse), (path, found) => refuse(found, path)).tensors;
}

function parseYaml(bytes: Uint8Array, refuse: (found: string) => MergeyardError): unknown {
  try {
    return parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw refuse(error instanceof Error ? (error.message.split("\n")[0] ?? "") : "no YAML");
  }
}
