// The sources that a unit's tensors are read from, as the unit's content key and the engine want them.
import { placesOf, type UnitTensor } from "../../core/plan/schema.ts";
import type { ResolvedSource } from "../../engine/request.ts";
import type { UnitContext, UnitSource } from "./context.ts";

/** By the plan's source index; undefined where these tensors are not read from that source. */
export async function locateSources(
  context: UnitContext,
  tensors: readonly UnitTensor[],
): Promise<readonly (UnitSource | undefined)[]> {
  const used = new Set(tensors.flatMap((tensor) => tensor.inputs.flatMap(placesOf)).map(({ source }) => source));
  const { sources } = context.plan.header;
  return Promise.all(sources.map((_, index) => (used.has(index) ? context.source(index) : undefined)));
}

/** What the engine is told of the sources: only the digests that these tensors need, for they cross thread borders. */
export function narrowSources(
  context: UnitContext,
  tensors: readonly UnitTensor[],
  sources: readonly (UnitSource | undefined)[],
): readonly ResolvedSource[] {
  const places = tensors.flatMap((tensor) => tensor.inputs.flatMap(placesOf));
  return context.plan.header.sources.map((planned, index) => {
    const source = sources[index];
    if (source === undefined) {
      return { model: planned.model, store: planned.store, prefix: planned.prefix, digests: undefined };
    }
    const { digests } = source.resolved;
    if (digests === undefined) return source.resolved;
    const names = places
      .filter(({ source: own }) => own === index)
      .map(({ tensor }) => tensor)
      .filter((name) => Object.hasOwn(digests, name));
    return { ...source.resolved, digests: Object.fromEntries(names.map((name) => [name, digests[name] ?? ""])) };
  });
}
