// Planning bits: which scheme every matrix of a checkpoint gets in a GGUF file or a compressed-tensors folder of a
// given size. What each scheme loses is measured on sampled rows; the choice is the exact optimum of an integer
// program. Writes nothing.
import assert from "node:assert/strict";
import * as z from "zod";
import { type Budget, parseBudget } from "../../core/bit-plan/budget.ts";
import { type Choice, type ChoiceGroup, convexHull, priceBetween, undominated } from "../../core/bit-plan/choices.ts";
import { planFolderBits } from "../../core/bit-plan/folder.ts";
import { priceAt, traceFrontier } from "../../core/bit-plan/frontier.ts";
import { planGgufBits } from "../../core/bit-plan/gguf.ts";
import type { PlannableGroup, PlannableModel } from "../../core/bit-plan/plannable.ts";
import {
  type SchemeError,
  SENSITIVITIES,
  SENSITIVITY_DEFAULT,
  type Sensitivity,
} from "../../core/bit-plan/sensitivity.ts";
import { type Solution, solveBitPlan } from "../../core/bit-plan/solve.ts";
import { MergeyardError } from "../../core/error.ts";
import { NO_TOKENIZER } from "../../core/formats/gguf/tokenizer.ts";
import { describeTokenizerFiles, GGUF_TOKENIZER_FILES } from "../../core/formats/gguf/tokenizer-files.ts";
import { SHARD_BYTES_DEFAULT } from "../../core/plan/defaults.ts";
import { count, storedFile, uri } from "../../core/schema-atoms.ts";
import type { MeasuredErrors, MeasureSchemes } from "../../engine/measure-schemes.ts";
import { openPlace } from "../open-checkpoint.ts";
import { openImatrix } from "../open-imatrix.ts";
import { readDocuments } from "../read-documents.ts";
import { defineStep, type StepDeps } from "../step.ts";
import { checkReadable } from "./quantize.ts";

export type PlanBitsDeps = StepDeps & { readonly measureSchemes: MeasureSchemes };

const inputSchema = z.strictObject({
  source: uri,
  sourceFile: z.string().optional(),
  format: z.enum(["gguf", "compressed-tensors"]).default("gguf"),
  /** "4.5bpw" or "4.2GB". */
  budget: z.string().min(1),
  /** Ids of the format's schemes; those that servers run well unless said otherwise. */
  candidates: z.array(z.string()).min(1).optional(),
  /** What is added up and made least; the default is `importance` where there is a matrix, else `squared`. */
  sensitivity: z.enum([...SENSITIVITIES.keys()]).optional(),
  imatrix: storedFile.optional(),
  /** False: the GGUF file will have none. */
  tokenizer: z.boolean().default(true),
  /** Modules that a folder leaves as they are: paths, or `re:` and an expression. */
  ignore: z.array(z.string()).default([]),
  shardBytes: z.int().positive().default(SHARD_BYTES_DEFAULT),
});

export const planBitsStep = defineStep({
  name: "plan-bits",
  input: inputSchema,
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
        /** For each byte of its group, where several have one scheme. */
        marginalLoss: z.number().nullable(),
      }),
    ),
    /** Best loss by size, over all budgets. */
    frontier: z.array(z.strictObject({ bytes: count, loss: z.number() })),
  }),
  /**
   * Throws BitPlanInvalid: a budget that cannot be read or met, a matrix that no candidate fits, a sensitivity without
   * its importance matrix; and the codes of `quantize` and `quantize-folder`.
   */
  async run(input, deps: PlanBitsDeps) {
    const model = await openModel(input, deps);
    const sensitivity = chooseSensitivity(input.sensitivity, input.imatrix !== undefined);
    const measured = model.groups.flatMap(({ matrices, candidates }) =>
      matrices.map(({ source, importance }) => ({ source, candidates, importance })),
    );
    const errors = await deps.measureSchemes(
      { source: input.source, tensors: measured },
      { signal: deps.signal, progress: (bytesRead) => deps.progress?.({ bytesRead, bytesWritten: 0 }) },
    );
    const groups = weighGroups(model, errors, sensitivity);
    const { elements, keptBytes } = model;
    const budget = parseBudget(input.budget, elements);
    const { solution, room } = solveWithin(budget, model, groups) ?? refuseBudget(input.budget, budget, model, groups);
    const frontier = traceFrontier(groups.map(({ all }) => all));
    return {
      budget: input.budget,
      sensitivity: sensitivity.id,
      bytes: solution.bytes + keptBytes,
      bits: (8 * (solution.bytes + keptBytes)) / elements,
      loss: solution.loss,
      isOptimal: solution.isOptimal,
      price: priceAt(frontier, room),
      tensors: groups.flatMap((group, index) => describeGroup(model, group, solution.choices[index])),
      frontier: frontier.map(({ bytes, loss }) => ({ bytes: bytes + keptBytes, loss })),
    };
  },
});

type Input = z.output<typeof inputSchema>;

async function openModel(input: Input, deps: StepDeps): Promise<PlannableModel> {
  const { candidates: wanted, ignore: ignored, shardBytes: maxShardBytes } = input;
  const { signal } = deps;
  const store = deps.openStore(input.source);
  const opened = await openPlace({ store, prefix: "", file: input.sourceFile }, signal);
  const { checkpoint } = opened;
  const importance = input.imatrix && (await openImatrix(input.imatrix, deps)).importance;
  if (input.format === "compressed-tensors") {
    return planFolderBits(checkpoint, { ignored, importance, wanted, maxShardBytes });
  }
  const files = input.tokenizer ? GGUF_TOKENIZER_FILES : [];
  const documents = await readDocuments({ store, prefix: "" }, checkpoint, files, signal);
  const tokenizer = describeTokenizerFiles(documents, checkpoint.config) ?? NO_TOKENIZER;
  const model = planGgufBits(checkpoint, tokenizer, importance, wanted);
  for (const { source } of model.tensors) checkReadable(source);
  return model;
}

