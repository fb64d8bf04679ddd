// Planning bits: which scheme every matrix of a checkpoint gets in a GGUF file of a given size. What each scheme loses
// is measured on sampled rows; the choice is the exact optimum of an integer program. Writes nothing.
import assert from "node:assert/strict";
import { z } from "zod";
import { parseBudget } from "../../core/bit-plan/budget.ts";
import { type Choice, type ChoiceGroup, convexHull, priceBetween } from "../../core/bit-plan/choices.ts";
import { priceAt, traceFrontier } from "../../core/bit-plan/frontier.ts";
import {
  type SchemeError,
  SENSITIVITIES,
  SENSITIVITY_DEFAULT,
  type Sensitivity,
} from "../../core/bit-plan/sensitivity.ts";
import { type Solution, solveBitPlan } from "../../core/bit-plan/solve.ts";
import { MergeyardError } from "../../core/error.ts";
import { alignUp, GGUF_ALIGNMENT } from "../../core/formats/gguf/gguf.ts";
import { checkImportance, type Importance } from "../../core/formats/gguf/imatrix.ts";
import { type GgufModel, type GgufModelTensor, planGgufModel } from "../../core/formats/gguf/model.ts";
import { NO_TOKENIZER } from "../../core/formats/gguf/tokenizer.ts";
import { GGUF_TYPE_OF } from "../../core/formats/gguf/type-codes.ts";
import { encodeGgufHeader } from "../../core/formats/gguf/write.ts";
import { MIXES } from "../../core/schemes/mixes.ts";
import { BLOCK_SCHEME_IDS, BLOCK_SCHEMES, type BlockSchemeId } from "../../core/schemes/registry.ts";
import { rowBytes } from "../../core/schemes/scheme.ts";
import { elementCount } from "../../core/tensor.ts";
import type { MeasureSchemes } from "../../engine/measure-schemes.ts";
import { openCheckpoint, openCheckpointFile } from "../open-checkpoint.ts";
import { openImatrix } from "../open-imatrix.ts";
import { defineStep, type StepDeps } from "../step.ts";
import { checkReadable } from "./quantize.ts";

export type PlanBitsDeps = StepDeps & { readonly measureSchemes: MeasureSchemes };

/** What a server is likely to run well; ternary and one-bit schemes only when they are named. */
const CANDIDATES_DEFAULT: readonly BlockSchemeId[] = BLOCK_SCHEME_IDS.filter(
  (id) => !["f32", "bf16", "tq1_0", "tq2_0", "q1_0"].includes(id),
);

const count = z.int().nonnegative();

export const planBitsStep = defineStep({
  name: "plan-bits",
  input: z.strictObject({
    source: z.string().min(1),
    sourceFile: z.string().optional(),
    /** "4.5bpw" or "4.2GB". */
    budget: z.string().min(1),
    candidates: z
      .array(z.enum(BLOCK_SCHEME_IDS))
      .min(1)
      .default([...CANDIDATES_DEFAULT]),
    /** What is added up and made least; the default is `importance` where there is a matrix, else `squared`. */
    sensitivity: z.enum([...SENSITIVITIES.keys()]).optional(),
    imatrix: z.strictObject({ store: z.string().min(1), key: z.string().min(1) }).optional(),
  }),
  output: z.strictObject({
    budget: z.string(),
    sensitivity: z.string(),
    /** Bytes of all tensors as the plan has them, and bits a weight. */
    bytes: count,
    bits: z.number(),
    loss: z.number(),
    isOptimal: z.boolean(),
    /** Loss that one more byte of budget would save: the budget's shadow price. */
    price: z.number(),
    tensors: z.array(
      z.strictObject({
        tensor: z.string(),
        scheme: z.string(),
        elements: count,
        bytes: count,
        relativeError: z.number(),
        marginalLoss: z.number().nullable(),
      }),
    ),
    /** Best loss by size, over all budgets. */
    frontier: z.array(z.strictObject({ bytes: count, loss: z.number() })),
  }),
  /**
   * Throws BitPlanInvalid: a budget that cannot be read or met, a matrix that no candidate fits, a sensitivity without
   * its importance matrix; and the codes of `quantize`.
   */
  async run(input, deps: PlanBitsDeps) {
    const { model, importance } = await openModel(input, deps);
    const sensitivity = chooseSensitivity(input.sensitivity, importance.size > 0);
    const matrices = model.tensors.filter(({ place }) => place !== undefined);
    const candidates = matrices.map((tensor) => fittingSchemes(tensor, input.candidates));
    const measured = matrices.map((tensor, index) => ({
      source: tensor.source,
      candidates: candidates[index] ?? [],
      importance: importance.get(tensor.name),
    }));
    const errors = await deps.measureSchemes(
      { source: input.source, tensors: measured },
      { signal: deps.signal, progress: (bytesRead) => deps.progress?.({ bytesRead, bytesWritten: 0 }) },
    );
    const groups = matrices.map((tensor, index) =>
      weighChoices(tensor, candidates[index] ?? [], errors[index] ?? [], sensitivity),
    );
    const elements = model.tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0);
    const vectors = model.tensors.filter(({ place }) => place === undefined);
    const keptBytes = vectors.reduce((sum, tensor) => sum + storedBytes(tensor, "f32"), 0);
    const budget = parseBudget(input.budget, elements);
    const room = budget.bytes - keptBytes - (budget.of === "bits" ? 0 : headerBytes(model));
    const solution = solveBitPlan(groups, room) ?? refuseBudget(input.budget, groups, elements, keptBytes);
    const frontier = traceFrontier(groups);
    return {
      budget: input.budget,
      sensitivity: sensitivity.id,
      bytes: solution.bytes + keptBytes,
      bits: (8 * (solution.bytes + keptBytes)) / elements,
      loss: solution.loss,
      isOptimal: solution.isOptimal,
      price: priceAt(frontier, room),
      tensors: describeChoices(matrices, groups, errors, solution),
      frontier: frontier.map(({ bytes, loss }) => ({ bytes: bytes + keptBytes, loss })),
    };
  },
});

