// The configuration of one deployment: a JSON file of infra/environments, checked here. Everything has a default that a
// small team can deploy unchanged, so a file states only what differs; `default.json` states nothing.
import { readFileSync } from "node:fs";
import { InstanceClass } from "aws-cdk-lib/aws-ec2";
import * as z from "zod";
import { PRICES, vcpuHourUsd } from "../core/cost/estimate.ts";
import { FLEET_DEFAULT } from "../core/plan/machine.ts";

const days = z.int().positive();
const instances = z.array(z.enum(InstanceClass)).min(1);

/** Days that the state machine gives one execution: `TimeoutSeconds` of its definition. */
const EXECUTION_DAYS_MAX = 30;

/** ARN of somebody who may use an access point: an account's root, a role or a user. */
const principal = z.string().regex(/^arn:aws[a-z-]*:iam::\d{12}:(?:root|(?:role|user)\/[\w+=,.@/-]+)$/);
/** A model's name, or its beginning with a `*` after it. */
const modelPattern = z.string().regex(/^(?:\*|[A-Za-z0-9][A-Za-z0-9._-]{0,127}\*?)$/);

const teamSchema = z.strictObject({
  /** Part of the access point's name. */
  name: z.string().regex(/^[a-z0-9](?:[a-z0-9-]{0,18}[a-z0-9])?$/),
  principals: z.array(principal).min(1),
  /** Models whose uploads the team may drop, and whose versions it may pull. */
  upload: z.array(modelPattern).default([]),
  read: z.array(modelPattern).default(["*"]),
});

const storageSchema = z.strictObject({
  /**
   * Days until a run's plan, receipts and files go: published versions are copies of them. Not before the longest
   * execution can have ended.
   */
  runDays: days.min(EXECUTION_DAYS_MAX + 1).default(60),
  /** Days until a cache entry goes; its output is computed once more when it is wanted after that. */
  cacheDays: days.default(180),
  /** Days that overwritten and deleted objects can be restored. */
  restoreDays: days.default(30),
  /** Days until an upload that was begun and never completed is aborted. */
  unfinishedUploadDays: days.default(3),
  /** Switches Object Lock on for the bucket, so that retention can be set on published objects. Cannot be undone. */
  objectLock: z.boolean().default(false),
});

const jobSchema = z.strictObject({ vcpus: z.int().positive(), memoryMiB: z.int().min(1024) });

const cpuSchema = z.strictObject({
  architecture: z.enum(["x86_64", "arm64"]).default("x86_64"),
  /** Families with much network for their size: merging moves bytes. They must be of the architecture. */
  instances: instances.default([InstanceClass.C6IN, InstanceClass.M6IN, InstanceClass.R6IN]),
  /** Of Spot machines, and as many again of on-demand ones. */
  maxVcpus: z.int().positive().default(128),
  /** Spot capacity first, on-demand where there is none; false: on-demand only. */
  spot: z.boolean().default(true),
  /**
   * A usual job, and the memory that a stage whose units need more may give its jobs. `instances` must have machines
   * that are large enough.
   */
  job: jobSchema
    .extend({ memoryMiBMax: z.int().min(1024).default(FLEET_DEFAULT.cpu.memoryMiBMax) })
    .refine(({ memoryMiB, memoryMiBMax }) => memoryMiB <= memoryMiBMax, { path: ["memoryMiBMax"] })
    .default(FLEET_DEFAULT.cpu),
});

const gpuSchema = z.strictObject({
  /** NVIDIA families; their machines are x86_64. */
  instances: instances.default([InstanceClass.G5, InstanceClass.G6, InstanceClass.G6E]),
  maxVcpus: z.int().positive().default(64),
  spot: z.boolean().default(true),
  job: jobSchema.extend({ gpus: z.int().positive() }).default({ vcpus: 4, memoryMiB: 14_336, gpus: 1 }),
});

