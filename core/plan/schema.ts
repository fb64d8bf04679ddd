// The plan: a JSON Lines file, one header line and one line per unit. Written by the planner from headers alone, read
// by every worker. The zod schemas are its only definition; all types are inferred from them.
import * as z from "zod";
import { digestSchema as digest } from "../artifact/digest-schema.ts";
import { count } from "../schema-atoms.ts";
import { BLOCK_SCHEME_IDS } from "../schemes/registry.ts";
import { DTYPES, SCALE_DTYPES } from "../tensor.ts";

const dtype = z.enum(DTYPES);
const shape = z.array(count);
const parameterValues = z.record(z.string(), z.union([z.number(), z.boolean(), z.string()]));

const byteRangeSchema = z.strictObject({ file: z.string().min(1), offset: count, bytes: count });

/** A model that units read: a folder in a store. */
export const sourceSchema = z.strictObject({
  /** The reference as the recipe spells it. */
  model: z.string(),
  /** URI of the store that holds the folder, and the folder's key prefix in it ("" or ending in "/"). */
  store: z.string(),
  prefix: z.string(),
  /** The file of the folder that is the model, where the reference names one. */
  file: z.string().optional(),
  format: z.string(),
  /**
   * Identity of the files without reading them: digest of their names, sizes and ETags; for a universal checkpoint or
   * a published artifact, the digest of its manifest.
   */
  fingerprint: digest,
  /**
   * adopted: a universal checkpoint or artifact, its tensor digests known from its manifest; pending: the describe unit
   * `describedBy` of this plan will make it one, its folder and digests are in that unit's receipt; foreign: read as it
   * is; merged: the units of stage `mergedBy` make it, its digests are in their receipts.
   */
  state: z.enum(["adopted", "pending", "foreign", "merged"]),
  describedBy: z.strictObject({ stage: count, index: count }).optional(),
  mergedBy: z.strictObject({ stage: count }).optional(),
});

const scaleDtype = z.enum(SCALE_DTYPES);
const codeBits = z.literal([2, 3, 4, 8]);
const positive = z.int().positive();

/** How the parts of a module are stored: `core/schemes/folder-form.ts` defines the fields. */
const partsSchema = z.discriminatedUnion("container", [
  z.strictObject({
    container: z.literal("compressed-tensors"),
    format: z.enum([
      "pack-quantized",
      "int-quantized",
      "float-quantized",
      "nvfp4-pack-quantized",
      "mxfp4-pack-quantized",
    ]),
    bits: positive,
    type: z.enum(["int", "float"]),
    symmetric: z.boolean(),
    strategy: z.enum(["tensor", "channel", "group", "block", "tensor_group"]),
    group: positive.optional(),
    block: z.tuple([positive, positive]).optional(),
    scales: scaleDtype,
    ordered: z.boolean(),
  }),
  z.strictObject({
    container: z.literal("gptq"),
    bits: codeBits,
    group: positive.optional(),
    version: z.literal([1, 2]),
  }),
  z.strictObject({ container: z.literal("awq"), group: positive }),
  z.strictObject({
    container: z.literal("bitsandbytes"),
    block: positive,
    nested: z.strictObject({ block: positive, offset: z.number() }).optional(),
  }),
  z.strictObject({ container: z.literal("bitsandbytes-int8") }),
  z.strictObject({
    container: z.literal("hqq"),
    bits: codeBits,
    group: positive,
    stored: scaleDtype,
    axis: z.literal(0).optional(),
  }),
]);

/** How values are stored: `core/checkpoint.ts` defines the fields. */
const packingSchema = z.strictObject({
  scheme: z.enum(BLOCK_SCHEME_IDS).optional(),
  parts: partsSchema.optional(),
  interleavedHeads: positive.optional(),
  shift: z.number().optional(),
});

const tensorPlace = {
  /** Index into the plan's sources. */
  source: count,
  tensor: z.string(),
  /** Of the values. */
  dtype,
  /** Shape as stored. */
  shape,
  ranges: z.array(byteRangeSchema),
  packing: packingSchema.optional(),
};

/**
 * A factor of a low-rank update: one axis is the rank. `swapped`: its axes are stored the other way round. `part`: of
 * each row of `ranges`, which may be some rows of the tensor only, every `step`-th value from `first` on; a digest of
 * the tensor is not compared.
 */
const factorSchema = z.strictObject({
  ...tensorPlace,
  swapped: z.boolean(),
  part: z.strictObject({ step: positive, first: count }).optional(),
});

