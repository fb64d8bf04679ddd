// The linear modules of a model that a folder can hold quantized, and what servers ask of them: which are fused into
// one matrix and share what a scheme measures, and which must have one scheme. Known from headers. Called by whoever
// plans such folders (compressed-model.ts) and their bits (core/bit-plan/folder.ts).
import type { Checkpoint, TensorEntry } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { compileRules } from "../formats/quantized/compressed-tensors-config.ts";
import { FOLDER_ROWS } from "../schemes/folder-form.ts";
import type { FolderScheme } from "../schemes/registry.ts";
import type { Matrix } from "../schemes/scheme.ts";
import { asScaleDtype } from "../tensor.ts";
import { compareUtf8 } from "../utf8-order.ts";
import { configSections, parseLayerName, tensorRole } from "./architecture.ts";

export type LinearModule = {
  /** Its weights. */
  readonly entry: TensorEntry;
  /** Its path: the weights' name without `.weight`. */
  readonly module: string;
  readonly matrix: Matrix;
  /** What a server fuses with it, itself included, in name order: tensors that share what a scheme measures. */
  readonly fused: readonly TensorEntry[];
  /** The same text for modules that servers want in one scheme: those fused, and all experts of a layer. */
  readonly together: string;
};

/** What must come from the tensors beside each other in one module. Source: vLLM, packed_modules_mapping. */
const FUSED: readonly (readonly string[])[] = [
  ["q_proj", "k_proj", "v_proj"],
  ["gate_proj", "up_proj"],
  ["w1", "w3"],
  ["q_a_proj", "kv_a_proj_with_mqa"],
];

/** Source: vLLM, CompressedTensorsMoEMethod: one scheme for all projections of all experts of a layer. */
const EXPERTS = /^(.*\.experts)\.\d+\./;

/** Modules in layers that servers never quantize: routers of experts, and towers of other inputs than text. */
const NEVER = [
  /(?:^|\.)(?:gate|router|shared_expert_gate)$/,
  /(?:^|\.)(?:vision\w*|visual|audio\w*|multi_modal_projector)\./,
  /norm\d*$/,
  /embed\w*$|relative_attention_bias$/,
];

const WEIGHT = ".weight";

/**
 * Linear modules in layers, by name of their weights, but for those that `ignored` names, by path or as `re:` and an
 * expression. Throws QuantizeModelUnsupported, QuantizedFolderUnsupported (a wrong expression).
 */
export function listLinear(
  { tensors, config }: Pick<Checkpoint, "tensors" | "config">,
  ignored: readonly string[],
): readonly LinearModule[] {
  if (config === undefined) throw unsupported({ file: "config.json" }, "no config.json", "the model's own");
  if (config.quantization_config !== undefined) {
    throw unsupported({ file: "config.json", field: "quantization_config" }, "a quantized model", "weights as floats");
  }
  const stacked = tensors.find(({ name, shape }) => shape.length === 3 && /\bexperts\b/.test(name));
  const isIgnored = compileRules(ignored);
  const chosen = tensors
    .filter((entry) => isLinear(entry) && !isIgnored(moduleOf(entry)))
    .toSorted((a, b) => compareUtf8(a.name, b.name));
  if (chosen.length === 0) throw unsupported({}, "no linear module in any layer", "a model of layers");
  if (stacked !== undefined) {
    throw unsupported({ tensor: stacked.name }, "experts in one tensor", "a tensor for each expert");
  }
  const sets = Map.groupBy(chosen, ({ name }) => fusedKey(name));
  return chosen.map((entry) => ({
    entry,
    module: moduleOf(entry),
    matrix: matrixOf(entry),
    fused: sets.get(fusedKey(entry.name)) ?? [entry],
    together: EXPERTS.exec(entry.name)?.[1] ?? fusedKey(entry.name),
  }));
}

/** What a scheme wants a multiple of and does not find in a module's shape; undefined: it fits. */
export function findMisfit(
  { rows, columns }: Matrix,
  { columnUnit, form }: FolderScheme,
): { readonly found: string; readonly unit: number } | undefined {
  const unit = FOLDER_ROWS[form.container];
  if (rows === 0 || columns === 0 || columns % columnUnit !== 0)
    return { found: `rows of ${columns}`, unit: columnUnit };
  return rows % unit === 0 ? undefined : { found: `${rows} rows`, unit };
}

/** A module's path, or the name of any other tensor. */
export function moduleOf({ name }: Pick<TensorEntry, "name">): string {
  return name.endsWith(WEIGHT) ? name.slice(0, -WEIGHT.length) : name;
}

/** Linear modules that stay as they are; servers want them named. The head is named also where it is tied. */
export function listIgnored(
  { tensors, config }: Pick<Checkpoint, "tensors" | "config">,
  isQuantized: (entry: TensorEntry) => boolean,
): readonly string[] {
  const vocabulary = configSections(config)
    .map(({ vocab_size: size }) => size)
    .find((size) => typeof size === "number");
  const left = tensors.filter(
    (entry) =>
      entry.shape.length === 2 &&
      entry.name.endsWith(WEIGHT) &&
      !isQuantized(entry) &&
      tensorRole(entry, vocabulary) !== "embedding",
  );
  return [...new Set(["lm_head", ...left.map(moduleOf)])].sort(compareUtf8);
}

/** The weights of a linear module in a layer, by name and shape. */
function isLinear(entry: TensorEntry): boolean {
  if (entry.shape.length !== 2 || !entry.name.endsWith(WEIGHT) || parseLayerName(entry.name) === undefined)
    return false;
  const module = moduleOf(entry);
  return !NEVER.some((pattern) => pattern.test(module));
}

function matrixOf(entry: TensorEntry): Matrix {
  const [rows = 0, columns = 0] = entry.shape;
  const dtype = asScaleDtype(entry.dtype);
  const where = { tensor: entry.name };
  if (dtype === undefined) throw unsupported(where, entry.dtype, "F32, F16 or BF16");
  if (/\.c_attn$/.test(moduleOf(entry)) && columns > rows) {
    throw unsupported(where, "weights stored as [inputs, outputs]", "[outputs, inputs], as linear modules have them");
  }
  return { rows, columns, dtype };
}

/** The same text for weights, by name, that servers fuse. */
export function fusedKey(name: string): string {
  const module = moduleOf({ name });
  const dot = module.lastIndexOf(".");
  const last = module.slice(dot + 1);
  const set = FUSED.find((names) => names.includes(last));
  return set === undefined ? module : `${module.slice(0, dot)}.${set.join("+")}`;
}

function unsupported(
  where: { tensor?: string; file?: string; field?: string },
  found: string,
  expected: string,
): MergeyardError {
  return new MergeyardError("QuantizeModelUnsupported", { where, found, expected });
}
