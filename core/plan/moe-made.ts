// Tensors of a mixture of experts that no dense model has: routers' weights, each by the method `moe_router`, and
// biases of zeros. Nothing is computed here: their inputs are rows that the engine gathers when it writes them, as it
// does for merged vocabularies.
import { MergeyardError } from "../error.ts";
import { moe_router } from "../methods/moe_router.ts";
import { isFloatDtype } from "../ops/cast.ts";
import type { MoeExpert } from "../recipe/moe.ts";
import { fieldPlace } from "../recipe/origin.ts";
import type { Dtype } from "../tensor.ts";
import { createPromptRows } from "./moe-prompts.ts";
import { EMBEDDING, layerNames, type MoeTask, needTensor, STACK } from "./moe-task.ts";
import type { PlannedTensor } from "./plan-tensor.ts";
import { ROWS_ZERO, type RowGather, type UnitInput } from "./schema.ts";

/**
 * A router for each layer, [experts, hidden], and the gates of shared experts. Throws PlanTensorMissing,
 * PlanDtypeNotMergeable, and what createPromptRows throws.
 */
export function planRouters(task: MoeTask): readonly PlannedTensor[] {
  const { moe, architecture, layers } = task;
  const { block, sharedGate } = architecture;
  const rowsOf =
    moe.gateMode === "cheap_embed"
      ? createPromptRows(task)
      : (experts: readonly MoeExpert[]) => [zeroRows("F32", experts.length)];
  const [rows, shared] = [rowsOf(moe.experts), sharedGate === undefined ? [] : rowsOf(moe.shared)];
  return Array.from({ length: layers }, (_, layer) => {
    const prefix = `${STACK}${layer}.${block}`;
    const router = planRouter(task, `${prefix}.gate.weight`, rows, moe.experts.length);
    if (sharedGate === undefined) return [router];
    return [router, planRouter(task, `${prefix}.${sharedGate}`, shared, moe.shared.length)];
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

function inputOf({ recipe, moe, base }: MoeTask, name: string, rows: RowGather): UnitInput {
  const { adapter, model } = base.reference;
  const stored = base.stored(needTensor(recipe, moe.base, base, name));
  return { ...stored, rows, isBase: false, ...(adapter === undefined ? {} : { model }), parameters: {} };
}
