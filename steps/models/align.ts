// Aligning a model with another of its build: its units are permuted so that they match the other's, which changes no
// output of the model and makes the two fit to be averaged. The result is a model folder like the one it came from.
import * as z from "zod";
import { derivePermutations, type PermutationSpec } from "../../core/align/permutation-spec.ts";
import { elementOffsets, matchWeights, type Permutations } from "../../core/align/weight-matching.ts";
import type { TensorEntry } from "../../core/checkpoint.ts";
import { MergeyardError } from "../../core/error.ts";
import { count, uri } from "../../core/schema-atoms.ts";
import { DTYPE_BITS, sameShape } from "../../core/tensor.ts";
import { defineStep } from "../step.ts";
import { writeFolderManifest } from "./folder-manifest.ts";
import {
  copySideFiles,
  openReadable,
  type ReadableModel,
  readTensorBytes,
  readValues,
  writeModel,
} from "./whole-tensors.ts";

export const alignStep = defineStep({
  name: "align",
  input: z.strictObject({
    /** URIs of the folders of the model that is permuted, of the one that it is aligned with, and of the result. */
    model: uri,
    reference: uri,
    target: uri,
    /** By tensor, the permutation of each axis; derived from the tensors' names unless given. */
    spec: z.record(z.string(), z.array(z.string().nullable())).optional(),
    maxIterations: z.int().positive().default(100),
    seed: count.default(0),
    /** Orders in which permutations are visited, by iteration; drawn from the seed unless given. */
    visits: z.array(z.array(count)).optional(),
  }),
  output: z.strictObject({
    target: z.string(),
    /** Short digest of the folder's manifest. */
    version: z.string(),
    tensors: count,
    bytes: count,
    permutations: count,
    iterations: count,
    /** Units in another place than before, and all units that a permutation covers. */
    moved: count,
    units: count,
  }),
  /**
   * Throws AlignModelUnknown, AlignSpecInvalid, PlanTensorMissing, PlanShapeMismatch, PlanDtypeNotMergeable,
   * EngineNonFinite, YardSourceChanged, the codes of opening a checkpoint, and what the stores throw.
   */
  async run(input, deps) {
    const { signal } = deps;
    const [model, reference] = [await openReadable(input.model, deps), await openReadable(input.reference, deps)];
    const target = deps.openStore(input.target);
    const { tensors } = model.opened.checkpoint;
    const spec = input.spec === undefined ? derivePermutations(tensors) : new Map(Object.entries(input.spec));
    const entries = pairTensors(spec, reference, model);
    const sizes = permutationSizes(spec, entries);
    const read = async (name: string) => {
      const { a, b } = pairOf(entries, name);
      const values = [await readValues(reference, a, signal), await readValues(model, b, signal)] as const;
      return [
        { shape: a.shape, values: values[0] },
        { shape: b.shape, values: values[1] },
      ] as const;
    };
    const { permutations, iterations } = await matchWeights(spec, sizes, read, input);
    const written = await writeModel(
      target,
      tensors.map((entry) => ({
        name: entry.name,
        dtype: entry.dtype,
        shape: entry.shape,
        bytes: async () => permuteBytes(await readTensorBytes(model, entry, signal), entry, spec, permutations),
      })),
      signal,
    );
    await copySideFiles(model, target, signal);
    const { seed, maxIterations, visits } = input;
    const settings = { seed, maxIterations, visits, spec: input.spec };
    const version = await writeFolderManifest(target, { step: "align", settings, inputs: [model, reference] }, signal);
    const all = [...permutations.values()];
    return {
      target: target.uri,
      version,
      tensors: tensors.length,
      bytes: written,
      permutations: permutations.size,
      iterations,
      moved: all.reduce((sum, own) => sum + own.filter((from, to) => from !== to).length, 0),
      units: all.reduce((sum, own) => sum + own.length, 0),
    };
  },
});

type Pair = { readonly a: TensorEntry; readonly b: TensorEntry };

function pairOf(entries: ReadonlyMap<string, Pair>, name: string): Pair {
  const pair = entries.get(name);
  if (pair === undefined) throw missing(name);
  return pair;
}

function missing(tensor: string, store?: string): MergeyardError {
  return new MergeyardError("PlanTensorMissing", { where: { store, tensor }, found: "no such tensor" });
}

/** Tensors of the spec in both models; of one shape. */
function pairTensors(spec: PermutationSpec, reference: ReadableModel, model: ReadableModel): ReadonlyMap<string, Pair> {
  const [inA, inB] = [reference, model].map(
    ({ opened }) => new Map(opened.checkpoint.tensors.map((entry) => [entry.name, entry])),
  );
  return new Map(
    [...spec.keys()].map((name) => {
      const [a, b] = [inA?.get(name), inB?.get(name)];
      if (a === undefined) throw missing(name, reference.store.uri);
      if (b === undefined) throw missing(name, model.store.uri);
      if (sameShape(a.shape, b.shape)) return [name, { a, b }];
      const [found, expected] = [b.shape, a.shape].map((shape) => `[${shape.join(", ")}]`);
      throw new MergeyardError("PlanShapeMismatch", { where: { tensor: name }, found, expected });
    }),
  );
}

/** Length of each permutation, which all its axes must have, in the order of first mention. */
function permutationSizes(spec: PermutationSpec, entries: ReadonlyMap<string, Pair>): ReadonlyMap<string, number> {
  const sizes = new Map<string, number>();
  for (const [tensor, axes] of spec) {
    const { shape } = pairOf(entries, tensor).b;
    const refuse = (found: string, expected: string): never => {
      throw new MergeyardError("AlignSpecInvalid", { where: { tensor }, found, expected });
    };
    if (axes.length !== shape.length) refuse(`${axes.length} axes`, `${shape.length} axes`);
    axes.forEach((name, axis) => {
      if (name === null) return;
      if (axes.indexOf(name) !== axis) refuse(`${name} on two axes`, "a permutation once in a tensor");
      const [own, known] = [shape[axis] ?? 0, sizes.get(name)];
      if (known !== undefined && known !== own) refuse(`${own} units of ${name}`, `${known}, as elsewhere`);
      sizes.set(name, own);
    });
  }
  return sizes;
}

/** The tensor's bytes with its axes permuted; values are moved, never changed. */
function permuteBytes(
  bytes: Uint8Array,
  { name, dtype, shape }: TensorEntry,
  spec: PermutationSpec,
  permutations: Permutations,
): Uint8Array {
  const axes = spec.get(name);
  if (axes === undefined || axes.every((axis) => axis === null)) return bytes;
  const own = axes.map((axis) => (axis === null ? undefined : permutations.get(axis)));
  // Blocks of everything behind the last permuted axis move as they are.
  const last = own.findLastIndex((permutation) => permutation !== undefined);
  const offsets = elementOffsets(
    shape.map((length, axis) => (axis <= last ? length : 1)),
    shape,
    own,
  );
  const block = shape.slice(last + 1).reduce((product, length) => product * length, DTYPE_BITS[dtype] / 8);
  const unit = DTYPE_BITS[dtype] / 8;
  const moved = new Uint8Array(bytes.length);
  offsets.forEach((offset, at) => {
    moved.set(bytes.subarray(offset * unit, offset * unit + block), at * block);
  });
  return moved;
}
