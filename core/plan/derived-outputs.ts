// What a merge makes beside its own files: by unit, the derived files of every output, and the small files that an
// output has of its own.
import type { Outputs } from "../recipe/outputs.ts";
import { compareUtf8 } from "../utf8-order.ts";
import { planCompressedOutput } from "./compressed-outputs.ts";
import { type GgufOutputParts, planGgufOutputs } from "./gguf-outputs.ts";
import type { DerivedFile, SideFile } from "./schema.ts";

export type DerivedOutputs = {
  /** By the merge's shards. */
  readonly derived: readonly (readonly DerivedFile[])[];
  /** Small files of the version: those of the merge, unless an output has another in place of one. */
  readonly sideFiles: readonly SideFile[];
};

/** Throws what planning GGUF and compressed-tensors outputs throws. */
export function planDerived(parts: Omit<GgufOutputParts, "outputs">, outputs: Outputs | undefined): DerivedOutputs {
  const gguf = planGgufOutputs({ ...parts, outputs: outputs?.gguf ?? [] });
  const folders = (outputs?.compressed ?? []).map((output) => planCompressedOutput(output, parts));
  const own = new Set(folders.flatMap(({ sideFiles }) => sideFiles.map(({ name }) => name)));
  const kept = parts.sideFiles.filter(({ name }) => !own.has(name));
  return {
    derived: gguf.map((files, shard) => [
      ...files,
      ...folders.flatMap(({ derived }) => derived.slice(shard, shard + 1)),
    ]),
    sideFiles: [...kept, ...folders.flatMap(({ sideFiles }) => sideFiles)].sort((a, b) => compareUtf8(a.name, b.name)),
  };
}
