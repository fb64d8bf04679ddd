// What the steps of the state machine take and give, and the records of a yard that several of them read, as zod
// schemas: the contract between the state machine, its edges and the steps. Pointers and counts only, never a list that
// grows with the model: the state machine carries 256 KiB at most. Steps that a person asks for have theirs themselves.
import * as z from "zod";
import { YARD_LIMITS } from "../core/limits.ts";
import { fleetSchema } from "../core/plan/machine.ts";
import { count, storedFile, uri } from "../core/schema-atoms.ts";

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
  pipeline: storedFile,
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

/** Output of an execution that succeeded. */
export const runOutputSchema = z.strictObject({ result: publishOutputSchema, summary: notifyOutputSchema });

export type RunRef = z.infer<typeof runRefSchema>;
export type StageRef = z.infer<typeof stageRefSchema>;
export type PlanInput = z.infer<typeof planInputSchema>;
export type PlanOutput = z.infer<typeof planOutputSchema>;
export type PublishOutput = z.infer<typeof publishOutputSchema>;
export type ChannelPointer = z.infer<typeof pointerSchema>;
export type ChannelRecord = z.infer<typeof channelSchema>;
export type FailureRecord = z.infer<typeof failureSchema>;
export type ErrorFields = z.infer<typeof errorRecordSchema>;