type Opened = {
  readonly source: string;
  readonly sourceFile?: string | undefined;
  readonly imatrix?: { readonly store: string; readonly key: string } | undefined;
};

/** The model's tensors as GGUF names and orders them; their schemes here are of no account. */
async function openModel({ source: uri, sourceFile, imatrix }: Opened, deps: StepDeps) {
  const source = deps.openStore(uri);
  const opened = await (sourceFile === undefined
    ? openCheckpoint(source, "", deps.signal)
    : openCheckpointFile(source, sourceFile, deps.signal));
  const importance: Importance = imatrix === undefined ? new Map() : (await openImatrix(imatrix, deps)).importance;
  const mix = MIXES.get("f16");
  assert.ok(mix !== undefined, "the mixes hold f16");
  const model = planGgufModel(opened.checkpoint, mix, NO_TOKENIZER, importance.size > 0);
  if (imatrix !== undefined) checkImportance(model.tensors, importance);
  for (const { source: entry } of model.tensors) checkReadable(entry);
  return { model, importance };
}

function chooseSensitivity(id: string | undefined, hasImportance: boolean): Sensitivity {
  const chosen = SENSITIVITIES.get(id ?? (hasImportance ? "importance" : SENSITIVITY_DEFAULT));
  assert.ok(chosen !== undefined, "the schema lets only known sensitivities through");
  if (hasImportance || !chosen.needsImportance) return chosen;
  const hint = "name an importance matrix with --imatrix, or another sensitivity";
  throw new MergeyardError("BitPlanInvalid", { where: { field: "sensitivity" }, found: chosen.id, hint });
}

function fittingSchemes({ name, shape }: GgufModelTensor, wanted: readonly BlockSchemeId[]): readonly BlockSchemeId[] {
  const columns = shape.at(-1) ?? 1;
  const fitting = wanted.filter((id) => columns % BLOCK_SCHEMES[id].blockElements === 0);
  if (fitting.length > 0) return fitting;
  const found = `rows of ${columns}, which no candidate's blocks fill`;
  throw new MergeyardError("BitPlanInvalid", { where: { tensor: name }, found, expected: wanted.join(", ") });
}

/** With the zeros up to the next tensor. */
function storedBytes({ shape }: Pick<GgufModelTensor, "shape">, scheme: BlockSchemeId): number {
  const columns = shape.at(-1) ?? 1;
  const bytes = (elementCount(shape) / columns) * rowBytes(BLOCK_SCHEMES[scheme], columns);
  return alignUp(bytes, GGUF_ALIGNMENT);
}

/** Of the file, whatever the schemes: a type is a number of 4 bytes. Without a tokenizer. */
function headerBytes({ metadata, tensors }: GgufModel): number {
  const listed = tensors.map(({ name, shape, scheme }) => ({ name, shape, type: GGUF_TYPE_OF.get(scheme) }));
  const typed = listed.flatMap(({ type, ...tensor }) => (type === undefined ? [] : [{ ...tensor, type }]));
  return encodeGgufHeader(metadata, typed).header.length;
}

function weighChoices(
  tensor: GgufModelTensor,
  candidates: readonly BlockSchemeId[],
  errors: readonly SchemeError[],
  sensitivity: Sensitivity,
): ChoiceGroup {
  const { place, name, shape } = tensor;
  assert.ok(place !== undefined, "only matrices are planned");
  const choices = candidates.map((scheme, index): Choice => {
    const error = errors[index];
    assert.ok(error !== undefined, "every candidate was measured");
    const loss = sensitivity.loss(error, { ...place, elements: elementCount(shape) });
    return { scheme, bytes: storedBytes(tensor, scheme), loss };
  });
  return { tensors: [name], choices };
}

function refuseBudget(budget: string, groups: readonly ChoiceGroup[], elements: number, keptBytes: number): never {
  const least = groups.reduce((sum, { choices }) => sum + Math.min(...choices.map(({ bytes }) => bytes)), keptBytes);
  const bits = ((8 * least) / elements).toFixed(2);
  const expected = `at least ${bits} bits a weight (${least} bytes) with these candidates`;
  throw new MergeyardError("BitPlanInvalid", { where: { field: "budget" }, found: budget, expected });
}

function describeChoices(
  matrices: readonly GgufModelTensor[],
  groups: readonly ChoiceGroup[],
  errors: readonly (readonly SchemeError[])[],
  solution: Solution,
) {
  return matrices.map(({ name, shape }, index) => {
    const chosen = solution.choices[index];
    assert.ok(chosen !== undefined, "every matrix has a choice");
    const choices = groups[index]?.choices ?? [];
    const error = errors[index]?.[choices.indexOf(chosen)];
    const larger = convexHull(choices).find(({ bytes }) => bytes > chosen.bytes);
    return {
      tensor: name,
      scheme: chosen.scheme,
      elements: elementCount(shape),
      bytes: chosen.bytes,
      relativeError: error === undefined || error.noise === 0 ? 0 : error.noise / error.signal,
      marginalLoss: larger === undefined ? null : priceBetween(chosen, larger),
    };
  });
}
