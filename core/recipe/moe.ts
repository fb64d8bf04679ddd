// A recipe of mergekit-moe in the form that is planned: the base is a slice over all layers, and so is every expert.
// Needs no checkpoint: which architecture the experts make is decided by the plan, in core/plan/moe.ts.
// Source: mergekit, docs/moe.md and mergekit/moe/config.py; where ours differs, docs/recipes.md says so.
import { MergeyardError } from "../error.ts";
import { type FieldPath, fieldPlace, type RecipeOrigin } from "./origin.ts";
import type { MoeConfig } from "./schema.ts";
import type { Setting, Settings } from "./setting.ts";
import type { RecipeSlice } from "./slices.ts";

/** How the routers' weights are made. */
export type GateMode = "hidden" | "hidden_avg" | "cheap_embed" | "random" | "uniform_random";

export type MoeExpert = {
  /** Its only source is the expert's model. */
  readonly slice: RecipeSlice;
  readonly positive: readonly string[];
  readonly negative: readonly string[];
};

/** What makes a recipe one of a mixture of experts. */
export type MoeRecipe = {
  readonly base: RecipeSlice;
  readonly gateMode: GateMode;
  /** Experts that a token is sent to. */
  readonly active: number;
  /** The architecture that the recipe asks for, by the beginning of its name. */
  readonly architecture: string | undefined;
  readonly experts: readonly MoeExpert[];
  /** Experts that every token is sent to. */
  readonly shared: readonly MoeExpert[];
  /**
   * Where gates come from hidden states: the stage that makes them by running the base, as what is merged afterwards
   * names its result, and whether this is that stage itself.
   */
  readonly gates: { readonly source: string; readonly isStage: boolean } | undefined;
  readonly warnings: readonly string[];
};

/** Throws RecipeFieldInvalid (numbers and prompts that do not fit). */
export function normaliseMoe(merge: MoeConfig, origin: RecipeOrigin): MoeRecipe {
  const { experts: listed, experts_per_token: active, gate_mode: mode } = merge;
  // A prompt's last token is what both mean.
  const gateMode = mode === "hidden_last" ? "hidden" : mode;
  if (active > listed.length) {
    throw new MergeyardError("RecipeFieldInvalid", {
      where: fieldPlace(origin, ["experts_per_token"]),
      found: String(active),
      expected: `at most ${listed.length}, the number of experts`,
    });
  }
  const expertsOf = (list: MoeConfig["experts"], field: string) =>
    list.map((expert, index) => normaliseExpert(expert, [field, index]));
  const experts = expertsOf(listed, "experts");
  const isPrompted = gateMode !== "random" && gateMode !== "uniform_random";
  if (isPrompted) checkPrompts(experts, gateMode, origin);
  return {
    base: makeSlice(merge.base_model.model, merge.base_model.model, {}, ["base_model"]),
    gateMode,
    active,
    architecture: merge.architecture ?? undefined,
    experts,
    shared: expertsOf(merge.shared_experts ?? [], "shared_experts"),
    // No reference to a model has two of these.
    gates: gateMode.startsWith("hidden")
      ? { source: `gates+of+${merge.name ?? "experts"}`, isStage: false }
      : undefined,
    warnings: isPrompted ? warningsOf(merge) : [],
  };
}

function normaliseExpert(expert: MoeConfig["experts"][number], field: FieldPath): MoeExpert {
  const { source_model: model, residual_scale: scale, noise_scale: noise } = expert;
  const settings: Record<string, Setting> = {};
  if (scale != null) settings.scale = { kind: "conditional", entries: [onlyLast(scale), everywhere(1)] };
  if (noise != null) settings.noise = scalar(noise);
  return {
    slice: makeSlice(model.model, undefined, settings, field),
    positive: expert.positive_prompts ?? [],
    negative: expert.negative_prompts ?? [],
  };
}

const scalar = (value: number) => ({ kind: "scalar", value }) as const;
const everywhere = (value: number) => ({ filter: undefined, value: scalar(value) });
/** Of the matrices of an expert, the one whose results are added to the hidden states. */
const onlyLast = (value: number) => ({ filter: "down_proj", value: scalar(value) });

function makeSlice(model: string, base: string | undefined, settings: Settings, field: FieldPath): RecipeSlice {
  const source = { model, layers: undefined, level: { settings, field }, field };
  return { sources: [source], base, levels: [], field };
}

/** Gates of equal prompts send every token to all experts alike. */
function checkPrompts(experts: readonly MoeExpert[], gateMode: GateMode, origin: RecipeOrigin): void {
  const silent = experts.findIndex(({ positive }) => positive.length === 0);
  if (silent >= 0) {
    throw new MergeyardError("RecipeFieldInvalid", {
      where: fieldPlace(origin, ["experts", silent, "positive_prompts"]),
      found: "none",
      expected: `prompts that the expert is for, which gate_mode: ${gateMode} makes its gate of`,
      hint: "without prompts, write `gate_mode: random` and train the model afterwards",
    });
  }
  const [first, ...others] = experts.map(({ positive, negative }) => JSON.stringify([positive, negative]));
  if (others.length === 0 || others.some((prompts) => prompts !== first)) return;
  throw new MergeyardError("RecipeFieldInvalid", {
    where: fieldPlace(origin, ["experts", 1, "positive_prompts"]),
    found: "the same prompts for every expert",
    expected: "prompts that tell the experts apart",
  });
}

function warningsOf({ experts }: MoeConfig): readonly string[] {
  const models = new Set(experts.map(({ source_model: model }) => model.model));
  const isUntold = experts.length > 1 && models.size === 1;
  return isUntold ? ["all experts are the same model: without training the result does what one of them does"] : [];
}
