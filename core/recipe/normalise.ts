// From the forms that recipes are written in to the one form that is planned. Needs no checkpoint; the parts that have
// a form of their own are in slices.ts, tokenizer.ts and documents.ts.
// Source: mergekit's configuration normalisation, reference section 5.6.
import { type ErrorPlace, MergeyardError } from "../error.ts";
import { moe_expert } from "../methods/moe_expert.ts";
import { type FloatDtype, floatDtypeNamed } from "../ops/cast.ts";
import { type ChatTemplateRecipe, normaliseChatTemplate } from "./chat-template.ts";
import type { ParsedDocument } from "./documents.ts";
import { type MoeRecipe, normaliseMoe } from "./moe.ts";
import { fieldPlace, type RecipeOrigin } from "./origin.ts";
import type { ParsedRecipe } from "./parse.ts";
import { listReferences } from "./references.ts";
import type { MergeConfig, ModelReference, MoeConfig } from "./schema.ts";
import { normaliseModules, type RecipeModule, type RecipeSlice } from "./slices.ts";
import { refuseMerge } from "./supported.ts";
import { normaliseTokenizer, type TokenizerRecipe } from "./tokenizer.ts";

/** A document whose result later ones use: they name it where they would name a model. */
export type RecipeStage = { readonly name: string; readonly recipe: Recipe };

/** A recipe in the form that is planned. */
export type Recipe = {
  /** Merged before this one, each before those that use it. */
  readonly stages: readonly RecipeStage[];
  readonly method: string;
  /** The parts of the model that have slices of their own; one for all of it, unless the recipe names modules. */
  readonly modules: readonly RecipeModule[];
  /** Slices of all modules. */
  readonly slices: readonly RecipeSlice[];
  /** Of a mixture of experts: the base's and the experts' slices are those of `slices`. */
  readonly moe: MoeRecipe | undefined;
  /** True when any module names layers. */
  readonly restacks: boolean;
  readonly base: string | undefined;
  /**
   * Every model once, in the order of first mention: those that are merged, the base last unless it is listed, then
   * those that only give tokens.
   */
  readonly references: readonly ModelReference[];
  /** What the references are made of, each once, in order: models without adapters, and adapters; then statistics. */
  readonly sources: readonly string[];
  /** Dtype of every merged tensor; undefined: that of the base's (else the first model's) tensor. */
  readonly outputDtype: FloatDtype | undefined;
  /** The recipe's `dtype`, which mergekit computes in; only `strict` does. Undefined: the dtype of the base's file. */
  readonly workingDtype: FloatDtype | undefined;
  /** The recipe's `out_dtype` alone, which mergekit casts results to; only `strict` asks. */
  readonly castDtype: FloatDtype | undefined;
  readonly allowUnlisted: "copy" | "drop" | undefined;
  readonly onMismatch: "error" | "skip";
  readonly nonFinite: "error" | "propagate";
  readonly strict: boolean;
  readonly seed: number;
  /** Undefined: the base's chat template is kept. */
  readonly chatTemplate: ChatTemplateRecipe | undefined;
  /** Undefined: the base's tokenizer is kept, and embeddings are merged row by row. */
  readonly tokenizer: TokenizerRecipe | undefined;
  /** The model whose config is the output's although the parents' configs differ; undefined: they must agree. */
  readonly configSource: string | undefined;
  readonly origin: RecipeOrigin;
  readonly warnings: readonly string[];
};

/**
 * The recipe in the form that is planned. Throws RecipeNotSupported, RecipeFieldInvalid (not exactly one of models,
 * slices, modules; an empty layer range), RecipeModelRepeated, RecipeLayerRangesUnequal.
 */
export function normaliseRecipe(parsed: ParsedRecipe): Recipe {
  const stages = parsed.stages.flatMap((stage) => {
    const recipe = normaliseDocument(stage, []);
    return [...gatesBefore(recipe), { name: stage.name, recipe }];
  });
  const output = normaliseDocument(parsed, stages);
  return { ...output, stages: [...stages, ...gatesBefore(output)] };
}

/** The stage that runs the base of a mixture of experts, where its gates come from hidden states. */
function gatesBefore(recipe: Recipe): readonly RecipeStage[] {
  const { moe } = recipe;
  if (moe?.gates === undefined) return [];
  const { source } = moe.gates;
  const slices = [moe.base];
  const references = recipe.references.filter(({ model }) => model === recipe.base);
  const own = { ...recipe, stages: [], slices, modules: recipe.modules.map((module) => ({ ...module, slices })) };
  const gates = { source, isStage: true };
  const sources = partsOf(references);
  return [{ name: source, recipe: { ...own, references, sources, warnings: [], moe: { ...moe, gates } } }];
}

/** Everything that has to be found somewhere, each once: models and adapters that no document of the recipe makes. */
export function listSources(recipe: Recipe): readonly string[] {
  const made = new Set(recipe.stages.map(({ name }) => name));
  const all = [...recipe.stages.map((stage) => stage.recipe), recipe].flatMap(({ sources }) => sources);
  return [...new Set(all)].filter((source) => !made.has(source));
}

