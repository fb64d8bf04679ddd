// From the forms that recipes are written in to the one form that is planned: a list of slices, each with its sources
// in order, their layers, and the settings that apply, nearest level first. Needs no checkpoint.
// Source: mergekit's configuration normalisation, reference sections 2.2, 5.5, 5.6.
import { MergeyardError } from "../error.ts";
import type { FloatDtype } from "../ops/cast.ts";
import type { ParsedDocument } from "./documents.ts";
import { type FieldPath, fieldPlace, type RecipeOrigin } from "./origin.ts";
import type { ParsedRecipe } from "./parse.ts";
import { listReferences } from "./references.ts";
import type { MergeConfig, ModelReference } from "./schema.ts";
import type { Settings } from "./setting.ts";
import { refuseMerge, refuseOutputs } from "./supported.ts";
import { normaliseTokenizer, type TokenizerRecipe } from "./tokenizer.ts";

/** One level of parameter settings, and where the recipe writes it. */
export type SettingsLevel = { readonly settings: Settings; readonly field: FieldPath };

export type LayerRange = { readonly from: number; readonly count: number };

/** A model's part in a slice. */
export type RecipeSource = {
  readonly model: string;
  /** Undefined: all layers of the model. */
  readonly layers: LayerRange | undefined;
  /** The model's own settings: they win over every other level. */
  readonly level: SettingsLevel;
  readonly field: FieldPath;
};

export type RecipeSlice = {
  /** In recipe order; a base that the `models` form does not list comes last. */
  readonly sources: readonly RecipeSource[];
  readonly base: string | undefined;
  /** Levels below the models' own, nearest first. */
  readonly levels: readonly SettingsLevel[];
  readonly field: FieldPath;
};

/** A document whose result later ones use: they name it where they would name a model. */
export type RecipeStage = { readonly name: string; readonly recipe: Recipe };

/** A recipe in the form that is planned. */
export type Recipe = {
  /** Merged before this one, each before those that use it. */
  readonly stages: readonly RecipeStage[];
  readonly method: string;
  /** True when the recipe names layers (`slices`): output layers are then numbered anew. */
  readonly restacks: boolean;
  readonly slices: readonly RecipeSlice[];
  readonly base: string | undefined;
  /**
   * Every model once, in the order of first mention: those that are merged, the base last unless it is listed, then
   * those that only give tokens.
   */
  readonly references: readonly ModelReference[];
  /** What the references are made of, each once, in their order: models without adapters, and adapters. */
  readonly sources: readonly string[];
  /** Dtype of every merged tensor; undefined: that of the base's (else the first model's) tensor. */
  readonly outputDtype: FloatDtype | undefined;
  /** The recipe's `dtype`, which mergekit computes in; only `strict` does. Undefined: the dtype of the base's file. */
  readonly workingDtype: FloatDtype | undefined;
  readonly allowUnlisted: "copy" | "drop" | undefined;
  readonly onMismatch: "error" | "skip";
  readonly nonFinite: "error" | "propagate";
  readonly strict: boolean;
  readonly seed: number;
  /** Undefined: the base's tokenizer is kept, and embeddings are merged row by row. */
  readonly tokenizer: TokenizerRecipe | undefined;
  /** The model whose config is the output's although the parents' configs differ; undefined: they must agree. */
  readonly configSource: string | undefined;
  readonly origin: RecipeOrigin;
  readonly warnings: readonly string[];
};

const DTYPES: Readonly<Record<string, FloatDtype>> = { float32: "F32", float16: "F16", bfloat16: "BF16" };

/**
 * The recipe in the form that is planned. Throws RecipeNotSupported, RecipeFieldInvalid (not exactly one of models,
 * slices, modules; an empty layer range), RecipeModelRepeated, RecipeLayerRangesUnequal.
 */
export function normaliseRecipe(parsed: ParsedRecipe): Recipe {
  refuseOutputs(parsed);
  const stages = parsed.stages.map((stage) => ({ name: stage.name, recipe: normaliseDocument(stage, []) }));
  return normaliseDocument(parsed, stages);
}

/** Everything that has to be found somewhere, each once: models and adapters that no document of the recipe makes. */
export function listSources(recipe: Recipe): readonly string[] {
  const made = new Set(recipe.stages.map(({ name }) => name));
  const all = [...recipe.stages.map((stage) => stage.recipe), recipe].flatMap(({ sources }) => sources);
  return [...new Set(all)].filter((source) => !made.has(source));
}

function normaliseDocument(
  { merge, origin, warnings }: Pick<ParsedDocument, "merge" | "origin" | "warnings">,
  stages: readonly RecipeStage[],
): Recipe {
  checkForm(merge, origin);
  refuseMerge(merge, origin);
  const strict = merge.mergekit_compat === "strict";
  const base = merge.base_model?.model;
  const top = { settings: merge.parameters ?? {}, field: ["parameters"] };
  const restacks = (merge.slices ?? []).length > 0;
  const slices = (restacks ? slicesOf(merge, top) : [sliceOfModels(merge, top)]).map((slice) => {
    checkRanges(slice, origin);
    return { ...slice, sources: withoutRepeats(slice.sources, strict, origin) };
  });
  const dtype = merge.out_dtype ?? merge.dtype;
  const references = namedModels(merge, slices);
  return {
    stages,
    method: merge.merge_method,
    restacks,
    slices,
    base,
    references,
    sources: [
      ...new Set(references.flatMap(({ base: own, adapter }) => (adapter === undefined ? [own] : [own, adapter]))),
    ],
    outputDtype: dtype == null ? undefined : DTYPES[dtype],
    workingDtype: merge.dtype == null ? undefined : DTYPES[merge.dtype],
    allowUnlisted: merge.allow_unlisted ?? undefined,
    onMismatch: merge.on_mismatch,
    nonFinite: merge.non_finite,
    strict,
    seed: merge.random_seed,
    tokenizer: normaliseTokenizer(merge, origin),
    configSource: configSourceOf(merge, references, origin),
    origin,
    warnings: [...warnings, ...residualWarnings(merge)],
  };
}