export const environmentSchema = z
  .strictObject({
    /** Part of every name; an account and region can hold several environments. */
    name: z.string().regex(/^[a-z][a-z0-9-]{0,19}$/),
    /** Where to deploy; what the command line's credentials say when absent. */
    account: z
      .string()
      .regex(/^\d{12}$/)
      .optional(),
    region: z
      .string()
      .regex(/^[a-z]{2}(?:-[a-z]+)+-\d$/)
      .optional(),
    /** Keeps the bucket and its key when the stacks are deleted, and refuses to delete the storage stack. */
    keepData: z.boolean().default(true),
    storage: storageSchema.prefault({}),
    /** Signs what is published with a KMS key of its own ($1 a month), which only publish may use. */
    signing: z.boolean().default(true),
    teams: z.array(teamSchema).default([]),
    /** Other buckets that pipelines may read models from, with the KMS key that each is encrypted with, if any. */
    sources: z
      .array(
        z.strictObject({
          bucketArn: z.string().regex(/^arn:aws[a-z-]*:s3:::[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/),
          keyArn: z
            .string()
            .regex(/^arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key\/[\w-]+$/)
            .optional(),
        }),
      )
      .default([]),
    network: z
      .strictObject({
        /**
         * How machines reach the services that start them. S3 has a gateway endpoint always. public: addresses of their
         * own, nothing may connect to them, costs nothing while idle. nat: private subnets behind one NAT gateway.
         * endpoints: private subnets without any way out, one interface endpoint a service and zone.
         */
        egress: z.enum(["public", "nat", "endpoints"]).default("public"),
        zones: z.int().min(2).max(6).default(3),
        flowLogs: z.boolean().default(false),
      })
      .prefault({}),
    cpu: cpuSchema.prefault({}),
    /** A queue of GPU machines, used for work that has GPU kernels: none in this version, so it is off. */
    gpu: gpuSchema.nullable().default(null),
    /** Minutes that a job may wait at the head of its queue for a machine that does not come. */
    runnableMinutes: z.int().min(10).max(1440).default(120),
    /** Of the functions that read plans and receipts; plans of a hundred thousand tensors need it. */
    functionMemoryMiB: z.int().min(512).max(10_240).default(3008),
    triggers: z
      .strictObject({
        uploads: z.boolean().default(true),
        /**
         * Minutes between looks at the pipelines' schedules, or null for never: a schedule is kept to this exactness.
         */
        scheduleMinutes: z.union([z.literal([1, 5, 10, 15]), z.null()]).default(5),
      })
      .prefault({}),
    alerts: z
      .strictObject({
        emails: z.array(z.email()).default([]),
        /** Also tell of runs that went well. */
        successes: z.boolean().default(false),
      })
      .prefault({}),
    /**
     * What a vCPU costs you an hour, memory included, for the cost on the dashboard. Without it the list price of
     * core/cost/prices.json, which is dearer than Spot.
     */
    vcpuHourUsd: z.number().positive().default(vcpuHourUsd(PRICES)),
    logDays: z.literal([1, 3, 5, 7, 14, 30, 60, 90, 180, 365]).default(30),
  })
  .refine(({ teams }) => new Set(teams.map(({ name }) => name)).size === teams.length, {
    path: ["teams"],
    message: "two teams have one name",
  });
export type Environment = z.output<typeof environmentSchema>;

/** Reads infra/environments/<name>.json. Throws with every wrong field. */
export function readEnvironment(name: string): Environment {
  if (!/^[a-z][a-z0-9-]*$/.test(name)) throw new Error(`${JSON.stringify(name)} is no name of an environment`);
  const file = new URL(`environments/${name}.json`, import.meta.url);
  const parsed = environmentSchema.safeParse({
    name,
    ...z.looseObject({}).parse(JSON.parse(readFileSync(file, "utf8"))),
  });
  if (!parsed.success) throw new Error(`infra/environments/${name}.json:\n${z.prettifyError(parsed.error)}`);
  return parsed.data;
}
