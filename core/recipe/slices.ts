// The slices of a recipe in the one form that is planned: `models` is a slice over all layers, `slices` are taken as
// they are, and `modules` is either of them for each part of a model. Needs no checkpoint.
// Source: mergekit's configuration normalisation, reference sections 2.2, 5.5, 5.6.
import { MergeyardError } from "../error.ts";
import { type FieldPath, fieldPlace, type RecipeOrigin } from "./origin.ts";
import type { MergeConfig, ModelReference } from "./schema.ts";
import type { Settings } from "./setting.ts";

/** One level of parameter settings, and where the recipe writes it. */
export type SettingsLevel = { readonly settings: Settings; readonly field: FieldPath };

export type LayerRange = { readonly from: number; readonly count: number };

/** A model's part in a slice. */
export type RecipeSource = {
  readonly model: string;
  /** The source that holds what was measured of the model. */
  readonly statistics?: string | undefined;
  /** Undefined: all layers of the model. */
  readonly layers: LayerRange | undefined;
  /** The model's own settings: they win over every other level. */
  readonly level: SettingsLevel;
  readonly field: FieldPath;
  /** The base, which `models` does not list. */
  readonly unlisted?: true;
};

export type RecipeSlice = {
  /** In recipe order; a base that the `models` form does not list comes last. */
  readonly sources: readonly RecipeSource[];
  readonly base: string | undefined;
  /** Levels below the models' own, nearest first. */
  readonly levels: readonly SettingsLevel[];
  readonly field: FieldPath;
};

/** A part of the model with slices of its own. */
export type RecipeModule = {
  /** Undefined: the whole model. */
  readonly name: string | undefined;
  /** True when the recipe names layers (`slices`): output layers are then numbered anew. */
  readonly restacks: boolean;
  readonly slices: readonly RecipeSlice[];
  readonly field: FieldPath;
};

/**
 * The parts of a recipe: one for the whole model, or one a module.
 * Throws RecipeFieldInvalid (not exactly one of models, slices, modules; an empty layer range), RecipeModelRepeated,
 * RecipeLayerRangesUnequal.
 */
export function normaliseModules(merge: MergeConfig, origin: RecipeOrigin): readonly RecipeModule[] {
  const top = { settings: merge.parameters ?? {}, field: ["parameters"] };
  const form = checkForm(merge, [], origin);
  const rules = { base: merge.base_model?.model, strict: merge.mergekit_compat === "strict", origin };
  if (form !== "modules") {
    const restacks = form === "slices";
    return [{ name: undefined, restacks, slices: slicesOf(merge, [], [top], rules), field: [] }];
  }
  return Object.entries(merge.modules ?? {}).map(([name, part]): RecipeModule => {
    const field = ["modules", name];
    const restacks = checkForm(part, field, origin) === "slices";
    const own = { settings: part.parameters ?? {}, field: [...field, "parameters"] };
    return { name, restacks, slices: slicesOf(part, field, [own, top], rules), field };
  });
}

/** What may be written at the top and in a module. */
type Part = Pick<MergeConfig, "models" | "slices"> & Partial<Pick<MergeConfig, "modules">>;

type Rules = { readonly base: string | undefined; readonly strict: boolean; readonly origin: RecipeOrigin };

type Form = "models" | "slices" | "modules";

/** Empty lists count as absent. */
function checkForm(part: Part, field: FieldPath, origin: RecipeOrigin): Form {
  const allowed: readonly Form[] = field.length === 0 ? ["models", "slices", "modules"] : ["models", "slices"];
  const given = allowed.filter((form) => Object.keys(part[form] ?? {}).length > 0);
  const [form, second] = given;
  if (form !== undefined && second === undefined) return form;
  throw new MergeyardError("RecipeFieldInvalid", {
    where: fieldPlace(origin, second === undefined ? field : [...field, second]),
    found: form === undefined ? "none of them" : given.join(" and "),
    expected: `exactly one of ${allowed.join(", ")}`,
  });
}

function slicesOf(
  part: Part,
  field: FieldPath,
  levels: readonly SettingsLevel[],
  rules: Rules,
): readonly RecipeSlice[] {
  const stacked = (part.slices ?? []).length > 0;
  const slices = stacked ? readSlices(part, field, levels, rules) : [readModels(part, field, levels, rules)];
  return slices.map((slice) => {
    checkRanges(slice, rules.origin);
    return { ...slice, sources: withoutRepeats(slice.sources, rules) };
  });
}

/** `models` is one slice over all layers; a base that is not listed joins at the end, without parameters. */
function readModels(
  { models }: Part,
  field: FieldPath,
  levels: readonly SettingsLevel[],
  { base }: Rules,
): RecipeSlice {
  const sources = (models ?? []).map(({ model, statistics, parameters }, index): RecipeSource => {
    const place = [...field, "models", index];
    const level = { settings: parameters ?? {}, field: [...place, "parameters"] };
    return { model: model.model, ...statisticsOf(statistics), layers: undefined, level, field: place };
  });
  const own = ["base_model"];
  const appended = { layers: undefined, level: { settings: {}, field: own }, field: own, unlisted: true as const };
  const isListed = base === undefined || sources.some(({ model }) => model === base);
  return {
    sources: isListed ? sources : [...sources, { model: base, ...appended }],
    base,
    levels,
    field: [...field, "models"],
  };
}

function readSlices(part: Part, field: FieldPath, levels: readonly SettingsLevel[], rules: Rules): RecipeSlice[] {
  return (part.slices ?? []).map((slice, sliceIndex) => {
    const place = [...field, "slices", sliceIndex];
    const sources = slice.sources.map((source, index): RecipeSource => {
      const own = [...place, "sources", index];
      const [from, to] = source.layer_range ?? [];
      const layers = from === undefined || to === undefined ? undefined : { from, count: to - from };
      const level = { settings: source.parameters ?? {}, field: [...own, "parameters"] };
      return { model: source.model.model, ...statisticsOf(source.statistics), layers, level, field: own };
    });
    const own = { settings: slice.parameters ?? {}, field: [...place, "parameters"] };
    return { sources, base: slice.base_model?.model ?? rules.base, levels: [own, ...levels], field: place };
  });
}

function statisticsOf(reference: ModelReference | null | undefined): Pick<RecipeSource, "statistics"> {
  return reference == null ? {} : { statistics: reference.base };
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
function withoutRepeats(sources: readonly RecipeSource[], { strict, origin }: Rules): RecipeSource[] {
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
