// What every pipeline step takes and gives, as zod schemas: the contract between the state machine, its edges and the
// steps. Pointers and counts only, never a list that grows with the model: the state machine carries 256 KiB at most.
// The steps themselves are one file each beside this one.
import * as z from "zod";
import { YARD_LIMITS } from "../core/limits.ts";
import { fleetSchema } from "../core/plan/machine.ts";
import { receiptSchema } from "../core/plan/receipt.ts";
import { DTYPES } from "../core/tensor.ts";
import { checkpointInfoSchema } from "../core/universal/checkpoint-info.ts";

const count = z.int().nonnegative();
const uri = z.string().min(1);

/** Largest Batch array; more units than this share jobs. AWS Batch quota. */
export const JOBS_MAX = 10_000;

/** The run of a yard: what every step after the plan is given. */
const runRefSchema = z.strictObject({ yard: uri, run: z.string().min(1) });

/** Of a stage, what the state machine needs: job i of `jobs` runs units i, i + jobs, i + 2 jobs, ... below `units`. */
const stageRefSchema = z.strictObject({
  index: count,
  name: z.string(),
  kind: z.enum(["shard", "prepare", "apply", "export"]),
  units: z.int().positive(),
  jobs: z.int().positive().max(JOBS_MAX),
  /** Where its jobs run and what each gets: on AWS only. `memoryBytes` of `memoryMiB` are the engine's. */
  queue: z.enum(["cpu", "gpu"]),
  vcpus: z.int().positive(),
  memoryMiB: z.int().positive(),
  memoryBytes: z.int().positive(),
});

export const planInputSchema = z.strictObject({
  yard: uri,
  /** The pipeline's file: a store and a key in it; its folder is where relative model paths start. */
  pipeline: z.strictObject({ store: uri, key: z.string().min(1) }),
  /** Names given on the command line; they win over the pipeline's own `models:`. Values are model references. */
  models: z.record(z.string(), z.string()).default({}),
  /** URI of the current folder, the last place where a relative path is looked up; absent in the cloud. */
  folder: uri.optional(),
  /** Bytes of tensors in one output file; memory and threads of the workers that the plan is made for. */
  shardBytes: z.int().positive().optional(),
  memoryBytes: z.int().positive().optional(),
  threads: z.int().positive().optional(),
  /** Sizes of the jobs of the deployment that the plan is made in; absent where no such choice is left. */
  fleet: fleetSchema.optional(),
});

/** What a channel points to, and the run that moved it there (null: a person did). */
const currentSchema = z.strictObject({ version: z.string(), run: z.string().nullable() }).nullable();

export const planOutputSchema = z.strictObject({
  yard: uri,
  run: z.string(),
  /**
   * planned: units may have to run. unchanged: this run finished before, and its channel stands as the run or, since
   * then, a person has left it; nothing to do, `version` is what the run published, `current` what the channel says.
   */
  outcome: z.enum(["planned", "unchanged"]),
  /** When this plan was made; orders runs that publish to one channel (steps/publish.ts). */
  plannedMs: z.number(),
  /** In order; stages without units are left out. */
  stages: z.array(stageRefSchema),
  /** Published model, or null when the pipeline publishes nothing. */
  model: z.string().nullable(),
  channel: z.string().nullable(),
  version: z.string().nullable(),
  current: currentSchema,
});

export const unitInputSchema = z.strictObject({ ...runRefSchema.shape, stage: count, index: count });
export const unitOutputSchema = receiptSchema;

export const checkInputSchema = runRefSchema;
export const checkOutputSchema = z.strictObject({
  ...runRefSchema.shape,
  units: count,
  /** Units whose output was taken from the cache. */
  cached: count,
  files: count,
  tensors: count,
  bytes: count,
  nonFinite: count,
});

