// A mixture of experts out of dense models: which architecture they make, which tensor of which model becomes which of
// the output's, and the output's config. From headers and configs alone; what is the same for every merge, such as
// adapters, dtypes, shards and memory, is left to the planner. Routers are in moe-made.ts.
// Source: mergekit `scripts/moe.py` and `moe/*.py`.
import assert from "node:assert/strict";
import { MergeyardError } from "../error.ts";
import {
  EXPERT_PARTS,
  type ExpertPart,
  MOE_ARCHITECTURES,
  type MoeArchitecture,
  type MoeCounts,
  moeConfig,
} from "../moe/architectures.ts";
import { floatDtypeNamed, isFloatDtype } from "../ops/cast.ts";
import type { MoeExpert, MoeRecipe } from "../recipe/moe.ts";
import type { Recipe } from "../recipe/normalise.ts";
import { fieldPlace } from "../recipe/origin.ts";
import type { RecipeSlice } from "../recipe/slices.ts";
import { sameShape } from "../tensor.ts";
import type { MergeModel } from "./merge-task.ts";
import type { ModelView, ViewsByName } from "./model-view.ts";
import { GATES, planGates } from "./moe-gates.ts";
import { type GatesSource, planBiases, planRouters } from "./moe-made.ts";
import { EMBEDDING, layerNames, type MoeTask, needTensor, STACK } from "./moe-task.ts";
import type { Notes } from "./notes.ts";
import type { OutputTensor } from "./output-tensors.ts";
import type { PlannedTensor } from "./plan-tensor.ts";

export type MoePlan = {
  /** The recipe with the dtype that every tensor of the output has. */
  readonly recipe: Recipe;
  /** Tensors that are those of a model, perhaps scaled. */
  readonly tensors: readonly OutputTensor[];
  /** Tensors that no model has: routers, and biases of zeros. */
  readonly made: readonly PlannedTensor[];
  /** Before what every merge does to its config: dtype, vocabulary. */
  readonly config: Readonly<Record<string, unknown>>;
};

/** Outside of layers; there may be no head. */
const FRAME = [EMBEDDING, "model.norm.weight"];
const HEAD = "lm_head.weight";
/** Buffers that old versions of transformers saved; they follow from the config. */
const BUFFER = /\.rotary_emb\.inv_freq$/;

/**
 * Undefined for a recipe of another kind.
 * Throws MoeArchitectureRefused, PlanLayersUnequal, PlanTensorMissing, PlanShapeMismatch, PlanDtypeNotMergeable.
 */
export function planMoe(
  recipe: Recipe,
  models: readonly MergeModel[],
  views: ViewsByName,
  notes: Notes,
): MoePlan | undefined {
  const { moe } = recipe;
  if (moe === undefined) return undefined;
  const base = viewOf(views, moe.base);
  const layers = base.stacks.get(STACK) ?? 0;
  if (moe.gates?.isStage === true) {
    return { recipe, tensors: [], made: [planGates({ recipe, moe, base, layers })], config: {} };
  }
  const architecture = chooseArchitecture(recipe, moe, views, notes);
  const dense = base.own.model.checkpoint.config ?? {};
  const counts = { experts: moe.experts.length, active: moe.active, shared: moe.shared.length };
  noteCount(architecture, counts, notes);
  const outputDtype = recipe.outputDtype ?? floatDtypeNamed(String(dense.torch_dtype ?? dense.dtype));
  const task = { recipe: { ...recipe, outputDtype }, moe, architecture, base, layers };
  checkExperts(task, views);
  return {
    recipe: task.recipe,
    tensors: [...baseTensors(task), ...expertTensors(task, views)],
    made: [...planRouters(task, findGates(moe, models)), ...planBiases(task)],
    config: moeConfig(architecture, dense, counts),
  };
}

/** What the stage before makes. */
function findGates({ gates }: MoeRecipe, models: readonly MergeModel[]): GatesSource | undefined {
  const source = models.findIndex((model) => model.source.model === gates?.source);
  const entry = models[source]?.checkpoint.tensors.find(({ name }) => name === GATES);
  return entry === undefined ? undefined : { entry, source };
}

function viewOf(views: ViewsByName, { sources: [source] }: RecipeSlice): ModelView {
  const view = views.get(source?.model ?? "");
  assert.ok(view !== undefined, "every model of a recipe is given");
  return view;
}

/** The architecture that the recipe names, else the first that takes its models. */
function chooseArchitecture(recipe: Recipe, moe: MoeRecipe, views: ViewsByName, notes: Notes): MoeArchitecture {
  const slices = [moe.base, ...[...moe.experts, ...moe.shared].map(({ slice }) => slice)];
  const types = [...new Set(slices.map((slice) => typeOf(viewOf(views, slice))))];
  const wanted = moe.architecture?.toLowerCase() ?? "";
  const named = MOE_ARCHITECTURES.filter(({ name }) => name.toLowerCase().startsWith(wanted));
  if (named.length === 0) {
    throw new MergeyardError("MoeArchitectureRefused", {
      where: fieldPlace(recipe.origin, ["architecture"]),
      found: wanted,
      expected: `the beginning of ${MOE_ARCHITECTURES.map(({ name }) => name).join(", ")}`,
    });
  }
  const [first, second] = named.filter((architecture) => takes(architecture, types, moe));
  if (first === undefined) {
    const prompted = moe.shared.some(isPrompted) ? " with prompts" : "";
    throw new MergeyardError("MoeArchitectureRefused", {
      where: fieldPlace(recipe.origin, moe.architecture === undefined ? ["base_model"] : ["architecture"]),
      found: `${types.join(" and ")} models, ${moe.shared.length} shared experts${prompted}`,
      expected: named.map(describeArchitecture).join("; "),
    });
  }
  // Mixtral is what such recipes have always made.
  if (second !== undefined && first !== MOE_ARCHITECTURES[0]) {
    notes.add(
      `${first.name} is made; write \`architecture: ${second.name}\` for the other one that takes these models`,
    );
  }
  return first;
}

