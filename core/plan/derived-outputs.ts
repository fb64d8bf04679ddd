// What a merge makes beside its own files: by unit, the derived files of every output, and the small files that an
// output has of its own.
import { stackOf } from "../formats/gguf/names.ts";
import type { Outputs } from "../recipe/outputs.ts";
import { compareUtf8 } from "../utf8-order.ts";
import { type FolderOutputParts, planFolderOutput } from "./folder-outputs.ts";
import { type GgufOutputParts, planGgufOutputs } from "./gguf-outputs.ts";
import { fusedKey } from "./linear-modules.ts";
import type { DerivedFile, SideFile } from "./schema.ts";

export type DerivedOutputs = {
  /** By the merge's shards. */
  readonly derived: readonly (readonly DerivedFile[])[];
  /** Small files of the version: those of the merge, unless an output has another in place of one. */
  readonly sideFiles: readonly SideFile[];
};

/**
 * Units of tensors that lie one after the other in a merge's files, because outputs make one thing of them: the experts
 * of a layer, in their order, of which a GGUF file has one tensor; and what servers fuse, where a scheme measures it
 * together. Undefined where every tensor is by itself.
 */
export function groupTensors<Tensor extends { readonly name: string }>(
  tensors: readonly Tensor[],
  outputs: Outputs | undefined,
): readonly (readonly Tensor[])[] | undefined {
  const isStacked = outputs?.gguf.length ? tensors.some(({ name }) => stackOf(name) !== undefined) : false;
  const isFused = outputs?.folders.some(({ scheme }) => scheme.measures === "largest") ?? false;
  if (!isStacked && !isFused) return undefined;
  const stackIn = (name: string) => (isStacked ? stackOf(name) : undefined);
  const keyOf = ({ name }: Tensor) => {
    const stack = stackIn(name)?.stack ?? name;
    return isFused ? fusedKey(stack) : stack;
  };
  const orderOf = ({ name }: Tensor) => stackIn(name) ?? { stack: name, expert: 0 };
  const compare = (a: Tensor, b: Tensor): number => {
    const [own, other] = [orderOf(a), orderOf(b)];
    return compareUtf8(own.stack, other.stack) || own.expert - other.expert;
  };
  return [...Map.groupBy(tensors, keyOf).values()].map((group) => group.toSorted(compare));
}

/** Throws what planning GGUF files and folders of parts throws. */
export function planDerived(
  parts: Omit<GgufOutputParts, "outputs"> & FolderOutputParts,
  outputs: Outputs | undefined,
): DerivedOutputs {
  const gguf = planGgufOutputs({ ...parts, outputs: outputs?.gguf ?? [] });
  const folders = (outputs?.folders ?? []).map((output) => planFolderOutput(output, parts));
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