function checkForm(merge: MergeConfig, origin: RecipeOrigin): void {
  const given = [
    ...((merge.models ?? []).length > 0 ? ["models"] : []),
    ...((merge.slices ?? []).length > 0 ? ["slices"] : []),
    ...(Object.keys(merge.modules ?? {}).length > 0 ? ["modules"] : []),
  ];
  if (given.length === 1) return;
  throw new MergeyardError("RecipeFieldInvalid", {
    where: fieldPlace(origin, given.length === 0 ? [] : [given[1] ?? "models"]),
    found: given.length === 0 ? "none of them" : given.join(" and "),
    expected: "exactly one of models, slices, modules",
  });
}

/** `models` is one slice over all layers; a base that is not listed joins at the end, without parameters. */
function sliceOfModels(merge: MergeConfig, top: SettingsLevel): RecipeSlice {
  const sources = (merge.models ?? []).map(({ model, parameters }, index): RecipeSource => {
    const field = ["models", index];
    const level = { settings: parameters ?? {}, field: [...field, "parameters"] };
    return { model: model.model, layers: undefined, level, field };
  });
  const base = merge.base_model?.model;
  const field = ["base_model"];
  const appended = { layers: undefined, level: { settings: {}, field }, field };
  const missing = base === undefined || sources.some(({ model }) => model === base);
  return {
    sources: missing ? sources : [...sources, { model: base, ...appended }],
    base,
    levels: [top],
    field: ["models"],
  };
}

function slicesOf(merge: MergeConfig, top: SettingsLevel): readonly RecipeSlice[] {
  return (merge.slices ?? []).map((slice, sliceIndex) => {
    const field = ["slices", sliceIndex];
    const sources = slice.sources.map((source, index): RecipeSource => {
      const place = [...field, "sources", index];
      const [from, to] = source.layer_range ?? [];
      const layers = from === undefined || to === undefined ? undefined : { from, count: to - from };
      const level = { settings: source.parameters ?? {}, field: [...place, "parameters"] };
      return { model: source.model.model, layers, level, field: place };
    });
    const own = { settings: slice.parameters ?? {}, field: [...field, "parameters"] };
    const base = slice.base_model?.model ?? merge.base_model?.model;
    return { sources, base, levels: [own, top], field };
  });
}

function checkRanges({ sources, field }: RecipeSlice, origin: RecipeOrigin): void {
  const ranged = sources.flatMap(({ layers, field: place }) => (layers === undefined ? [] : [{ layers, place }]));
  for (const { layers, place } of ranged) {
    if (layers.count > 0) continue;
    throw new MergeyardError("RecipeFieldInvalid", {
      where: fieldPlace(origin, [...place, "layer_range"]),
      found: `[${layers.from}, ${layers.from + layers.count}]`,
      expected: "[from, to) with from below to",
    });
  }
  const counts = [...new Set(ranged.map(({ layers }) => layers.count))];
  if (counts.length <= 1) return;
  throw new MergeyardError("RecipeLayerRangesUnequal", {
    where: fieldPlace(origin, field),
    found: `${counts.join(", ")} layers`,
    expected: "ranges of one length",
  });
}

/**
 * A model listed twice in a slice is refused. Reference defect, reproduced under `strict`: the later entry's layers
 * win, at the place and with the parameters of the first.
 */
function withoutRepeats(sources: readonly RecipeSource[], strict: boolean, origin: RecipeOrigin): RecipeSource[] {
  const kept = new Map<string, RecipeSource>();
  for (const source of sources) {
    const first = kept.get(source.model);
    if (first !== undefined && !strict) {
      throw new MergeyardError("RecipeModelRepeated", {
        where: { ...fieldPlace(origin, source.field), model: source.model },
        found: "the same model twice in one slice",
        expected: "every model once",
      });
    }
    kept.set(source.model, first === undefined ? source : { ...first, layers: source.layers });
  }
  return [...kept.values()];
}

/** Bases of slices count where a slice lists them. */
function namedModels(merge: MergeConfig, slices: readonly RecipeSlice[]): readonly ModelReference[] {
  const used = new Set(slices.flatMap(({ sources }) => sources.map(({ model }) => model)));
  if (merge.base_model != null) used.add(merge.base_model.model);
  const first = new Map<string, ModelReference>();
  for (const { reference, role } of listReferences(merge)) {
    const counts = role === "token" || (role !== "config" && used.has(reference.model));
    if (counts && !first.has(reference.model)) first.set(reference.model, reference);
  }
  return [...first.values()];
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
  const used = (merge.slices ?? []).some((slice) => slice.residual_weight != null);
  return used ? ["residual_weight has no effect, in mergekit neither"] : [];
}
