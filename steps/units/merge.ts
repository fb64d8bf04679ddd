// The merge unit: one output file of a version. Its content key says what the bytes depend on and nothing else; the
// computing itself is the engine's.
import assert from "node:assert/strict";
import { digestBytes, digestJson } from "../../core/artifact/digest.ts";
import { MergeyardError } from "../../core/error.ts";
import type { ModelState } from "../../core/methods/method.ts";
import { findPlannedMethod } from "../../core/methods/registry.ts";
import type {
  LoraFactor,
  MergeUnit,
  StoredTensor,
  TensorPlace,
  UnitInput,
  UnitTensor,
} from "../../core/plan/schema.ts";
import { ENGINE_VERSION } from "../../core/version.ts";
import type { UnitSource } from "./context.ts";

/**
 * Content key of a merge unit: digest of the engine's version, the operation, its parameters and the digests of the
 * input tensors, and what rounds have decided of the whole model. Names of files, models and runs are left out, so that
 * the same bytes are found again under any name; only random methods, which draw by the model's name, take it in. A
 * foreign input is known by its folder's fingerprint and its place in it.
 * Throws YardSourceChanged when a source does not have a tensor that the plan saw in it.
 */
export function mergeKey(
  unit: MergeUnit,
  sources: readonly (UnitSource | undefined)[],
  state?: ModelState | undefined,
): string {
  return digestJson({
    engine: ENGINE_VERSION,
    operation: "merge",
    nonFinite: unit.nonFinite,
    strict: unit.strict,
    // Asked for, they must be there; not asked for, they change nothing.
    statistics: unit.statistics || undefined,
    derived:
      unit.derived.length === 0
        ? undefined
        : unit.derived.map(({ header, tensors, ...file }) => ({
            header: digestBytes(header),
            tensors,
            imatrix: file.format === "gguf" ? file.imatrix?.digest : undefined,
            hessians: file.format === "safetensors" ? file.hessians?.fingerprint : undefined,
          })),
    // All that other tensors of the model do to these.
    state: describeState(state),
    tensors: unit.tensors.map((tensor) => describeTensor(tensor, sources)),
  });
}

/** A state as content: every number, those that JSON cannot hold included. */
export function describeState(state: ModelState | undefined): unknown {
  return state && Object.fromEntries(Object.entries(state).map(([name, list]) => [name, list.map(String)]));
}

/** A tensor by what its values depend on. */
export function describeTensor(tensor: UnitTensor, sources: readonly (UnitSource | undefined)[]) {
  const seeded = findPlannedMethod(tensor.method)?.seeded === true;
  const { name, dtype, shape, offset, method, parameters, working } = tensor;
  const inputs = tensor.inputs.map((input) => describeInput(input, sources, seeded));
  const seed = seeded ? tensor.seed : undefined;
  return { name, dtype, shape, offset, method, parameters, working, seed, inputs };
}

function describeInput(input: UnitInput, sources: readonly (UnitSource | undefined)[], seeded: boolean) {
  const { cut, isBase, working, statistic, parameters } = input;
  const model = seeded ? (input.model ?? sources[input.source]?.planned.model) : undefined;
  const rows = input.rows && {
    ...input.rows,
    others: input.rows.others.map((other) => describeStored(other, sources)),
  };
  return { ...describeStored(input, sources), cut, rows, isBase, working, statistic, parameters, model };
}

/** A tensor of any source, with its adapter, by its content. */
function describeStored(tensor: StoredTensor, sources: readonly (UnitSource | undefined)[]) {
  const { dtype, shape, lora, packing } = tensor;
  const factor = (place: LoraFactor | undefined) =>
    place && { content: contentOf(place, sources), dtype: place.dtype, shape: place.shape, swapped: place.swapped };
  const update = lora && { ...lora, left: factor(lora.left), right: factor(lora.right) };
  return { content: contentOf(tensor, sources), dtype, shape, packing, lora: update };
}

function contentOf(input: TensorPlace, sources: readonly (UnitSource | undefined)[]): unknown {
  const source = sources[input.source];
  assert.ok(source !== undefined, `the plan has no source ${input.source}`);
  const { planned, resolved } = source;
  if (resolved.digests === undefined) return { fingerprint: planned.fingerprint, ranges: input.ranges };
  // Parts have digests of their own; together they are known by the checkpoint's and their places in it.
  if (input.packing?.parts !== undefined) return { fingerprint: planned.fingerprint, ranges: input.ranges };
  if (Object.hasOwn(resolved.digests, input.tensor)) return resolved.digests[input.tensor];
  throw new MergeyardError("YardSourceChanged", {
    where: { store: resolved.store, file: resolved.prefix, model: planned.model, tensor: input.tensor },
    found: "no such tensor",
  });
}