function typeOf({ own }: ModelView): string {
  const { model_type: type } = own.model.checkpoint.config ?? {};
  return typeof type === "string" ? type : "unknown";
}

function isPrompted({ positive, negative }: MoeExpert): boolean {
  return positive.length + negative.length > 0;
}

/** A shared expert has prompts where it has a gate that is made of them, and only there. */
function takes(
  { modelTypes, shared: [min, max], sharedGate }: MoeArchitecture,
  types: readonly string[],
  moe: MoeRecipe,
) {
  const { shared, gateMode } = moe;
  if (types.length !== 1 || !types.every((type) => modelTypes.includes(type))) return false;
  if (shared.length < min || shared.length > max) return false;
  if (sharedGate === undefined) return !shared.some(isPrompted);
  return gateMode === "random" || gateMode === "uniform_random" || shared.every(({ positive }) => positive.length > 0);
}

function describeArchitecture({ name, modelTypes, shared: [min, max], sharedGate }: MoeArchitecture): string {
  const count = max === 0 ? "no shared expert" : `${min === max ? "one" : "at most one"} shared expert`;
  const prompts = max === 0 ? "" : sharedGate === undefined ? " without prompts" : ", which has prompts";
  return `${name}: ${modelTypes.join(" or ")} models of one kind, ${count}${prompts}`;
}

function noteCount({ countsTwos }: MoeArchitecture, { experts }: MoeCounts, notes: Notes): void {
  if (countsTwos && !Number.isInteger(Math.log2(experts))) {
    notes.add(`${experts} experts are no power of two, which some programs that run the model expect`);
  }
}

/** Every expert has the layers and, by name and shape, the matrices that the base has. */
function checkExperts({ recipe, moe, base, layers }: MoeTask, views: ViewsByName): void {
  for (const { slice } of [...moe.experts, ...moe.shared]) {
    const view = viewOf(views, slice);
    const where = { ...fieldPlace(recipe.origin, slice.field), model: view.reference.model };
    const own = view.stacks.get(STACK) ?? 0;
    if (own !== layers) {
      const expected = `${layers}, as in ${base.reference.model}`;
      throw new MergeyardError("PlanLayersUnequal", { where, found: `${own} layers in ${STACK}*`, expected });
    }
    for (const { name } of partNames(layers)) {
      const { dtype, shape } = needTensor(recipe, slice, view, name);
      const expected = needTensor(recipe, moe.base, base, name).shape;
      if (!sameShape(shape, expected)) {
        throw new MergeyardError("PlanShapeMismatch", {
          where: { ...where, tensor: name },
          found: `[${shape.join(", ")}]`,
          expected: `[${expected.join(", ")}], as in ${base.reference.model}`,
        });
      }
      if (isFloatDtype(dtype)) continue;
      throw new MergeyardError("PlanDtypeNotMergeable", {
        where: { ...where, tensor: name },
        found: dtype,
        expected: "F32, F16, BF16 or F64 weights of experts",
      });
    }
  }
}

type PartName = { readonly name: string; readonly layer: number; readonly part: ExpertPart };

/** The matrices of all layers that become experts. */
function partNames(layers: number): readonly PartName[] {
  return Array.from({ length: layers }, (_, layer) =>
    EXPERT_PARTS.map((part) => ({ name: `${STACK}${layer}.mlp.${part}.weight`, layer, part })),
  ).flat();
}

/** What the output has of the base: all but its experts' part. Throws MoeArchitectureRefused for anything more. */
function baseTensors({ recipe, moe, architecture, base, layers }: MoeTask): readonly OutputTensor[] {
  const parts = new Set(partNames(layers).map(({ name }) => name));
  const needed = [...FRAME, ...layerNames(layers, architecture.layer)];
  for (const name of needed) needTensor(recipe, moe.base, base, name);
  const known = new Set([...needed, HEAD, ...layerNames(layers, architecture.biases)]);
  const own = [...base.tensors.keys()].filter((name) => !parts.has(name) && !BUFFER.test(name));
  const surplus = own.find((name) => !known.has(name));
  if (surplus !== undefined) {
    throw new MergeyardError("MoeArchitectureRefused", {
      where: { ...fieldPlace(recipe.origin, moe.base.field), model: base.reference.model, tensor: surplus },
      found: "a tensor that the output has no place for",
      expected: `the tensors of ${architecture.name}, experts apart`,
    });
  }
  return own.map((name) => fromModel(name, moe.base, name, base));
}

function expertTensors({ moe, architecture, layers }: MoeTask, views: ViewsByName): readonly OutputTensor[] {
  const { block, parts, sharedExpert } = architecture;
  return partNames(layers).flatMap(({ name, layer, part }) => {
    const prefix = `${STACK}${layer}.${block}`;
    const own = parts?.[part] ?? part;
    return [
      ...moe.experts.map(({ slice }, expert) =>
        fromModel(`${prefix}.experts.${expert}.${own}.weight`, slice, name, viewOf(views, slice)),
      ),
      ...moe.shared.map(({ slice }) =>
        fromModel(`${prefix}.${sharedExpert}.${own}.weight`, slice, name, viewOf(views, slice)),
      ),
    ];
  });
}

/** A tensor of the only source of a slice, under another name. */
function fromModel(output: string, slice: RecipeSlice, name: string, { tensors }: ModelView): OutputTensor {
  const inputs = slice.sources.map((source) => ({ source, name, entry: tensors.get(name) }));
  return { name: output, slice, position: 0, inputs };
}