/** Where a recipe first names a source of `listSources`; empty for one that it does not name. */
export function placeOfSource({ stages, merge, origin }: ParsedRecipe, source: string): ErrorPlace {
  for (const document of [...stages, { merge, origin }]) {
    const places = listReferences(document.merge);
    const named = places.find(({ reference }) => reference.base === source || reference.adapter === source);
    if (named !== undefined) return fieldPlace(document.origin, named.path);
  }
  return {};
}

function normaliseDocument(
  { merge, origin, warnings }: Pick<ParsedDocument, "merge" | "origin" | "warnings">,
  stages: readonly RecipeStage[],
): Recipe {
  refuseMerge(merge, origin);
  if ("experts" in merge) return normaliseExperts(merge, { origin, warnings, stages });
  const modules = normaliseModules(merge, origin);
  const slices = modules.flatMap((module) => module.slices);
  const base = merge.base_model?.model;
  const dtype = merge.out_dtype ?? merge.dtype;
  const references = namedModels(merge, slices);
  return {
    stages,
    method: merge.merge_method,
    modules,
    slices,
    moe: undefined,
    restacks: modules.some(({ restacks }) => restacks),
    base,
    references,
    sources: [...new Set([...partsOf(references), ...namedStatistics(merge, origin)])],
    outputDtype: floatDtypeNamed(dtype),
    workingDtype: floatDtypeNamed(merge.dtype),
    castDtype: floatDtypeNamed(merge.out_dtype),
    allowUnlisted: merge.allow_unlisted ?? undefined,
    onMismatch: merge.on_mismatch,
    nonFinite: merge.non_finite,
    strict: merge.mergekit_compat === "strict",
    seed: merge.random_seed,
    chatTemplate: normaliseChatTemplate(merge, origin),
    tokenizer: normaliseTokenizer(merge, origin),
    configSource: configSourceOf(merge, references, origin),
    origin,
    warnings: [...warnings, ...residualWarnings(merge)],
  };
}

/** A mixture of experts; what its grammar does not have is as a merge has it without. */
function normaliseExperts(
  merge: MoeConfig,
  { origin, warnings, stages }: Pick<Recipe, "origin" | "warnings" | "stages">,
): Recipe {
  const moe = normaliseMoe(merge, origin);
  const slices = [moe.base, ...[...moe.experts, ...moe.shared].map(({ slice }) => slice)];
  const references = namedModels(merge, slices);
  const dtype = floatDtypeNamed(merge.dtype);
  return {
    stages,
    method: moe_expert.id,
    modules: [{ name: undefined, restacks: false, slices, field: [] }],
    slices,
    moe,
    restacks: false,
    base: merge.base_model.model,
    references,
    sources: [...new Set([...partsOf(references), ...(moe.gates === undefined ? [] : [moe.gates.source])])],
    outputDtype: dtype,
    workingDtype: dtype,
    castDtype: undefined,
    allowUnlisted: undefined,
    onMismatch: "error",
    nonFinite: merge.non_finite,
    strict: false,
    seed: merge.random_seed,
    chatTemplate: undefined,
    tokenizer: undefined,
    configSource: undefined,
    origin,
    warnings: [...warnings, ...moe.warnings],
  };
}

function partsOf(references: readonly ModelReference[]): readonly string[] {
  return references.flatMap(({ base, adapter }) => (adapter === undefined ? [base] : [base, adapter]));
}

/** Bases of slices count where a slice lists them. */
function namedModels(merge: MergeConfig | MoeConfig, slices: readonly RecipeSlice[]): readonly ModelReference[] {
  const used = new Set(slices.flatMap(({ sources }) => sources.map(({ model }) => model)));
  if (merge.base_model != null) used.add(merge.base_model.model);
  const first = new Map<string, ModelReference>();
  for (const { reference, role } of listReferences(merge)) {
    const counts = role === "token" || (role !== "config" && role !== "statistics" && used.has(reference.model));
    if (counts && !first.has(reference.model)) first.set(reference.model, reference);
  }
  return [...first.values()];
}

/** Statistics belong to no model of their own: nothing can be merged into them. */
function namedStatistics(merge: MergeConfig, origin: RecipeOrigin): readonly string[] {
  const named = listReferences(merge).filter(({ role }) => role === "statistics");
  const adapted = named.find(({ reference }) => reference.adapter !== undefined);
  if (adapted === undefined) return named.map(({ reference }) => reference.base);
  throw new MergeyardError("RecipeFieldInvalid", {
    where: fieldPlace(origin, adapted.path),
    found: adapted.reference.model,
    expected: "a folder or file of statistics, without an adapter",
  });
}

function configSourceOf(
  merge: MergeConfig,
  references: readonly ModelReference[],
  origin: RecipeOrigin,
): string | undefined {
  const source = merge.config_source;
  if (source == null) return undefined;
  const model = source === "base" ? (merge.base_model?.model ?? references[0]?.model) : source.model;
  if (references.some((reference) => reference.model === model)) return model;
  throw new MergeyardError("RecipeFieldInvalid", {
    where: fieldPlace(origin, ["config_source"]),
    found: model,
    expected: `base, or one of ${references.map((reference) => reference.model).join(", ")}`,
  });
}

function residualWarnings(merge: MergeConfig): readonly string[] {
  const slices = [merge, ...Object.values(merge.modules ?? {})].flatMap((part) => part.slices ?? []);
  const used = slices.some((slice) => slice.residual_weight != null);
  return used ? ["residual_weight has no effect, in mergekit neither"] : [];
}
