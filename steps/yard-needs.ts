// What the runs and the pipelines of a yard need of it: what gc leaves alone. Read from the plans of runs, whichever
// version wrote them, and from the texts of pipelines; both may name more than they use.
import { layout, namedFolders, namedVersions } from "../core/artifact/layout.ts";
import { RECIPE_LIMITS } from "../core/limits.ts";
import { readAll } from "../stores/objects.ts";
import type { ObjectStore } from "../stores/store.ts";
import { readPlanReach } from "./plan-file.ts";
import type { StepDeps } from "./step.ts";

export type Needs = {
  /** Runs that had ended at the first look. */
  readonly ended: ReadonlySet<string>;
  /** Folders of uploads, universal checkpoints and versions that other runs name, of any age: they may go on. */
  readonly folders: ReadonlySet<string>;
  /** Folders that pipelines name. */
  readonly piped: ReadonlySet<string>;
  /** Versions that pipelines name, or their beginnings. */
  readonly pinned: ReturnType<typeof namedVersions>;
  /** Models whose universal checkpoints those runs make. */
  readonly described: ReadonlySet<string>;
  /** Models that those of them publish which are younger than `sinceMs`: their folders may be of files that are old. */
  readonly published: ReadonlySet<string>;
};

/**
 * `before`: an earlier look. Runs that have ended since then still count, for gc did not look at what they have left.
 * Cost: a listing of runs, the plan of every unfinished one, every pipeline.
 */
export async function readNeeds(yard: ObjectStore, sinceMs: number, deps: StepDeps, before?: Needs): Promise<Needs> {
  const runs = await listRuns(yard, deps.signal);
  const ended = before?.ended ?? new Set([...runs].flatMap(([run, { isEnded }]) => (isEnded ? [run] : [])));
  const [folders, piped] = [new Set<string>(), new Set<string>()];
  const [described, published] = [new Set<string>(), new Set<string>()];
  for (const [run, { newestMs, isPlanned }] of runs) {
    if (ended.has(run) || !isPlanned) continue;
    const reach = await readPlanReach(yard, run, deps.signal);
    for (const folder of reach.folders) folders.add(folder);
    for (const model of reach.described) described.add(model);
    if (reach.published !== undefined && newestMs > sinceMs) published.add(reach.published);
  }
  const pinned: Needs["pinned"][number][] = [];
  for await (const { bytes } of readPipelines(yard, deps.signal)) {
    const text = new TextDecoder().decode(bytes);
    for (const folder of namedFolders(text)) piped.add(folder);
    pinned.push(...namedVersions(text));
  }
  return { ended, folders, piped, pinned, described, published };
}

/** Every pipeline of the yard as it is written. */
export async function* readPipelines(
  yard: ObjectStore,
  signal: AbortSignal,
): AsyncGenerator<{ readonly key: string; readonly bytes: Uint8Array }> {
  for await (const { key } of yard.list("pipelines/", { signal })) {
    if (key.endsWith(".yaml")) yield { key, bytes: await readAll(yard, key, RECIPE_LIMITS.bytes + 1, { signal }) };
  }
}

type RunListing = { readonly newestMs: number; readonly isEnded: boolean; readonly isPlanned: boolean };

async function listRuns(yard: ObjectStore, signal: AbortSignal): Promise<ReadonlyMap<string, RunListing>> {
  const runs = new Map<string, RunListing>();
  for await (const { key, modifiedMs } of yard.list("runs/", { signal })) {
    const [, run = ""] = key.split("/");
    const seen = runs.get(run) ?? { newestMs: 0, isEnded: false, isPlanned: false };
    runs.set(run, {
      newestMs: Math.max(seen.newestMs, modifiedMs),
      isEnded: seen.isEnded || key === layout.result(run),
      isPlanned: seen.isPlanned || key === layout.plan(run),
    });
  }
  return runs;
}
