// Which tensors the output has, which tensor of each model feeds each of them, and at which layer position. Names only:
// whether the inputs fit together is decided tensor by tensor in plan-tensor.ts.
// Source: mergekit's planner, reference sections 5.4, 5.5; without its architecture files.
import assert from "node:assert/strict";
import type { TensorEntry } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { PLAN_LIMITS } from "../limits.ts";
import type { Recipe } from "../recipe/normalise.ts";
import { fieldPlace } from "../recipe/origin.ts";
import type { RecipeModule, RecipeSlice, RecipeSource } from "../recipe/slices.ts";
import {
  type Architecture,
  compareNames,
  type ModelsByName,
  parseLayerName,
  tensorRole,
  tensorSide,
} from "./architecture.ts";
import { scopeModules } from "./modules.ts";
import type { Notes } from "./notes.ts";

/** A model's tensor for an output tensor. `entry` is undefined when the model does not store it. */
export type OutputInput = {
  readonly source: RecipeSource;
  readonly name: string;
  readonly entry: TensorEntry | undefined;
};

export type OutputTensor = {
  readonly name: string;
  readonly slice: RecipeSlice;
  /** Layer position in [0, 1]; 0 outside layers. */
  readonly position: number;
  readonly inputs: readonly OutputInput[];
  /** True for a tensor outside of all modules: it is taken as it is from its only input. */
  readonly isCopied?: boolean;
};

/** A source's layer that an output layer is made of. */
export type LayerOrigin = { readonly model: string; readonly layer: number };

/** A stack of layers that the recipe puts together anew. */
export type StackedLayers = {
  /** Of the first source: what stands before the layer's number. */
  readonly prefix: string;
  /** True when the recipe says so of a module, and not of the whole model. */
  readonly isModule: boolean;
  /** What every output layer's first source is, in order. */
  readonly origins: readonly LayerOrigin[];
};

export type Outputs = {
  /** In the order of compareNames. */
  readonly tensors: readonly OutputTensor[];
  readonly stacks: readonly StackedLayers[];
};

/**
 * Every output tensor.
 * Throws PlanLayersUnequal, PlanLayersUnknown, PlanLayersOutside, PlanModuleUnknown, PlanModulesIncomplete,
 * PlanTooLarge, RecipeLayerRangesUnequal.
 */
export function listOutputs(recipe: Recipe, models: ModelsByName, notes: Notes): Outputs {
  const { scopes, rest } = scopeModules(recipe, models);
  const parts = scopes.map(({ module, models: own }): Outputs => {
    if (module.restacks) return restack(recipe, module, own, notes);
    return { tensors: module.slices.flatMap((slice) => mergeWhole(recipe, slice, own)), stacks: [] };
  });
  const copied = rest.flatMap((name) => copyRest(recipe, name, models, notes) ?? []);
  const tensors = [...parts.flatMap((part) => part.tensors), ...copied];
  return {
    tensors: tensors.sort((a, b) => compareNames(a.name, b.name)),
    stacks: parts.flatMap((part) => part.stacks),
  };
}

/** A tensor of no module: the base's, else that of the first model that has it; undefined when the recipe drops it. */
function copyRest(recipe: Recipe, name: string, models: ModelsByName, notes: Notes): OutputTensor | undefined {
  const copies = recipe.allowUnlisted === "copy";
  notes.add(`tensors of no module are ${copies ? "copied" : "dropped"}`, name);
  const [slice] = recipe.slices;
  if (!copies || slice === undefined) return undefined;
  const holders = [...models].filter(([, { tensors }]) => tensors.has(name)).map(([model]) => model);
  const model = holders.find((holder) => holder === recipe.base) ?? holders[0] ?? "";
  const field = ["modules"];
  const source: RecipeSource = { model, layers: undefined, level: { settings: {}, field }, field };
  const inputs = [{ source, name, entry: models.get(model)?.tensors.get(name) }];
  return { name, slice, position: 0, inputs, isCopied: true };
}

/** `models` form: every tensor under its own name; every stack of layers counts positions of its own. */
function mergeWhole(recipe: Recipe, slice: RecipeSlice, models: ModelsByName): readonly OutputTensor[] {
  const architectures = slice.sources.map((source) => architectureOf(models, source));
  const stacks = new Map<string, number>();
  for (const { stacks: own } of architectures) {
    for (const [prefix, layers] of own) stacks.set(prefix, Math.max(stacks.get(prefix) ?? 0, layers));
  }
  if (recipe.allowUnlisted === undefined) checkDepths(recipe, slice, models);
  const names = new Set(architectures.flatMap(({ tensors }) => [...tensors.keys()]));
  return [...names].map((name) => {
    const place = parseLayerName(name);
    const layers = place === undefined ? 0 : (stacks.get(place.prefix) ?? 0);
    const position = place === undefined ? 0 : layerPosition(place.layer, layers);
    return { name, slice, position, inputs: inputsOf(name, slice, models) };
  });
}