function chooseSensitivity(id: string | undefined, hasImportance: boolean): Sensitivity {
  const chosen = SENSITIVITIES.get(id ?? (hasImportance ? "importance" : SENSITIVITY_DEFAULT));
  assert.ok(chosen !== undefined, "the schema lets only known sensitivities through");
  if (hasImportance || !chosen.needsImportance) return chosen;
  const hint = "name an importance matrix with --imatrix, or another sensitivity";
  throw new MergeyardError("BitPlanInvalid", { where: { field: "sensitivity" }, found: chosen.id, hint });
}

/** A group with what each of its schemes would lose of each of its matrices, and of all of them together. */
type WeighedGroup = {
  readonly matrices: PlannableGroup["matrices"];
  /** By scheme and matrix. */
  readonly errors: ReadonlyMap<string, readonly SchemeError[]>;
  readonly all: ChoiceGroup;
};

function weighGroups(
  { groups, bytesOf }: PlannableModel,
  measured: MeasuredErrors,
  sensitivity: Sensitivity,
): readonly WeighedGroup[] {
  let next = 0;
  return groups.map(({ matrices, candidates, kept }) => {
    const own = measured.slice(next, next + matrices.length);
    next += matrices.length;
    const ofScheme = (index: number) => own.flatMap((errors) => errors[index] ?? []);
    const errors = new Map(candidates.map((scheme, index) => [scheme, ofScheme(index)]));
    const choices = [...errors].map(([scheme, each]): Choice => {
      assert.equal(each.length, matrices.length, "every candidate was measured");
      const loss = each.reduce((sum, error, index) => sum + lossOf(matrices[index], error, sensitivity), 0);
      return { scheme, bytes: matrices.reduce((sum, matrix) => sum + bytesOf(matrix, scheme), 0), loss };
    });
    if (kept !== undefined) {
      choices.push({ scheme: kept, bytes: matrices.reduce((sum, matrix) => sum + bytesOf(matrix, kept), 0), loss: 0 });
    }
    return { matrices, errors, all: { tensors: matrices.map(({ name }) => name), choices } };
  });
}

function lossOf(matrix: PlannableGroup["matrices"][number] | undefined, error: SchemeError, by: Sensitivity): number {
  assert.ok(matrix !== undefined, "errors are of matrices");
  return by.loss(error, matrix.place);
}

/** The best plan whose tensors, or whose files, are within the budget, and the bytes that it had for the groups. */
function solveWithin(
  budget: Budget,
  { keptBytes, overheadBytes }: PlannableModel,
  groups: readonly WeighedGroup[],
): { readonly solution: Solution; readonly room: number } | undefined {
  const choices = groups.map(({ all }) => all);
  for (let room = budget.bytes - keptBytes; ; ) {
    const solution = solveBitPlan(choices, room);
    if (solution === undefined || budget.of === "bits") return solution && { solution, room };
    // Files name their tensors, and how long that takes hangs on the plan: less room until all of it fits.
    const fileBytes = solution.bytes + keptBytes + overheadBytes(schemesOf(groups, solution));
    if (fileBytes <= budget.bytes) return { solution, room };
    room = solution.bytes - (fileBytes - budget.bytes);
  }
}

function schemesOf(groups: readonly WeighedGroup[], { choices }: Solution): ReadonlyMap<string, string> {
  const pairs = groups.flatMap(({ all }, index) =>
    all.tensors.map((name) => [name, choices[index]?.scheme ?? ""] as const),
  );
  return new Map(pairs);
}

function refuseBudget(
  found: string,
  budget: Budget,
  { elements, keptBytes, overheadBytes }: PlannableModel,
  groups: readonly WeighedGroup[],
): never {
  const smallest = solveBitPlan(groups.map(smallestOf), Number.MAX_SAFE_INTEGER);
  assert.ok(smallest !== undefined, "a plan of the smallest choices has its size");
  const overhead = budget.of === "bits" ? 0 : overheadBytes(schemesOf(groups, smallest));
  const least = smallest.bytes + keptBytes + overhead;
  const bits = ((8 * least) / elements).toFixed(2);
  const expected = `at least ${bits} bits a weight (${least} bytes) with these candidates`;
  const hint = `${keptBytes} bytes are of tensors that stay as they are`;
  throw new MergeyardError("BitPlanInvalid", { where: { field: "budget" }, found, expected, hint });
}

/** Only the smallest choice of a group. */
function smallestOf({ all }: WeighedGroup): ChoiceGroup {
  return { tensors: all.tensors, choices: undominated(all.choices).slice(0, 1) };
}

function describeGroup({ bytesOf }: PlannableModel, { matrices, errors, all }: WeighedGroup, chosen?: Choice) {
  assert.ok(chosen !== undefined, "every group has a choice");
  const larger = convexHull(all.choices).find(({ bytes }) => bytes > chosen.bytes);
  return matrices.map((matrix, index) => {
    const error = errors.get(chosen.scheme)?.[index];
    return {
      tensor: matrix.name,
      scheme: chosen.scheme,
      elements: matrix.place.elements,
      bytes: bytesOf(matrix, chosen.scheme),
      relativeError: error === undefined || error.noise === 0 ? 0 : error.noise / error.signal,
      marginalLoss: larger === undefined ? null : priceBetween(chosen, larger),
    };
  });
}