export const publishInputSchema = z.strictObject({ ...runRefSchema.shape, plannedMs: z.number() });
const publishOutcomeSchema = z.enum(["published", "unchanged", "lost-race", "not-requested"]);
export const publishOutputSchema = z.strictObject({
  ...runRefSchema.shape,
  /**
   * published: the channel points to `version` now. unchanged: nothing was written, as above. lost-race: the
   * version is there, but the channel belongs to a run planned later, or to a person's promotion: `current` says who.
   * not-requested: the pipeline has no `publish`; its files stay in the run's folder.
   */
  outcome: publishOutcomeSchema,
  model: z.string().nullable(),
  channel: z.string().nullable(),
  version: z.string().nullable(),
  current: currentSchema,
  files: count,
  bytes: count,
});

/** `runs/<run>/result.json`: created once, when a run has published or found nothing to publish. */
export const resultSchema = z.strictObject({ result: z.literal(1), ...publishOutputSchema.omit({ yard: true }).shape });

const pointerSchema = z.strictObject({
  version: z.string(),
  /** The run that moved the channel there; null when a person did (promote, rollback). */
  run: z.string().nullable(),
  /** When the move was decided: when the run was planned, or when the person asked. A later decision wins. */
  decidedMs: z.number(),
});

/** What a channel object holds: where it points, and where it pointed before. Overwritten by compare-and-swap only. */
export const channelSchema = z.strictObject({
  channel: z.literal(1),
  ...pointerSchema.shape,
  /** Newest first. */
  history: z.array(pointerSchema).max(YARD_LIMITS.channelHistory),
});

/** A typed error as data. `code` is one of ours, or a name of the platform (`States.Timeout`). */
export const errorRecordSchema = z.strictObject({
  code: z.string(),
  meaning: z.string(),
  where: z.record(z.string(), z.union([z.string(), z.number()])),
  found: z.string().optional(),
  expected: z.string().optional(),
  hint: z.string(),
  retryable: z.boolean(),
});

export const recordFailureInputSchema = z.strictObject({
  yard: uri,
  /** Null when planning failed: there is no run yet. */
  run: z.string().nullable(),
  /** The state that failed, when the state machine knows it. */
  state: z.string().optional(),
  /** As the state machine catches it. */
  error: z.looseObject({ Error: z.string(), Cause: z.string().optional() }),
});
export const failureSchema = z.strictObject({
  failure: z.literal(1),
  run: z.string().nullable(),
  state: z.string().nullable(),
  error: errorRecordSchema,
  /** Failed units, at most 20 of them; `unitsFailed` counts all. */
  units: z.array(z.strictObject({ stage: count, index: count, error: errorRecordSchema })),
  unitsFailed: count,
});
/** `key`: where the record was written, null without a run or when it could not be written (a full disk). */
export const recordFailureOutputSchema = z.strictObject({
  yard: uri,
  key: z.string().nullable(),
  ...failureSchema.shape,
});

export const notifyInputSchema = z.strictObject({
  yard: uri,
  run: z.string().nullable(),
  outcome: z.enum(["published", "unchanged", "lost-race", "not-requested", "failed"]),
});
export const notifyOutputSchema = z.strictObject({
  yard: uri,
  run: z.string().nullable(),
  outcome: notifyInputSchema.shape.outcome,
  units: count,
  cached: count,
  bytesRead: count,
  bytesWritten: count,
  cpuMs: z.number(),
});

/** A folder, or one file of it that is a checkpoint by itself. */
const sourceSchema = z.strictObject({ folder: uri, file: z.string().optional() });
export const diffInputSchema = z.strictObject({ a: sourceSchema, b: sourceSchema });
export const diffOutputSchema = z.strictObject({
  a: z.string(),
  b: z.string(),
  /** Tensors whose dtype and values are the same. */
  equal: count,
  onlyA: z.array(z.string()),
  onlyB: z.array(z.string()),
  shapes: z.array(z.strictObject({ name: z.string(), a: z.array(count), b: z.array(count) })),
  changed: z.array(
    z.strictObject({
      name: z.string(),
      dtypes: z.tuple([z.enum(DTYPES), z.enum(DTYPES)]),
      elements: count,
      /** Elements whose values differ; NaN equals NaN. Null where arithmetic is not defined: only the bytes differ. */
      changed: count.nullable(),
      /** Largest |b - a|, and |b - a| by |a| as Euclidean norms, of finite values. */
      maxAbs: z.number().nullable(),
      relative: z.number().nullable(),
    }),
  ),
});