/** t = j / (L - 1); 1 in a stack of one layer. Source: reference section 5.4. */
function layerPosition(layer: number, layers: number): number {
  return layers <= 1 ? 1 : layer / (layers - 1);
}

function checkDepths(recipe: Recipe, slice: RecipeSlice, models: ModelsByName): void {
  const [first, ...others] = slice.sources;
  if (first === undefined) return;
  for (const [prefix, layers] of architectureOf(models, first).stacks) {
    for (const source of others) {
      const found = architectureOf(models, source).stacks.get(prefix);
      if (found === undefined || found === layers) continue;
      throw new MergeyardError("PlanLayersUnequal", {
        where: { ...fieldPlace(recipe.origin, source.field), model: source.model },
        found: `${found} layers in ${prefix}*`,
        expected: `${layers}, as in ${first.model}`,
        hint: "write `slices` with the layers to merge, or `allow_unlisted: copy` to keep surplus layers as they are",
      });
    }
  }
}

/** `slices` form: output layers are numbered over all slices; what lies outside layers frames them. */
function restack(recipe: Recipe, module: RecipeModule, models: ModelsByName, notes: Notes): Outputs {
  const indexes = new Map([...models].map(([model, architecture]) => [model, indexLayers(architecture)]));
  const cuts = module.slices.map((slice) => {
    const cut = slice.sources.map((source) => cutLayers(recipe, source, architectureOf(models, source), indexes));
    const other = cut.find(({ count }) => count !== cut[0]?.count);
    if (other !== undefined) throw unequalRanges(recipe, cut[0]?.count ?? 0, other);
    return { slice, cut, count: cut[0]?.count ?? 0 };
  });
  checkSize(recipe, module, cuts);
  const tensors: OutputTensor[] = [];
  const origins: LayerOrigin[] = [];
  for (const { slice, cut, count } of cuts) {
    for (let step = 0; step < count; step++) {
      tensors.push(...stackLayer(slice, cut, step, origins.length));
      origins.push({ model: cut[0]?.source.model ?? "", layer: (cut[0]?.from ?? 0) + step });
    }
  }
  const prefix = cuts[0]?.cut[0]?.prefix ?? "";
  return {
    tensors: [...tensors, ...frameTensors(module, models, recipe.strict, notes)],
    stacks: [{ prefix, isModule: module.name !== undefined, origins }],
  };
}

/** A short recipe can stack the same layers ten thousand times: counted before anything is made. */
function checkSize(
  recipe: Recipe,
  { field }: RecipeModule,
  cuts: readonly { cut: readonly CutLayers[]; count: number }[],
): void {
  const tensors = cuts.reduce((sum, { cut, count }) => sum + count * (cut[0]?.byLayer.get(cut[0].from)?.size ?? 0), 0);
  if (tensors <= PLAN_LIMITS.tensors) return;
  throw new MergeyardError("PlanTooLarge", {
    where: fieldPlace(recipe.origin, [...field, "slices"]),
    found: `${tensors} tensors`,
    expected: `at most ${PLAN_LIMITS.tensors}`,
  });
}

/** The layers that a source gives to a slice, and its tensors by layer and suffix. */
type CutLayers = {
  readonly source: RecipeSource;
  readonly prefix: string;
  readonly from: number;
  readonly count: number;
  readonly byLayer: LayerIndex;
};

/** Tensors of the main stack, by layer and by what follows the layer's number. */
type LayerIndex = ReadonlyMap<number, ReadonlyMap<string, TensorEntry>>;

function cutLayers(
  recipe: Recipe,
  source: RecipeSource,
  architecture: Architecture,
  indexes: ReadonlyMap<string, LayerIndex>,
): CutLayers {
  const prefix = architecture.mainStack;
  const where = { ...fieldPlace(recipe.origin, [...source.field, "layer_range"]), model: source.model };
  if (prefix === undefined) {
    const stacks = [...architecture.stacks].map(([name, layers]) => `${name}* (${layers})`);
    throw new MergeyardError("PlanLayersUnknown", {
      where,
      found: stacks.length === 0 ? "no layers" : stacks.join(", "),
      expected: "one stack of layers, or a config.json that says how many layers the model has",
    });
  }
  const total = architecture.stacks.get(prefix) ?? 0;
  const { from, count } = source.layers ?? { from: 0, count: total };
  if (from + count > total) {
    throw new MergeyardError("PlanLayersOutside", {
      where,
      found: `[${from}, ${from + count}]`,
      expected: `within [0, ${total}], the model's layers`,
    });
  }
  return { source, prefix, from, count, byLayer: indexes.get(source.model) ?? new Map() };
}

