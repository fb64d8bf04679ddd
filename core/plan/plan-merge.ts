// The merge stage: from a recipe and the headers of its models to one unit per output file, each tensor with its inputs
// as byte ranges, and the files around the weights. Reads no weights and does no I/O.
import { MergeyardError } from "../error.ts";
import { planShards, planUnitShards } from "../formats/safetensors/shard-plan.ts";
import type { MergeMethod } from "../methods/method.ts";
import { moe_expert } from "../methods/moe_expert.ts";
import { moe_gates } from "../methods/moe_gates.ts";
import { findMethod, METHOD_IDS } from "../methods/registry.ts";
import { didYouMean, nearestName } from "../recipe/nearest.ts";
import type { Recipe } from "../recipe/normalise.ts";
import { fieldPlace } from "../recipe/origin.ts";
import { checkParameters, createResolver, findIdleFilters } from "../recipe/parameters.ts";
import type { RecipeSlice } from "../recipe/slices.ts";
import { readTokenizerJson } from "../tokenizer/tokenizer-json.ts";
import { compareNames } from "./architecture.ts";
import { MEMORY_BYTES_DEFAULT, SHARD_BYTES_DEFAULT } from "./defaults.ts";
import { groupTensors, planDerived } from "./derived-outputs.ts";
import type { MergeOptions, MergeTask } from "./merge-task.ts";
import { makeMergeUnits, type UnitNeed } from "./merge-units.ts";
import { describeModels, type ViewsByName } from "./model-view.ts";
import { planMoe } from "./moe.ts";
import { createNotes } from "./notes.ts";
import { listOutputs, type OutputTensor } from "./output-tensors.ts";
import { type PlannedTensor, planTensor } from "./plan-tensor.ts";
import { type MergeUnit, modelName, type PrepareUnit, type SideFile } from "./schema.ts";
import { planSideFiles } from "./side-files.ts";
import { createStatisticsPlan } from "./statistics.ts";
import { planVocabulary } from "./vocabulary.ts";
import { describePrepared, makePrepareUnits, planRounds, type RoundsPlan } from "./whole-model.ts";

export type MergePlan = {
  readonly method: MergeMethod;
  /** Rounds of a method that must know the whole model. */
  readonly whole: RoundsPlan | undefined;
  /** Units of the prepare stages before the merge's own, stage by stage; none for most methods. */
  readonly prepare: readonly (readonly PrepareUnit[])[];
  readonly units: readonly MergeUnit[];
  /** What every unit of both needs. */
  readonly needs: readonly UnitNeed[];
  /** Small files of the output; `source` counts in `models`. */
  readonly sideFiles: readonly SideFile[];
  readonly warnings: readonly string[];
};

/** Threads of a worker when nothing is said: what the smallest instances of both architectures have. */
const THREADS_DEFAULT = 2;

/**
 * Plans a merge.
 * Throws every Plan code but PlanMemoryExceeded and those of plan files, and the Recipe codes that need tensors or a
 * method to be found.
 */