/**
 * W + scale L R, for a tensor W seen as a matrix of its first axis by all others: L is [rows, rank], R is [rank,
 * columns], a row of ones when there is none. float32, terms in the order of the rank, rounded once to W's dtype.
 */
const loraSchema = z.strictObject({
  rank: z.int().positive(),
  scale: z.number(),
  left: factorSchema,
  right: factorSchema.optional(),
});

/** A tensor of a source, whole, with the adapter that is merged into it as it is read. */
const storedTensorSchema = z.strictObject({ ...tensorPlace, lora: loraSchema.optional() });

/** `from` of a run whose rows are zeros, are means of `means`, or are the mean of all rows before the run. */
export const ROWS_ZERO = -1;
export const ROWS_MEAN = -2;
export const ROWS_PADDING = -3;

/**
 * An embedding whose rows are put in another order, for a vocabulary that is not its model's own. A row of several axes
 * is everything after the first axis. Tensor 0 is the input's own, tensor i is `others[i - 1]`.
 */
const rowGatherSchema = z.strictObject({
  /** Dtype of the gathered rows: the stored one, or F32 where rows are computed or come from another dtype. */
  dtype,
  others: z.array(storedTensorSchema),
  /**
   * Rows that are means of stored rows, given as tensor and row: float32 sum in this order, divided by their number.
   */
  means: z.array(z.array(z.tuple([count, count])).min(1)),
  /** [from, first row, rows] in output order: of tensor `from`, or as the constants above say. */
  runs: z.array(z.tuple([z.int().min(ROWS_PADDING), count, count])),
});

const halfDtype = z.enum(["F16", "BF16"]);

/** The part of one source tensor that a unit reads. */
const unitInputSchema = z.strictObject({
  ...storedTensorSchema.shape,
  /** Only the top-left `rows` x `columns` of a 2-D tensor takes part (embeddings of different size). */
  cut: z.strictObject({ rows: count, columns: count }).optional(),
  /** The rows that take part, when they are not the stored ones in their order. Never together with `cut`. */
  rows: rowGatherSchema.optional(),
  isBase: z.boolean(),
  /** Under `mergekit_compat: strict`: the dtype of 16 bits that the reference reads it in; values are rounded to it. */
  working: halfDtype.optional(),
  /**
   * What was measured of a model, given to the method beside the weights: one value for each of the tensor's elements,
   * or a tensor of a shape of its own, read whole.
   */
  statistic: z.enum(["elements", "whole"]).optional(),
  /** The reference as the recipe spells it, where that is not its source's own: a model with an adapter. */
  model: z.string().optional(),
  parameters: parameterValues,
});

/** One output tensor of a merge unit. `offset` counts from the first byte after the output file's header. */
const unitTensorSchema = z.strictObject({
  name: z.string(),
  dtype,
  shape,
  offset: count,
  bytes: count,
  /** Registered method id, or "copy": the single input's bytes, untouched. */
  method: z.string(),
  parameters: parameterValues,
  seed: count,
  /** Under `mergekit_compat: strict`: the dtype of 16 bits that the reference rounds to after every step. */
  working: halfDtype.optional(),
  inputs: z.array(unitInputSchema).min(1),
});

const unitBase = {
  stage: count,
  index: count,
  /** Memory that is enough for a worker that runs this unit, all of it included; with more it reads less. */
  peakBytes: count,
  bytesRead: count,
  bytesWritten: count,
};

/** Read a tensor file of a foreign safetensors checkpoint and digest its header and tensors. Writes only a receipt. */
const adoptUnitSchema = z.strictObject({
  ...unitBase,
  op: z.literal("adopt"),
  source: count,
  file: z.string(),
});

/** How a tensor's bytes are gathered: `core/universal/box.ts` defines the fields. */
const boxSchema = z.strictObject({
  ranges: z.array(byteRangeSchema),
  sourceShape: shape,
  sourceOffset: shape,
  size: shape,
  targetOffset: shape,
});
const gatherSchema = z.strictObject({
  rule: z.enum(["join", "equal", "mean"]),
  copies: z.array(z.array(boxSchema)).min(1),
  packing: packingSchema.optional(),
});

/** Write one tensor file of the universal checkpoint of a source in another format, by ranged reads of its files. */
const convertUnitSchema = z.strictObject({
  ...unitBase,
  op: z.literal("convert"),
  source: count,
  file: z.string(),
  /** In file order; the header follows from them. */
  tensors: z.array(z.strictObject({ name: z.string(), dtype, shape, gather: gatherSchema })).min(1),
});

