// Who may do what in the yard: for each part of the pipeline the keys that it reads and writes, as data, and the policy
// statements made of it. test/infra holds the real steps to this table: a run under these policies succeeds.
import { ArnFormat, type Stack } from "aws-cdk-lib";
import { Effect, PolicyStatement } from "aws-cdk-lib/aws-iam";
import type { Environment } from "./config.ts";

/** Keys as IAM patterns: `*` stands for anything, slashes included. */
type Access = {
  readonly reads: readonly string[];
  readonly writes: readonly string[];
  /** Removing; nobody in the pipeline does. */
  readonly deletes?: readonly string[];
  /** Reads models where a pipeline says that they lie: in the buckets that the configuration lists as well. */
  readonly sources?: boolean;
  /** Copies objects inside the bucket, tags included. */
  readonly copies?: boolean;
  /** Goes on with large objects that were begun before: asks which parts have arrived. */
  readonly resumes?: boolean;
};

const MARKER = "yard.json";
const MODELS = ["incoming/*", "checkpoints/*", "artifacts/*"];

const YARD_ACCESS = Object.freeze({
  plan: {
    reads: [MARKER, ...MODELS, "channels/*", "cache/*", "pipelines/*", "submitted/*", "runs/*"],
    writes: ["runs/*/plan.jsonl", "runs/*/recipe.yaml"],
    sources: true,
  },
  /** Jobs of stages that only merge: nothing outside their run. */
  worker: {
    reads: [MARKER, ...MODELS, "cache/*", "runs/*"],
    writes: ["runs/*/receipts/*", "runs/*/output/*", "runs/*/stages/*", "runs/*/failures/unit-*", "runs/*/progress/*"],
    sources: true,
    copies: true,
  },
  /** Jobs of the stages that make universal checkpoints of uploads. */
  sharder: {
    reads: [MARKER, ...MODELS, "cache/*", "runs/*"],
    writes: [
      ...["runs/*/receipts/*", "runs/*/stages/*", "runs/*/failures/unit-*", "runs/*/progress/*"],
      ...["checkpoints/*", "cache/*"],
    ],
    sources: true,
    copies: true,
  },
  check: { reads: [MARKER, "artifacts/*", "runs/*"], writes: [] },
  publish: {
    reads: [MARKER, ...MODELS, "channels/*", "cache/*", "runs/*"],
    writes: ["artifacts/*", "channels/*", "cache/*", "runs/*/result.json"],
    sources: true,
    copies: true,
  },
  notify: { reads: ["runs/*"], writes: ["runs/*/events.jsonl", "runs/*/report.html"] },
  recordFailure: { reads: ["runs/*"], writes: ["runs/*/failures/*"] },
  onUpload: { reads: [MARKER, "pipelines/*", "incoming/*"], writes: [] },
  onSchedule: { reads: [MARKER, "pipelines/*"], writes: [] },
  /** A person who plans and runs pipelines of their own and follows them: a preview reads what the plan would. */
  runner: {
    reads: [MARKER, "pipelines/*", ...MODELS, "channels/*", "cache/*", "runs/*"],
    writes: ["submitted/*"],
  },
  /** A person, or a machine, that makes versions of folders; what signs them is not the yard's. */
  publisher: { reads: [MARKER, "artifacts/*", "channels/*"], writes: ["artifacts/*", "channels/*"] },
  /**
   * A person or a deployment of their own: makes the yard, edits pipelines, moves channels, removes what is not needed.
   */
  operator: {
    reads: ["*"],
    // A manifest too: cleaning up gives back the one of a version that was promoted at that moment; and the note that
    // it leaves in a checkpoint that it removes.
    writes: [
      ...[MARKER, "pipelines/*", "incoming/*", "channels/*"],
      ...["artifacts/*/manifest.json", "checkpoints/*/_REMOVED"],
    ],
    resumes: true,
    deletes: [
      "pipelines/*",
      "incoming/*",
      "checkpoints/*",
      "artifacts/*",
      "channels/*",
      "cache/*",
      "runs/*",
      "submitted/*",
    ],
  },
} satisfies Readonly<Record<string, Access>>);
export type YardRole = keyof typeof YARD_ACCESS;

