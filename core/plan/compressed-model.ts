// Which tensors of a model a folder quantizes into parts, and the plan of its files: shards, headers, index and config,
// all known from headers. Called by the step that writes such folders, and by pipelines with such an output.
import type { Checkpoint, TensorEntry } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { matchesModule } from "../formats/quantized/compressed-tensors-config.ts";
import { describeQuantization } from "../formats/quantized/quantization-config.ts";
import type { TensorSpec } from "../formats/safetensors/safetensors.ts";
import { planUnitShards, type ShardPlan } from "../formats/safetensors/shard-plan.ts";
import { FOLDER_ROWS } from "../schemes/folder-form.ts";
import type { FolderScheme } from "../schemes/registry.ts";
import type { Matrix, Part, ScaleDtype } from "../schemes/scheme.ts";
import { checkReadable } from "../universal/conversion.ts";
import { compareUtf8 } from "../utf8-order.ts";
import { configSections, parseLayerName, tensorRole } from "./architecture.ts";
import { stringifyConfig } from "./output-config.ts";

/** A linear module's weights and the parts that they become. */
export type CompressedMatrix = {
  readonly kind: "matrix";
  readonly entry: TensorEntry;
  /** Path of the module: the tensor's name without `.weight`. */
  readonly module: string;
  readonly matrix: Matrix;
  readonly parts: readonly Part[];
  /** What a server fuses with it, itself included, in name order: tensors that share what the scheme measures. */
  readonly fused: readonly TensorEntry[];
};

/** A tensor that stays as it is. */
export type CompressedCopy = { readonly kind: "copy"; readonly entry: TensorEntry };

export type CompressedUnit = CompressedMatrix | CompressedCopy;

/** What of a model is quantized, and what its folder says of it. */
export type CompressedUnits = {
  /** In the order in which they are made. */
  readonly units: readonly CompressedUnit[];
  /** Text of config.json. */
  readonly config: string;
  readonly ignore: readonly string[];
};

export type CompressedModel = ShardPlan & CompressedUnits;

/** What must come from the tensors beside each other in one module. Source: vLLM, packed_modules_mapping. */
const FUSED: readonly (readonly string[])[] = [
  ["q_proj", "k_proj", "v_proj"],
  ["gate_proj", "up_proj"],
  ["w1", "w3"],
];

/** Modules in layers that servers never quantize: routers of experts, and towers of other inputs than text. */
const NEVER = [
  /(?:^|\.)(?:gate|router|shared_expert_gate)$/,
  /(?:^|\.)(?:vision\w*|visual|audio\w*|multi_modal_projector)\./,
  /norm\d*$/,
  /embed\w*$|relative_attention_bias$/,
];

const WEIGHT = ".weight";
const SCALE_DTYPES: Readonly<Record<string, ScaleDtype>> = { F32: "F32", BF16: "BF16", F16: "F16" };

/**
 * Plans the folder of a model under one scheme. Linear modules in layers are quantized; `ignored` names further ones to
 * leave as they are, by path or as `re:` and an expression.
 * Throws QuantizeModelUnsupported, QuantizeShapeUnsupported, QuantizedFolderUnsupported (a wrong expression),
 * CheckpointNeedsConversion, and what planning shards throws.
 */
export function planCompressedModel(
  checkpoint: Checkpoint,
  scheme: FolderScheme,
  ignored: readonly string[],
  maxShardBytes: number,
): CompressedModel {
  checkReadable(checkpoint);
  const model = planCompressedUnits(checkpoint, scheme, ignored);
  return { ...planUnitShards(model.units.map(specsOf), maxShardBytes), ...model };
}