/** Make a universal checkpoint of a source: its files and universal.json under checkpoints/<model>/<digest>/. */
const describeUnitSchema = z.strictObject({
  ...unitBase,
  op: z.literal("describe"),
  source: count,
  /** Name under checkpoints/. */
  model: z.string(),
  /** The adopt or convert units whose receipts it reads. */
  adopts: z.array(z.strictObject({ stage: count, index: count })),
});

/** A tensor of a GGUF file: tensor number `tensor` of its unit, quantized. */
const derivedTensorSchema = z.strictObject({
  /** In the file. */
  name: z.string(),
  tensor: count,
  shape,
  scheme: z.enum(BLOCK_SCHEME_IDS),
  /** Which one of a stack of experts: the file's tensor of that name is all of them, one after the other. */
  expert: count.optional(),
  /** Heads whose rows [2, n] become [n, 2]. */
  permutedHeads: z.int().positive().optional(),
  /** Added to every value. */
  shift: z.number().optional(),
  /** From the file's first byte; zeros up to the next tensor's. */
  offset: count,
  bytes: count,
});

/**
 * Tensor number `tensor` of its unit in a file of parts: its own one after the other, or a copy of it. Parts that the
 * scheme knows from the shape alone stand before all that are made, or after them.
 */
const derivedModuleSchema = z.strictObject({
  tensor: count,
  shape,
  /** What makes the parts, and the dtype that scales take; undefined: the only part is a copy. */
  scheme: z.string().optional(),
  scales: scaleDtype.optional(),
  /** Tensors of the unit, itself included, whose largest magnitude the scheme must know before its first row. */
  fused: z.array(count).min(1).optional(),
  /** Where the Hessian of its inputs lies in the file of them. */
  hessian: z.strictObject({ dtype, shape, ranges: z.array(byteRangeSchema) }).optional(),
  /** Of the parts that are made, together, from the file's first byte. */
  offset: count,
  bytes: count,
  parts: z.array(z.strictObject({ name: z.string(), dtype, shape, offset: count, bytes: count })).min(1),
});

const derivedFileBase = {
  /** Format and scheme of the output that the file is of, as recipes spell them. */
  output: z.string(),
  file: z.string(),
  fileBytes: count,
  /** Its first bytes, in base64. */
  header: z.string(),
};

/** A file that is made of a unit's tensors as they are merged, beside its own; its tensors are in the unit's order. */
const derivedFileSchema = z.discriminatedUnion("format", [
  z.strictObject({
    ...derivedFileBase,
    format: z.literal("gguf"),
    tensors: z.array(derivedTensorSchema),
    /** What tensors are quantized with, by their names in the file. */
    imatrix: z.strictObject({ store: z.string(), key: z.string(), digest }).optional(),
  }),
  z.strictObject({
    ...derivedFileBase,
    format: z.literal("safetensors"),
    tensors: z.array(derivedModuleSchema),
    /** The file that has the tensors' Hessians. */
    hessians: z
      .strictObject({ store: z.string(), prefix: z.string(), file: z.string(), fingerprint: digest })
      .optional(),
  }),
]);

/** Merge tensors into one safetensors file of the output. */
const mergeUnitSchema = z.strictObject({
  ...unitBase,
  op: z.literal("merge"),
  /** File name of the output in the artifact folder. */
  file: z.string(),
  /** True when the file is only read by later stages, and is no part of the artifact. */
  intermediate: z.boolean().optional(),
  /** Size of the whole file, header included. */
  fileBytes: count,
  tensors: z.array(unitTensorSchema).min(1),
  derived: z.array(derivedFileSchema),
  nonFinite: z.enum(["error", "propagate"]),
  /** `mergekit_compat: strict`: reproduce the reference's documented defects. */
  strict: z.boolean(),
  /** Measure how the models agree and disagree, on the way. */
  statistics: z.boolean(),
  /**
   * Of a method that must know the whole model: the prepare stages of its rounds, in their order, and what its
   * decisions must know of the model. Only where the unit has a tensor of that method.
   */
  prepared: z.strictObject({ stages: z.array(count).min(1), elements: count, tensors: count }).optional(),
});

/** Measure the tensors of a merge unit for one round of their method, and write the totals. */
const prepareUnitSchema = z.strictObject({
  ...unitBase,
  op: z.literal("prepare"),
  /** Among the method's rounds. */
  round: count,
  /** The merge unit. */
  of: z.strictObject({ stage: count, index: count }),
});

