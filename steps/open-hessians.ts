// Files of Hessians that lie in stores: the one that a command names, and those that a pipeline's outputs name. Only
// their headers are read here.
import { MergeyardError } from "../core/error.ts";
import type { HessianFile } from "../core/plan/merge-task.ts";
import type { MergeUnit } from "../core/plan/schema.ts";
import type { Outputs } from "../core/recipe/outputs.ts";
import { type FilePlace, findNamedFile } from "./named-file.ts";
import { openCheckpointFile } from "./open-checkpoint.ts";
import type { StepDeps } from "./step.ts";

type Deps = Pick<StepDeps, "openStore" | "signal">;

/** Throws CheckpointFileMissing, and the codes of opening a safetensors file. */
export async function openHessianFile({ store, key }: FilePlace, { openStore, signal }: Deps): Promise<HessianFile> {
  const { checkpoint, fingerprint } = await openCheckpointFile(openStore(store), key, signal);
  const prefix = key.slice(0, key.lastIndexOf("/") + 1);
  const entries = new Map(checkpoint.tensors.map((entry) => [entry.name, entry]));
  return { store, prefix, file: key.slice(prefix.length), fingerprint, entries };
}

/** The files that outputs name, by their names, found as importance matrices are. Throws what opening one throws. */
export async function openHessianFiles(
  { folders: outputs }: Outputs,
  folders: readonly string[],
  deps: Deps,
): Promise<ReadonlyMap<string, HessianFile>> {
  const opened = new Map<string, HessianFile>();
  for (const { hessian } of outputs) {
    if (hessian === undefined || opened.has(hessian)) continue;
    opened.set(hessian, await openHessianFile(await findNamedFile(hessian, folders, deps), deps));
  }
  return opened;
}

/** Throws QuantizeHessianInvalid for a file that is not what the plan saw, and what opening it throws. */
export async function checkUnitHessians({ derived }: MergeUnit, deps: Deps): Promise<void> {
  for (const made of derived) {
    const planned = made.format === "safetensors" ? made.hessians : undefined;
    if (planned === undefined) continue;
    const { store, prefix, file } = planned;
    const { fingerprint } = await openHessianFile({ store, key: `${prefix}${file}` }, deps);
    if (fingerprint === planned.fingerprint) continue;
    const where = { store, file: `${prefix}${file}` };
    throw new MergeyardError("QuantizeHessianInvalid", { where, found: fingerprint, expected: planned.fingerprint });
  }
}