function indexLayers(architecture: Architecture): LayerIndex {
  const byLayer = new Map<number, Map<string, TensorEntry>>();
  for (const entry of architecture.tensors.values()) {
    const place = parseLayerName(entry.name);
    if (place === undefined || place.prefix !== architecture.mainStack) continue;
    const tensors = byLayer.get(place.layer) ?? new Map<string, TensorEntry>();
    byLayer.set(place.layer, tensors.set(place.suffix, entry));
  }
  return byLayer;
}

function unequalRanges(recipe: Recipe, count: number, other: CutLayers): MergeyardError {
  const { source } = other;
  return new MergeyardError("RecipeLayerRangesUnequal", {
    where: { ...fieldPlace(recipe.origin, source.field), model: source.model },
    found: `${other.count} layers`,
    expected: `${count}, as the slice's first source`,
  });
}

/** Output layer `target`: step `step` of a slice, under the first source's name of the stack. */
function stackLayer(slice: RecipeSlice, cut: readonly CutLayers[], step: number, target: number): OutputTensor[] {
  const sources = cut.map(({ source, prefix, from, byLayer }) => ({
    source,
    start: `${prefix}${from + step}`,
    tensors: byLayer.get(from + step),
  }));
  const suffixes = new Set(sources.flatMap(({ tensors }) => [...(tensors?.keys() ?? [])]));
  const position = layerPosition(step, cut[0]?.count ?? 0);
  return [...suffixes].map((suffix) => ({
    name: `${cut[0]?.prefix ?? ""}${target}${suffix}`,
    slice,
    position,
    inputs: sources.map(({ source, start, tensors }) => ({
      source,
      name: `${start}${suffix}`,
      entry: tensors?.get(suffix),
    })),
  }));
}

/**
 * Tensors outside the restacked layers: those before them from the first slice, those after from the last; under
 * `strict`, as in the reference, only from as many of its sources as the first slice has.
 */
function frameTensors(
  { slices }: RecipeModule,
  models: ModelsByName,
  strict: boolean,
  notes: Notes,
): readonly OutputTensor[] {
  const first = slices[0];
  const end = slices.at(-1);
  const isCut = strict && (first?.sources.length ?? 0) < (end?.sources.length ?? 0);
  const last = end && isCut ? { ...end, sources: end.sources.slice(0, first?.sources.length) } : end;
  if (first === undefined || last === undefined) return [];
  const before = frameOf(first, models, []);
  const after = first === last ? before : frameOf(last, models, listHeads(models));
  const chosen = new Map<string, OutputTensor>();
  for (const tensor of [...before, ...after]) {
    const side = tensorSide(tensor.name);
    if (first !== last && side === undefined) {
      notes.add("tensors that could stand before or after the layers are taken from the first slice", tensor.name);
    }
    if (tensor.slice === (side === "after" ? last : first)) chosen.set(tensor.name, tensor);
  }
  return [...chosen.values()];
}

/** Heads of all models: a last slice whose models tie theirs still has to fill the head that others store. */
function listHeads(models: ModelsByName): readonly string[] {
  return [...models.values()].flatMap(({ tensors, vocabulary }) =>
    [...tensors.values()].filter((entry) => tensorRole(entry, vocabulary) === "head").map(({ name }) => name),
  );
}

function frameOf(slice: RecipeSlice, models: ModelsByName, more: readonly string[]): readonly OutputTensor[] {
  const architectures = slice.sources.map((source) => architectureOf(models, source));
  const own = architectures.flatMap(({ tensors, mainStack }) =>
    [...tensors.keys()].filter((name) => parseLayerName(name)?.prefix !== mainStack),
  );
  const names = new Set([...own, ...more]);
  return [...names].map((name) => ({ name, slice, position: 0, inputs: inputsOf(name, slice, models) }));
}

/** The tensor of this name of every source. */
function inputsOf(name: string, { sources }: RecipeSlice, models: ModelsByName): readonly OutputInput[] {
  return sources.map((source) => ({ source, name, entry: architectureOf(models, source).tensors.get(name) }));
}

function architectureOf(models: ModelsByName, source: RecipeSource): Architecture {
  const architecture = models.get(source.model);
  assert.ok(architecture !== undefined, `no checkpoint was given for ${source.model}`);
  return architecture;
}