export const gcInputSchema = z.strictObject({
  yard: uri,
  /** Newest versions of each model that stay; absent: what the yard's pipelines say, else all. */
  keep: z.int().positive().optional(),
  /** What is younger is left alone. */
  graceMs: count,
  /** True to say what would go, and remove nothing. */
  isTrial: z.boolean().default(false),
});
export const gcOutputSchema = z.strictObject({
  yard: uri,
  isTrial: z.boolean(),
  removed: z.array(
    z.strictObject({
      kind: z.enum(["version", "unfinished-version", "unfinished-push"]),
      model: z.string(),
      prefix: z.string(),
      files: count,
      bytes: count,
    }),
  ),
  bytes: count,
});

/** A folder to push as an upload of a model. */
export const pushInputSchema = z.strictObject({
  yard: uri,
  source: uri,
  model: z.string().min(1),
  upload: z.string().optional(),
  /** This process's number among those that push files of one upload. */
  rank: count.default(0),
  ranks: z.int().positive().default(1),
});
export const pushOutputSchema = z.strictObject({
  model: z.string(),
  upload: z.string(),
  source: uri,
  prefix: z.string(),
  step: count.nullable(),
  /** committed: whole now. present: it was whole before. waiting: other ranks have not finished. */
  outcome: z.enum(["committed", "present", "waiting"]),
  files: count,
  bytes: count,
  /** What this process had to send; the rest was there already. */
  sentFiles: count,
  sentBytes: count,
  /** Published version that the folder was before it was changed, and which of its files were. */
  base: z.strictObject({ model: z.string(), version: z.string() }).nullable(),
  changed: z.array(z.string()),
});

/** Public keys in PEM, one or several; when given, one of them must have signed the version. */
const trustedKeys = z.string().optional();

const signatureSchema = z.strictObject({
  /** valid: a trusted key has signed the manifest. unchecked: it is signed, and no key was given to check it with. */
  status: z.enum(["valid", "unchecked", "absent"]),
  /** Of the key that was checked; of all that the signatures name when none was. */
  keyIds: z.array(z.string()),
});

/** Output of an execution that succeeded. */
export const runOutputSchema = z.strictObject({ result: publishOutputSchema, summary: notifyOutputSchema });

/** MODEL, MODEL@VERSION or MODEL:CHANNEL of a yard, and the folder to pull into. */
export const pullInputSchema = z.strictObject({ yard: uri, model: z.string().min(1), target: uri, trustedKeys });
export const pullOutputSchema = z.strictObject({
  model: z.string(),
  version: z.string(),
  channel: z.string().nullable(),
  target: uri,
  files: count,
  /** Files that were there already, with the right digest. */
  present: count,
  bytes: count,
  /** Of `bytes`: what came from the yard, and what the folder held already. */
  fetchedBytes: count,
  reusedBytes: count,
  signature: signatureSchema,
});

/** MODEL@DIGEST, or MODEL's newest universal checkpoint; a rank of the target topology; the folder to restore into. */
export const restoreInputSchema = z
  .strictObject({
    yard: uri,
    model: z.string().min(1),
    target: uri,
    tp: z.int().positive(),
    pp: z.int().positive(),
    dp: z.int().positive(),
    rank: count,
  })
  .refine(({ tp, pp, dp, rank }) => rank < tp * pp * dp, "a rank below tp * pp * dp");
export const restoreOutputSchema = z.strictObject({
  /** Where it lies in the yard. */
  checkpoint: z.string(),
  digest: z.string(),
  target: uri,
  place: z.strictObject({ tp: count, pp: count, dp: count }),
  files: count,
  tensors: count,
  bytes: count,
  /** All that was read of the yard. */
  fetchedBytes: count,
});