/** The same without the files. */
export function planCompressedUnits(
  checkpoint: Pick<Checkpoint, "tensors" | "config">,
  scheme: FolderScheme,
  ignored: readonly string[],
): CompressedUnits {
  const { config } = checkpoint;
  if (config === undefined) throw unsupported({ file: "config.json" }, "no config.json", "the model's own");
  if (config.quantization_config !== undefined) {
    throw unsupported({ file: "config.json", field: "quantization_config" }, "a quantized model", "weights as floats");
  }
  const isChosen = (entry: TensorEntry) =>
    isLinear(entry) && !ignored.some((rule) => matchesModule(rule, moduleOf(entry)));
  const chosen = checkpoint.tensors.filter(isChosen);
  if (chosen.length === 0) throw unsupported({}, "no linear module in any layer", "a model of layers");
  const stacked = checkpoint.tensors.find(({ name, shape }) => shape.length === 3 && /\bexperts\b/.test(name));
  if (stacked !== undefined) {
    throw unsupported({ tensor: stacked.name }, "experts in one tensor", "a tensor for each expert");
  }
  const sets = Map.groupBy(chosen, fusedKey);
  const units = [...checkpoint.tensors]
    .sort((a, b) => compareUtf8(`${moduleOf(a)}.`, `${moduleOf(b)}.`) || compareUtf8(a.name, b.name))
    .map((entry) => {
      if (!isChosen(entry)) return { kind: "copy", entry } as const;
      return planMatrix(entry, scheme, sets.get(fusedKey(entry)) ?? [entry]);
    });
  const ignore = listIgnored(checkpoint, isChosen);
  const [dtype = "F32"] = units.flatMap((unit) => (unit.kind === "matrix" ? [unit.matrix.dtype] : []));
  const compressed = { ...config, quantization_config: describeQuantization(scheme.form, ignore, dtype) };
  return { units, config: stringifyConfig(compressed), ignore };
}

/** The tensors that a unit puts into the file, in the order in which they are made. */
export function specsOf(unit: CompressedUnit): readonly TensorSpec[] {
  if (unit.kind === "copy") return [unit.entry];
  return unit.parts.map(({ name, dtype, shape }) => ({ name: `${unit.module}.${name}`, dtype, shape }));
}

function moduleOf({ name }: TensorEntry): string {
  return name.endsWith(WEIGHT) ? name.slice(0, -WEIGHT.length) : name;
}

/** The weights of a linear module in a layer, by name and shape. */
function isLinear(entry: TensorEntry): boolean {
  if (entry.shape.length !== 2 || !entry.name.endsWith(WEIGHT) || parseLayerName(entry.name) === undefined)
    return false;
  const module = moduleOf(entry);
  return !NEVER.some((pattern) => pattern.test(module));
}

function planMatrix(entry: TensorEntry, scheme: FolderScheme, fused: readonly TensorEntry[]): CompressedMatrix {
  const [rows = 0, columns = 0] = entry.shape;
  const dtype = SCALE_DTYPES[entry.dtype];
  const where = { tensor: entry.name };
  if (dtype === undefined) throw unsupported(where, entry.dtype, "F32, F16 or BF16");
  if (/\.c_attn$/.test(moduleOf(entry)) && columns > rows) {
    throw unsupported(where, "weights stored as [inputs, outputs]", "[outputs, inputs], as linear modules have them");
  }
  if (rows === 0 || columns === 0 || columns % scheme.columnUnit !== 0) {
    const expected = `a multiple of ${scheme.columnUnit} for ${scheme.id}`;
    throw new MergeyardError("QuantizeShapeUnsupported", { where, found: `rows of ${columns}`, expected });
  }
  const unit = FOLDER_ROWS[scheme.form.container];
  if (rows % unit !== 0) {
    const expected = `a multiple of ${unit} for ${scheme.id}`;
    throw new MergeyardError("QuantizeShapeUnsupported", { where, found: `${rows} rows`, expected });
  }
  const matrix = { rows, columns, dtype };
  return { kind: "matrix", entry, module: moduleOf(entry), matrix, parts: scheme.parts(matrix), fused };
}

/** The same text for tensors of one fused set. */
function fusedKey(entry: TensorEntry): string {
  const module = moduleOf(entry);
  const dot = module.lastIndexOf(".");
  const last = module.slice(dot + 1);
  const set = FUSED.find((names) => names.includes(last));
  return set === undefined ? module : `${module.slice(0, dot)}.${set.join("+")}`;
}

/** Linear modules that stay as they are; servers want them named. The head is named also where it is tied. */
export function listIgnored(
  { tensors, config }: Pick<Checkpoint, "tensors" | "config">,
  isChosen: (entry: TensorEntry) => boolean,
): readonly string[] {
  const vocabulary = configSections(config)
    .map(({ vocab_size: size }) => size)
    .find((size) => typeof size === "number");
  const left = tensors.filter(
    (entry) =>
      entry.shape.length === 2 &&
      entry.name.endsWith(WEIGHT) &&
      !isChosen(entry) &&
      tensorRole(entry, vocabulary) !== "embedding",
  );
  return [...new Set(["lm_head", ...left.map(moduleOf)])].sort(compareUtf8);
}

function unsupported(
  where: { tensor?: string; file?: string; field?: string },
  found: string,
  expected: string,
): MergeyardError {
  return new MergeyardError("QuantizeModelUnsupported", { where, found, expected });
}
