// The receipt of a unit: what it made, at which digests, and what that cost. Created once per run, stage and unit;
// a unit with a receipt is never run again in that run.
import * as z from "zod";
import { digestSchema as digest } from "../artifact/digest-schema.ts";
import { count } from "../schema-atoms.ts";
import { BLOCK_SCHEME_IDS } from "../schemes/registry.ts";
import { DTYPES } from "../tensor.ts";

const tensorDigestSchema = z.strictObject({
  name: z.string(),
  dtype: z.enum(DTYPES),
  shape: z.array(count),
  /** Absolute offset in the file. */
  offset: count,
  bytes: count,
  digest,
});

/** A tensor file: `digest` is defined in core/artifact/digest.ts from the header's digest and the tensors' digests. */
export const tensorFileSchema = z.strictObject({
  /** File name in its folder. */
  name: z.string(),
  bytes: count,
  digest,
  headerDigest: digest,
  tensors: z.array(tensorDigestSchema),
});

/** A file of quantized tensors: `digest` is made of its header's and its blocks' as a tensor file's is. */
export const blockFileSchema = z.strictObject({
  name: z.string(),
  bytes: count,
  digest,
  headerDigest: digest,
  /** One after another up to the file's end: each with the zeros that follow it. */
  blocks: z.array(
    z.strictObject({
      name: z.string(),
      scheme: z.enum(BLOCK_SCHEME_IDS),
      shape: z.array(count),
      offset: count,
      bytes: count,
      digest,
    }),
  ),
});

/** A file made of the tensors of a unit, beside its own: GGUF, or safetensors. */
export const derivedFileListingSchema = z.union([tensorFileSchema, blockFileSchema]);

/** What quantizing one tensor lost: core/ops/loss.ts defines the measures. */
const unitLossSchema = z.strictObject({
  /** Format and scheme of the output, as recipes spell them. */
  output: z.string(),
  /** In the merged checkpoint. */
  tensor: z.string(),
  scheme: z.string(),
  elements: count,
  signal: z.number(),
  noise: z.number(),
  largest: z.number(),
  clipped: count,
  /** Sum of squares of what the merge changed, ||W - W_base||^2; null where there is no base, or a copy. */
  delta: z.number().nullable(),
});

/** How the models of one tensor agree and disagree; lists follow `models`, the inputs without the base. */
const unitStatisticsSchema = z.strictObject({
  name: z.string(),
  elements: count,
  models: z.array(z.string()),
  base: z.string().nullable(),
  norms: z.array(z.number()),
  /** Of models i < j: 01, 02, ..., 12, ...; null where a norm is 0. */
  cosines: z.array(z.number().nullable()),
  signConflicts: count,
  /** Elements that the method kept of each; null where it does not choose among them. */
  kept: z.array(count).nullable(),
  nonFinite: z.array(count),
});

export const receiptSchema = z.strictObject({
  receipt: z.literal(1),
  run: z.string(),
  stage: count,
  index: count,
  op: z.string(),
  /** Content key of the unit (operation, parameters, input digests, engine version). */
  key: digest,
  /** True when the output was taken from the cache and nothing was computed. */
  cached: z.boolean(),
  /** Key in the yard of the file that this unit made or found; null when it makes none (adopt). */
  outputKey: z.string().nullable(),
  file: tensorFileSchema.nullable(),
  /** Files made of the same tensors on the way, and their keys in the yard. */
  derived: z.array(z.strictObject({ key: z.string(), file: derivedFileListingSchema })),
  losses: z.array(unitLossSchema),
  /** describe units: the folder of the universal checkpoint and its digest. */
  checkpoint: z.strictObject({ prefix: z.string(), digest }).nullable(),
  /** Of every merged tensor, in file order, when the plan asks for them. */
  statistics: z.array(unitStatisticsSchema).nullable(),
  /** NaN and infinite values met, by input model and in the output. */
  nonFinite: z.strictObject({ inputs: z.record(z.string(), count), output: count }),
  bytesRead: count,
  bytesWritten: count,
  cpuMs: z.number().nonnegative(),
  wallMs: z.number().nonnegative(),
  /** When it began, in milliseconds since the epoch; only for timelines. */
  startedMs: z.number(),
  /** Digest of the worker's container image, as the machine states it; null when cached, or outside of a container. */
  image: digest.nullable(),
  kernels: z.string(),
  threads: count,
});

export type BlockFile = z.infer<typeof blockFileSchema>;
export type DerivedFileListing = z.infer<typeof derivedFileListingSchema>;
export type UnitLoss = z.infer<typeof unitLossSchema>;
export type TensorFile = z.infer<typeof tensorFileSchema>;
export type UnitStatistics = z.infer<typeof unitStatisticsSchema>;
export type Receipt = z.infer<typeof receiptSchema>;