export function planMerge({ name, text, models, inputs, ...task }: MergeTask, options: MergeOptions = {}): MergePlan {
  const method = methodOf(task.recipe, options.findMethod ?? findMethod);
  const notes = createNotes();
  for (const warning of [...task.recipe.warnings, ...checkParameters(task.recipe, method)]) notes.add(warning);
  for (const slice of task.recipe.slices) checkBase(task.recipe, slice, method);
  const views = describeModels(task.recipe, models, notes);
  const moe = planMoe(task.recipe, models, views, notes);
  const { recipe } = moe ?? task;
  const names = mergedModels(recipe);
  const merged: ViewsByName = new Map([...views].filter(([model]) => names.has(model)));
  const readTokenizer = options.readTokenizer ?? readTokenizerJson;
  const vocabulary = planVocabulary({ recipe, views, merged, readTokenizer, notes });
  const statistics = createStatisticsPlan(recipe, method, models);
  const outputs = moe === undefined ? listOutputs(recipe, merged, notes) : { tensors: moe.tensors, stacks: [] };
  const planning = {
    recipe,
    method,
    models: merged,
    donors: views,
    vocabulary,
    statistics,
    resolver: createResolver(recipe, method),
    notes,
  };
  const planned = outputs.tensors.flatMap((tensor) => planTensor(tensor, planning) ?? []);
  const tensors = moe === undefined ? planned : sortTensors([...planned, ...moe.made]);
  if (tensors.length === 0) {
    throw new MergeyardError("PlanNothingToMerge", { where: fieldPlace(recipe.origin, []), found: "no tensors" });
  }
  statistics.checkUsed();
  for (const warning of findIdleFilters(recipe, namesOf(outputs.tensors))) notes.add(warning);
  const maxShardBytes = options.shardBytes ?? SHARD_BYTES_DEFAULT;
  const groups = groupTensors(tensors, options.outputs);
  const { shards, index } = groups ? planUnitShards(groups, maxShardBytes) : planShards(tensors, maxShardBytes);
  const wantsIndex = options.outputs?.checkpoint !== false;
  const output = { tensors, stacks: outputs.stacks, index: wantsIndex ? index : undefined, vocabulary };
  // Experts give their weights; config, templates and heads are the base's.
  const parents = moe === undefined ? merged : new Map([...merged].filter(([model]) => model === recipe.base));
  const about = { name, recipe, text, method, models, views, merged: parents, config: moe?.config, inputs, notes };
  const ownFiles = planSideFiles({ ...about, ...output });
  const { imatrices = new Map(), hessians = new Map() } = options;
  const outputParts = { name, shards, sideFiles: ownFiles, models, imatrices, hessians, notes };
  const { derived, sideFiles } = planDerived(outputParts, options.outputs);
  const first = options.stage ?? 0;
  const sources = models.map(({ source }) => source);
  const whole = planRounds(tensors, method, recipe, (input) => modelName(input, sources));
  const unitOptions = {
    recipe,
    method,
    stage: first + (whole?.rounds.length ?? 0),
    machine: {
      threads: options.threads ?? THREADS_DEFAULT,
      memoryBytes: options.memoryBytes ?? MEMORY_BYTES_DEFAULT,
      isRemote: options.isRemote ?? false,
    },
    statistics: options.statistics ?? false,
    prepared: whole && describePrepared(whole, first),
  };
  const fitted = makeMergeUnits(tensors, shards, derived, unitOptions);
  const units = fitted.map(({ unit }) => unit);
  const prepared = whole === undefined ? [] : makePrepareUnits(units, whole, first, unitOptions);
  const prepare = prepared.map((stage) => stage.map(({ unit }) => unit));
  const needs = [...fitted, ...prepared.flat()].map(({ need }) => need);
  // What there is to say of the base of a mixture is said of the experts' own document.
  const warnings = recipe.moe?.gates?.isStage === true ? [] : notes.list();
  return { method, whole, prepare, units, needs, sideFiles, warnings };
}

/** Models whose weights are merged; others only give tokens. */
function mergedModels({ slices, base }: Recipe): ReadonlySet<string> {
  const models = slices.flatMap(({ sources }) => sources.map(({ model }) => model));
  return new Set(base === undefined ? models : [...models, base]);
}

function methodOf(recipe: Recipe, find: (id: string) => MergeMethod | undefined): MergeMethod {
  const { moe } = recipe;
  if (moe === undefined) return lookUp(recipe, find);
  return moe.gates?.isStage === true ? moe_gates : moe_expert;
}

function lookUp(recipe: Recipe, find: (id: string) => MergeMethod | undefined): MergeMethod {
  const method = find(recipe.method);
  if (method !== undefined) return method;
  const nearest = nearestName(recipe.method, METHOD_IDS);
  throw new MergeyardError("RecipeMethodUnknown", {
    where: fieldPlace(recipe.origin, ["merge_method"]),
    found: recipe.method,
    expected: METHOD_IDS.join(", "),
    hint: didYouMean(nearest),
  });
}

/** A base that is subtracted or interpolated from must be one of the slice's models. */
function checkBase(recipe: Recipe, slice: RecipeSlice, method: MergeMethod): void {
  if (method.base === "none" || method.base === "optional") return;
  if (slice.sources.some(({ model }) => model === slice.base)) return;
  throw new MergeyardError("RecipeBaseMissing", {
    where: { ...fieldPlace(recipe.origin, slice.field), model: slice.base },
    found: slice.base === undefined ? "no base_model" : "a base that the slice does not list",
    expected: slice.base === undefined ? `base_model for ${method.id}` : `${slice.base} among the sources`,
  });
}

function sortTensors(tensors: readonly PlannedTensor[]): readonly PlannedTensor[] {
  return tensors.toSorted((a, b) => compareNames(a.name, b.name));
}

function namesOf(tensors: readonly OutputTensor[]): ReadonlySet<string> {
  return new Set(tensors.flatMap(({ name, inputs }) => [name, ...inputs.map((input) => input.name)]));
}
