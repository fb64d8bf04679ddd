// Starting a pipeline on AWS, or finding the execution that runs it already: an execution's name is made of what it was
// asked to do, so the same command follows what it started before, from whatever machine.
import { digestBytes, digestJson } from "../core/artifact/digest.ts";
import { layout, shortDigest } from "../core/artifact/layout.ts";
import { MergeyardError } from "../core/error.ts";
import { RECIPE_LIMITS } from "../core/limits.ts";
import { readAll } from "../stores/objects.ts";
import type { ObjectStore, OpenStore } from "../stores/store.ts";
import type { Execution, Executions } from "./executions.ts";

export type Submission = {
  readonly yard: string;
  /** The pipeline's file: a store and a key in it. */
  readonly pipeline: { readonly store: string; readonly key: string };
  readonly models: Readonly<Record<string, string>>;
};

/** Characters of the pipeline's name in an execution's. */
const NAME_CHARACTERS = 36;

/**
 * Follows the execution of this submission that is running, or starts one. A pipeline that AWS cannot read is copied to
 * the yard, under its digest. Throws YardPipelineMissing, RemoteYardLocal, and what the requests throw.
 */
export async function submit(
  submission: Submission,
  executions: Executions,
  deps: { readonly openStore: OpenStore; readonly now: () => number; readonly signal: AbortSignal },
): Promise<{ readonly execution: Execution; readonly isNew: boolean }> {
  if (submission.yard.startsWith("file:")) throw new MergeyardError("RemoteYardLocal", { found: submission.yard });
  const input = {
    yard: submission.yard,
    pipeline: await reachable(submission, deps),
    models: { ...submission.models },
  };
  const name = `run-${slugOf(submission.pipeline.key)}-${shortDigest(digestJson(input))}`;
  const running = (await executions.listRunning()).find((execution) => execution.name.startsWith(`${name}-`));
  if (running !== undefined) return { execution: running, isNew: false };
  // Two who start the same within a minute share a name, and so an execution. One that ended within it is not followed.
  const stamp = new Date(deps.now()).toISOString().replace(/[-:]/g, "");
  const execution =
    (await executions.start(`${name}-${stamp.slice(0, 13)}`, input)) ??
    (await executions.start(`${name}-${stamp.slice(0, 15)}`, input));
  if (execution !== undefined) return { execution, isNew: true };
  throw new MergeyardError("RemoteUnavailable", { found: "the same was started and ended within this second" });
}

function slugOf(key: string): string {
  const name = key.slice(key.lastIndexOf("/") + 1).replace(/\.ya?ml$/, "");
  return name.replace(/[^A-Za-z0-9_-]+/g, "-").slice(0, NAME_CHARACTERS);
}

/** Where AWS reads the pipeline: where it is, or a copy in the yard. */
async function reachable(
  { yard, pipeline }: Submission,
  { openStore, signal }: { readonly openStore: OpenStore; readonly signal: AbortSignal },
): Promise<Submission["pipeline"]> {
  if (!pipeline.store.startsWith("file:")) return inYard(yard, pipeline);
  const bytes = await readPipelineBytes(openStore(pipeline.store), pipeline.key, signal);
  const key = layout.submitted(digestBytes(bytes));
  await openStore(yard).create(key, bytes, { signal });
  return { store: yard, key };
}

/** A pipeline of the yard is named by the yard, whose marker and rights apply to it. */
function inYard(yard: string, { store, key }: Submission["pipeline"]): Submission["pipeline"] {
  const uri = `${store}/${key}`;
  return uri.startsWith(`${yard}/`) ? { store: yard, key: uri.slice(yard.length + 1) } : { store, key };
}

async function readPipelineBytes(store: ObjectStore, key: string, signal: AbortSignal): Promise<Uint8Array> {
  if ((await store.head(key, { signal })) === undefined) {
    throw new MergeyardError("YardPipelineMissing", { where: { store: store.uri, file: key } });
  }
  return readAll(store, key, RECIPE_LIMITS.bytes + 1, { signal });
}
