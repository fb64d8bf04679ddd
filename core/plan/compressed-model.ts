// Which tensors of a model a folder quantizes into parts, and the plan of its files: shards, headers, index and config,
// all known from headers. Called by the step that writes such folders, and by pipelines with such an output.
import type { Checkpoint, TensorEntry } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { describeQuantization } from "../formats/quantized/quantization-config.ts";
import type { TensorSpec } from "../formats/safetensors/safetensors.ts";
import { planUnitShards, type ShardPlan } from "../formats/safetensors/shard-plan.ts";
import { stringifyPython } from "../json.ts";
import type { FolderScheme } from "../schemes/registry.ts";
import type { Matrix, Part } from "../schemes/scheme.ts";
import { checkReadable } from "../universal/conversion.ts";
import { compareUtf8 } from "../utf8-order.ts";
import { findMisfit, type LinearModule, listIgnored, listLinear, moduleOf } from "./linear-modules.ts";

/** A linear module's weights and the parts that they become. */
export type CompressedMatrix = {
  readonly kind: "matrix";
  readonly entry: TensorEntry;
  /** Path of the module: the tensor's name without `.weight`. */
  readonly module: string;
  readonly matrix: Matrix;
  /** Id of a scheme that folders hold, and its parts of the matrix. */
  readonly scheme: string;
  readonly parts: readonly Part[];
  /** What a server fuses with it, itself included, in name order: tensors that share what the scheme measures. */
  readonly fused: readonly TensorEntry[];
};

/** A tensor that stays as it is. */
export type CopiedTensor = { readonly kind: "copy"; readonly entry: TensorEntry };

export type CompressedUnit = CompressedMatrix | CopiedTensor;

/** What of a model is quantized, and what its folder says of it. */
export type CompressedUnits = {
  /** In the order in which they are made. */
  readonly units: readonly CompressedUnit[];
  /** Text of config.json. */
  readonly config: string;
  readonly ignore: readonly string[];
};

export type CompressedModel = ShardPlan & CompressedUnits;

/** The scheme of every module: one for all, or a bit plan's. Undefined: the module stays as it is. */
export type ChooseScheme = (module: LinearModule) => FolderScheme | undefined;

/**
 * Plans the folder of a model. Linear modules in layers are quantized; `ignored` names further ones to leave as they
 * are, by path or as `re:` and an expression. Several schemes are of compressed-tensors all.
 * Throws QuantizeModelUnsupported, QuantizeShapeUnsupported, QuantizedFolderUnsupported (a wrong expression),
 * CheckpointNeedsConversion, what `choose` and what planning shards throws.
 */
export function planCompressedModel(
  checkpoint: Checkpoint,
  choose: ChooseScheme,
  ignored: readonly string[],
  maxShardBytes: number,
): CompressedModel {
  checkReadable(checkpoint);
  const model = planCompressedUnits(checkpoint, choose, ignored);
  return { ...planUnitShards(model.units.map(specsOf), maxShardBytes), ...model };
}

/** The same without the files. */
export function planCompressedUnits(
  checkpoint: Pick<Checkpoint, "tensors" | "config">,
  choose: ChooseScheme,
  ignored: readonly string[],
): CompressedUnits {
  const { config, tensors } = checkpoint;
  const modules = listLinear(checkpoint, ignored);
  const chosen = modules.flatMap((module) => {
    const scheme = choose(module);
    return scheme === undefined ? [] : [{ scheme, unit: planMatrix(module, scheme) }];
  });
  const matrices = new Map(chosen.map(({ unit }) => [unit.entry, unit]));
  const units = [...tensors]
    .sort((a, b) => compareUtf8(`${moduleOf(a)}.`, `${moduleOf(b)}.`) || compareUtf8(a.name, b.name))
    .map((entry) => matrices.get(entry) ?? ({ kind: "copy", entry } as const));
  const ignore = listIgnored(checkpoint, (entry) => matrices.has(entry));
  const groups = [...Map.groupBy(chosen, ({ scheme }) => scheme)].map(([{ form }, own]) => {
    return { form, modules: own.map(({ unit }) => unit.module) };
  });
  const [dtype = "F32"] = units.flatMap((unit) => (unit.kind === "matrix" ? [unit.matrix.dtype] : []));
  const quantization = groups.length === 0 ? {} : { quantization_config: describeQuantization(groups, ignore, dtype) };
  return { units, config: stringifyPython({ ...config, ...quantization }), ignore };
}

/** The tensors that a unit puts into the file, in the order in which they are made. */
export function specsOf(
  unit: CopiedTensor | Pick<CompressedMatrix, "kind" | "module" | "parts">,
): readonly TensorSpec[] {
  if (unit.kind === "copy") return [unit.entry];
  return unit.parts.map(({ name, dtype, shape }) => ({ name: `${unit.module}.${name}`, dtype, shape }));
}

function planMatrix({ entry, module, matrix, fused }: LinearModule, scheme: FolderScheme): CompressedMatrix {
  const misfit = findMisfit(matrix, scheme);
  if (misfit !== undefined) {
    const expected = `a multiple of ${misfit.unit} for ${scheme.id}`;
    const where = { tensor: entry.name };
    throw new MergeyardError("QuantizeShapeUnsupported", { where, found: misfit.found, expected });
  }
  return { kind: "matrix", entry, module, matrix, scheme: scheme.id, parts: scheme.parts(matrix), fused };
}
