// Tensors of a mixture of experts that no dense model has: routers' weights, each by the method `moe_router`, and
// biases of zeros. Nothing is computed here: their inputs are rows that the engine gathers when it writes them, as it
// does for merged vocabularies.
import type { TensorEntry } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { moe_expert } from "../methods/moe_expert.ts";
import { moe_router } from "../methods/moe_router.ts";
import { isFloatDtype } from "../ops/cast.ts";
import type { MoeExpert } from "../recipe/moe.ts";
import { fieldPlace } from "../recipe/origin.ts";
import type { Dtype } from "../tensor.ts";
import { storedTensor } from "./adapter.ts";
import { gatedExperts } from "./moe-gates.ts";
import { createPromptRows } from "./moe-prompts.ts";
import { EMBEDDING, inputOf, layerNames, type MoeTask, needTensor, STACK } from "./moe-task.ts";
import type { PlannedTensor } from "./plan-tensor.ts";
import { ROWS_ZERO, type RowGather } from "./schema.ts";

/**
 * A router for each layer, [experts, hidden], and the gates of shared experts. Throws PlanTensorMissing,
 * PlanDtypeNotMergeable, and what createPromptRows throws.
 */
export function planRouters(task: MoeTask, gates: GatesSource | undefined): readonly PlannedTensor[] {
  const { moe, architecture } = task;
  if (gates !== undefined) return takeGates(task, gates);
  const rowsOf =
    moe.gateMode === "cheap_embed"
      ? createPromptRows(task)
      : (experts: readonly MoeExpert[]) => [zeroRows("F32", experts.length)];
  const rows = rowsOf(moe.experts);
  const shared = architecture.sharedGate === undefined ? [] : rowsOf(moe.shared);
  return planLayers(task, {
    router: (name) => planRouter(task, name, rows, moe.experts.length),
    shared: (name) => planRouter(task, name, shared, moe.shared.length),
  });
}

type PlanGate = (name: string, layer: number) => PlannedTensor;

/** Of every layer the router, and the gate of the shared expert where the architecture has one. */
function planLayers(
  { architecture: { block, sharedGate }, layers }: MoeTask,
  plan: { readonly router: PlanGate; readonly shared: PlanGate },
): readonly PlannedTensor[] {
  return Array.from({ length: layers }, (_, layer) => {
    const prefix = `${STACK}${layer}.${block}`;
    const router = plan.router(`${prefix}.gate.weight`, layer);
    return sharedGate === undefined ? [router] : [router, plan.shared(`${prefix}.${sharedGate}`, layer)];
  }).flat();
}

function planRouter(task: MoeTask, name: string, inputs: readonly RowGather[], experts: number): PlannedTensor {
  const { recipe, moe, base } = task;
  const { dtype, shape } = needTensor(recipe, moe.base, base, EMBEDDING);
  if (!isFloatDtype(dtype)) {
    throw new MergeyardError("PlanDtypeNotMergeable", {
      where: { ...fieldPlace(recipe.origin, moe.base.field), model: base.reference.model, tensor: EMBEDDING },
      found: dtype,
      expected: "F32, F16, BF16 or F64 embeddings",
    });
  }
  return {
    name,
    dtype: recipe.outputDtype ?? dtype,
    shape: [experts, ...shape.slice(1)],
    method: moe_router.id,
    parameters: { gate_mode: moe.gateMode },
    seed: recipe.seed,
    inputs: inputs.map((rows) => inputOf(task, EMBEDDING, rows)),
  };
}

/** The result of the stage that made the gates, and its index among the models. */
export type GatesSource = { readonly entry: TensorEntry; readonly source: number };

/** Routers as they were made, each its rows of one tensor; only their dtype may be another. */
function takeGates(task: MoeTask, { entry, source }: GatesSource): readonly PlannedTensor[] {
  const { recipe, moe } = task;
  const all = gatedExperts(task).length;
  const take = (name: string, first: number, experts: number): PlannedTensor => {
    const rows: RowGather = { dtype: entry.dtype, others: [], means: [], runs: [[0, first, experts]] };
    const dtype = recipe.outputDtype ?? needTensor(recipe, moe.base, task.base, EMBEDDING).dtype;
    return {
      name,
      dtype,
      shape: [experts, ...entry.shape.slice(1)],
      method: dtype === entry.dtype ? "copy" : moe_expert.id,
      parameters: {},
      seed: 0,
      inputs: [{ ...storedTensor(entry, source), rows, isBase: false, parameters: {} }],
    };
  };
  return planLayers(task, {
    router: (name, layer) => take(name, layer * all, moe.experts.length),
    shared: (name, layer) => take(name, layer * all + moe.experts.length, moe.shared.length),
  });
}

/** Biases that the architecture has in any case and the base lacks: zeros. Throws PlanTensorMissing. */
export function planBiases(task: MoeTask): readonly PlannedTensor[] {
  const { recipe, moe, architecture, base, layers } = task;
  const lacking = layerNames(layers, architecture.biases).filter((name) => !base.tensors.has(name));
  return lacking.map((name) => {
    const weight = needTensor(recipe, moe.base, base, name.replace(/\.bias$/, ".weight"));
    const dtype = recipe.outputDtype ?? weight.dtype;
    const [rows = 0] = weight.shape;
    // A vector, of whose rows of one element none is read.
    const input = inputOf(task, name.replace(/self_attn\..*/, "input_layernorm.weight"), zeroRows(dtype, rows));
    return { name, dtype, shape: [rows], method: "copy", parameters: {}, seed: 0, inputs: [input] };
  });
}

function zeroRows(dtype: Dtype, rows: number): RowGather {
  return { dtype, others: [], means: [], runs: [[ROWS_ZERO, 0, rows]] };
}