export const unitSchema = z.discriminatedUnion("op", [
  adoptUnitSchema,
  convertUnitSchema,
  describeUnitSchema,
  prepareUnitSchema,
  mergeUnitSchema,
]);

const stageSchema = z.strictObject({
  index: count,
  name: z.string(),
  kind: z.enum(["shard", "prepare", "apply", "export"]),
  /** What its units do, by the method that takes most: decides the machine (machine.ts). */
  work: z.enum(["move", "element", "row", "slice", "tensor"]),
  units: count,
  bytesRead: count,
  bytesWritten: count,
  peakBytes: count,
});

/** Small files of the artifact, settled at plan time (config.json, tokenizer, index, model card). */
const sideFileSchema = z.discriminatedUnion("from", [
  /** `encoding`: what the text stands for, where it is not itself UTF-8. */
  z.strictObject({
    from: z.literal("text"),
    name: z.string(),
    text: z.string(),
    encoding: z.literal("base64").optional(),
  }),
  z.strictObject({ from: z.literal("source"), name: z.string(), source: count, file: z.string(), bytes: count }),
]);

export const planHeaderSchema = z.strictObject({
  plan: z.literal(1),
  engine: z.string(),
  name: z.string(),
  /** Digest of the recipe, the sources' fingerprints and the engine version: the identity of the run. */
  run: z.string(),
  /** The recipe as the user wrote it. */
  recipe: z.string(),
  method: z.string(),
  sources: z.array(sourceSchema),
  stages: z.array(stageSchema),
  sideFiles: z.array(sideFileSchema),
  /** False: the units' own files are no part of the version, only what is derived from them. */
  publishesCheckpoint: z.boolean(),
  checks: z.strictObject({ maxNonFinite: count }),
  publish: z.strictObject({ model: z.string(), channel: z.string() }).optional(),
  warnings: z.array(z.string()),
});

export type StoredTensor = z.infer<typeof storedTensorSchema>;
export type LoraUpdate = z.infer<typeof loraSchema>;
export type LoraFactor = z.infer<typeof factorSchema>;
export type RowGather = z.infer<typeof rowGatherSchema>;
export type UnitInput = z.infer<typeof unitInputSchema>;
export type UnitTensor = z.infer<typeof unitTensorSchema>;
export type AdoptUnit = z.infer<typeof adoptUnitSchema>;
export type ConvertUnit = z.infer<typeof convertUnitSchema>;
export type DescribeUnit = z.infer<typeof describeUnitSchema>;
export type DerivedTensor = z.infer<typeof derivedTensorSchema>;
export type DerivedModule = z.infer<typeof derivedModuleSchema>;
export type DerivedFile = z.infer<typeof derivedFileSchema>;
export type PrepareUnit = z.infer<typeof prepareUnitSchema>;
export type MergeUnit = z.infer<typeof mergeUnitSchema>;
export type Unit = z.infer<typeof unitSchema>;
export type Stage = z.infer<typeof stageSchema>;
export type PlanSource = z.infer<typeof sourceSchema>;
export type SideFile = z.infer<typeof sideFileSchema>;
export type PlanHeader = z.infer<typeof planHeaderSchema>;
export type Plan = { readonly header: PlanHeader; readonly units: readonly Unit[] };

/** What a file of the plan's own holds. */
export function writtenBytes({ text, encoding }: Extract<SideFile, { from: "text" }>): Uint8Array {
  return encoding === undefined ? new TextEncoder().encode(text) : new Uint8Array(Buffer.from(text, encoding));
}

/** A stored tensor of some source that is read for an input. */
export type TensorPlace = Omit<StoredTensor, "lora">;

/** Inputs that are models' weights; statistics come after them. */
export function modelsOf(inputs: UnitTensor["inputs"]): readonly UnitInput[] {
  return inputs.filter(({ statistic }) => statistic === undefined);
}

/** The reference to an input's model as the recipe spells it; `sources` are the plan's. */
export function modelName(
  { model, source }: Pick<UnitInput, "model" | "source">,
  sources: readonly { readonly model: string }[],
): string {
  return model ?? sources[source]?.model ?? "";
}

/** Everything stored that an input reads: its own tensor first. */
export function placesOf(input: UnitInput): readonly TensorPlace[] {
  return [input, ...(input.rows?.others ?? [])].flatMap((stored) => {
    const { lora } = stored;
    if (lora === undefined) return [stored];
    return lora.right === undefined ? [stored, lora.left] : [stored, lora.left, lora.right];
  });
}