/** The yard as other stacks know it. */
export type YardPlace = {
  readonly bucketArn: string;
  readonly keyArn: string;
  /** Of the key that signs versions; undefined: they are not signed. */
  readonly signingKeyArn: string | undefined;
};

/** What a role may do in the yard and in the buckets that pipelines read from. */
export function yardStatements(
  stack: Stack,
  role: YardRole,
  { bucketArn, keyArn }: YardPlace,
  sources: Environment["sources"],
): PolicyStatement[] {
  const access: Access = YARD_ACCESS[role];
  const keys = (patterns: readonly string[]) => patterns.map((pattern) => `${bucketArn}/${pattern}`);
  const copies = access.copies === true;
  const writes = access.writes.length > 0;
  const lists = writes ? ["s3:ListBucket", "s3:ListBucketMultipartUploads"] : ["s3:ListBucket"];
  const reads = ["s3:GetObject", ...(copies ? ["s3:GetObjectTagging"] : [])];
  const puts = [
    ...["s3:PutObject", "s3:AbortMultipartUpload"],
    ...(access.resumes === true ? ["s3:ListMultipartUploadParts"] : []),
    ...(copies ? ["s3:PutObjectTagging"] : []),
  ];
  return [
    // S3 answers 404 for what is missing only to those who may list the whole bucket; to others, 403.
    allow("YardList", lists, [bucketArn]),
    allow("YardRead", reads, keys(access.reads)),
    ...(writes ? [allow("YardWrite", puts, keys(access.writes))] : []),
    ...(access.deletes === undefined ? [] : [allow("YardDelete", ["s3:DeleteObject"], keys(access.deletes))]),
    allow("YardKey", writes ? ["kms:Decrypt", "kms:GenerateDataKey"] : ["kms:Decrypt"], [keyArn], {
      StringEquals: { "kms:ViaService": `s3.${stack.region}.${stack.urlSuffix}` },
    }),
    ...(access.sources === true ? sourceStatements(sources) : []),
  ];
}

function sourceStatements(sources: Environment["sources"]): PolicyStatement[] {
  if (sources.length === 0) return [];
  const keyArns = sources.flatMap(({ keyArn }) => (keyArn === undefined ? [] : [keyArn]));
  return [
    allow(
      "SourceList",
      ["s3:ListBucket"],
      sources.map(({ bucketArn }) => bucketArn),
    ),
    allow(
      "SourceRead",
      ["s3:GetObject"],
      sources.map(({ bucketArn }) => `${bucketArn}/*`),
    ),
    ...(keyArns.length === 0 ? [] : [allow("SourceKey", ["kms:Decrypt"], keyArns)]),
  ];
}

/** What publish needs of the signing key: digests signed by the one algorithm, and the public half to name itself. */
export function signingStatements(signingKeyArn: string): PolicyStatement[] {
  return [
    allow("SignVersions", ["kms:Sign"], [signingKeyArn], {
      StringEquals: { "kms:SigningAlgorithm": "ECDSA_SHA_256", "kms:MessageType": "DIGEST" },
    }),
    allow("NameSigningKey", ["kms:GetPublicKey"], [signingKeyArn]),
  ];
}

/** An Allow statement. Every statement of ours has a name, by which infra/wildcards.ts gives reasons. */
export function allow(
  sid: string,
  actions: string[],
  resources: string[],
  conditions?: Record<string, Record<string, string | string[]>>,
): PolicyStatement {
  return new PolicyStatement({ sid, effect: Effect.ALLOW, actions, resources, conditions });
}

/** ARN of something in the stack's own account and region. */
export function arnOf(stack: Stack, service: string, resource: string, name: string, format?: ArnFormat): string {
  return stack.formatArn({
    service,
    resource,
    resourceName: name,
    arnFormat: format ?? ArnFormat.SLASH_RESOURCE_NAME,
  });
}