export const verifyInputSchema = z.strictObject({
  /** A pulled version, `<yard>/artifacts/<model>/<version>`, or a universal checkpoint. */
  folder: uri,
  /** The version that it should be. */
  version: z.string().optional(),
  /** The yard that it lies in: its lineage is looked at as well. */
  yard: uri.optional(),
  trustedKeys,
});
const lineageEntrySchema = z.strictObject({
  /** The model whose input it is: the version's own, or an input's. */
  of: z.string(),
  /** The reference as the recipe spells it. */
  model: z.string(),
  digest: z.string().nullable(),
  /** Folder of the yard that holds it at this digest; null when it lies elsewhere. */
  place: z.string().nullable(),
});
export const verifyOutputSchema = z.strictObject({
  folder: uri,
  /** Of a version; null for a universal checkpoint. */
  model: z.string().nullable(),
  version: z.string().nullable(),
  /** Digest of the manifest, or of universal.json. */
  digest: z.string(),
  files: count,
  tensors: count,
  bytes: count,
  /** Null for a universal checkpoint. */
  signature: signatureSchema.nullable(),
  /** Inputs and their inputs; null when no yard was named. */
  lineage: z.array(lineageEntrySchema).nullable(),
});

/** What `convert` can write; but for the first two the ids of core/formats/targets.ts. */
export const CONVERSION_TARGETS = [
  "universal",
  "safetensors",
  "torch",
  "dcp",
  "deepspeed-universal",
  "deepspeed",
] as const;

/** What weights are rounded to on request. */
export const WEIGHT_DTYPES = ["F32", "F16", "BF16"] as const;

export const convertInputSchema = z.strictObject({
  /** URI of the folder to read. */
  source: uri,
  /** One file of it that is a checkpoint by itself. */
  sourceFile: z.string().optional(),
  /** URI of the folder to write; it must be empty or absent. */
  target: uri,
  to: z.enum(CONVERSION_TARGETS),
  /** Ranks of a target that is cut for a topology. */
  topology: z
    .strictObject({
      tp: z.int().positive(),
      pp: z.int().positive(),
      dp: z.int().positive(),
      zero: z.literal([1, 2, 3]),
    })
    .optional(),
  /**
   * Float dtype of the weights, where the target holds weights alone, or of those that ranks compute with beside their
   * masters; absent: as they are.
   */
  dtype: z.enum(WEIGHT_DTYPES).optional(),
  /** The target's vocabulary is padded to a multiple of this and its tensor-parallel ranks. */
  vocabularyMultiple: z.int().positive().optional(),
  /** How tensor-parallel ranks cut the source's parameters, where the source does not say it. */
  patterns: checkpointInfoSchema.optional(),
});
export const convertOutputSchema = z.strictObject({
  source: uri,
  target: uri,
  to: convertInputSchema.shape.to,
  /** Of a universal checkpoint: of its document, and of what it holds whatever it was made from. */
  digest: z.string().nullable(),
  contents: z.string().nullable(),
  files: count,
  tensors: count,
  bytes: count,
  /** What was inferred, left out or odd in the source, one line each. */
  warnings: z.array(z.string()),
});

export type RunRef = z.infer<typeof runRefSchema>;
export type StageRef = z.infer<typeof stageRefSchema>;
export type PlanInput = z.infer<typeof planInputSchema>;
export type PlanOutput = z.infer<typeof planOutputSchema>;
export type DiffOutput = z.infer<typeof diffOutputSchema>;
export type PushOutput = z.infer<typeof pushOutputSchema>;
export type PublishOutput = z.infer<typeof publishOutputSchema>;
export type Signature = z.infer<typeof signatureSchema>;
export type LineageEntry = z.infer<typeof lineageEntrySchema>;
export type VerifyOutput = z.infer<typeof verifyOutputSchema>;
export type ChannelPointer = z.infer<typeof pointerSchema>;
export type ChannelRecord = z.infer<typeof channelSchema>;
export type FailureRecord = z.infer<typeof failureSchema>;
export type ErrorFields = z.infer<typeof errorRecordSchema>;
