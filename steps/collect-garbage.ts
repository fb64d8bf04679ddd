// Removing what a yard does not need any more: versions beyond the number that is kept, folders of versions that were
// never finished, and pushes that nobody goes on with. Safe beside running work: nothing that is younger than the grace
// period goes, nothing that a channel points to or pointed to within it, and nothing that an unfinished run reads.
//
// A version's manifest goes first, so that no reader begins to pull what is going; then the channels are looked at once
// more, and a version that was promoted meanwhile gets its manifest back.
import * as z from "zod";
import { layout } from "../core/artifact/layout.ts";
import { MANIFEST_FILE } from "../core/artifact/manifest.ts";
import { isUnfinishedPush, isUploadNote, uploadRecordSchema } from "../core/artifact/upload.ts";
import { ARTIFACT_LIMITS, RECIPE_LIMITS } from "../core/limits.ts";
import { readAll } from "../stores/objects.ts";
import type { ObjectInfo, ObjectStore } from "../stores/store.ts";
import { readPlanReach } from "./plan-file.ts";
import { readRecipe } from "./read-recipe.ts";
import { createOnce, readRecord } from "./records.ts";
import { defineStep, type StepDeps } from "./step.ts";
import { listFolders, listModel, listModels, type ModelListing, openYard, readChannel } from "./yard.ts";

const count = z.int().nonnegative();
const uri = z.string().min(1);

const gcInputSchema = z.strictObject({
  yard: uri,
  /** Newest versions of each model that stay; absent: what the yard's pipelines say, else all. */
  keep: z.int().positive().optional(),
  /** What is younger is left alone. */
  graceMs: count,
  /** True to say what would go, and remove nothing. */
  isTrial: z.boolean().default(false),
});
const gcOutputSchema = z.strictObject({
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

/** Throws YardMissing, Recipe codes of a pipeline that cannot be read, YardPlanInvalid, and what the stores throw. */
export const gcStep = defineStep({
  name: "gc",
  input: gcInputSchema,
  output: gcOutputSchema,
  async run({ yard: uri, keep, graceMs, isTrial }, deps) {
    const yard = await openYard(deps.openStore, uri);
    const since = deps.now() - graceMs;
    const keeps = await readKeeps(yard, keep, deps);
    const running = await readRunning(yard, since, deps);
    const removed: Removed[] = [];
    for (const { model } of await listModels(yard)) {
      const found = await findGarbage(yard, model, { keep: keeps(model), since, running }, deps);
      for (const garbage of found) {
        const isGone = isTrial || (await remove(yard, garbage, deps));
        if (!isGone) continue;
        const bytes = garbage.files.reduce((sum, file) => sum + file.bytes, 0);
        const { kind, prefix } = garbage;
        removed.push({ kind, model, prefix, files: garbage.files.length, bytes });
        deps.log({ event: "removed", kind, prefix, bytes, isTrial });
      }
    }
    return { yard: yard.uri, isTrial, removed, bytes: removed.reduce((sum, { bytes }) => sum + bytes, 0) };
  },
});

type Removed = {
  readonly kind: "version" | "unfinished-version" | "unfinished-push";
  readonly model: string;
  readonly prefix: string;
  readonly files: number;
  readonly bytes: number;
};

type Garbage = Pick<Removed, "kind" | "model" | "prefix"> & {
  readonly version: string | undefined;
  readonly files: readonly ObjectInfo[];
};

type Rules = {
  /** Newest versions that stay; undefined: all. */
  readonly keep: number | undefined;
  /** What is younger stays. */
  readonly since: number;
  readonly running: Running;
};

/** What runs need that have begun within the grace period and not ended. */
type Running = {
  /** Folders of the yard that they read. */
  readonly inputs: ReadonlySet<string>;
  /** Models that they publish: folders of their versions may be unfinished, of files that are old. */
  readonly models: ReadonlySet<string>;
};

/** How many versions of a model stay: what was asked for, else the most that a pipeline of the yard says. */
async function readKeeps(
  yard: ObjectStore,
  keep: number | undefined,
  deps: StepDeps,
): Promise<(model: string) => number | undefined> {
  if (keep !== undefined) return () => keep;
  const keeps = new Map<string, number>();
  for await (const { key } of yard.list("pipelines/", { signal: deps.signal })) {
    if (!key.endsWith(".yaml")) continue;
    // One that cannot be read may be the one that keeps more: its error ends this.
    const { publish } = readRecipe(await readAll(yard, key, RECIPE_LIMITS.bytes + 1), key).pipeline;
    if (publish?.keep != null) keeps.set(publish.model, Math.max(publish.keep, keeps.get(publish.model) ?? 0));
  }
  return (model) => keeps.get(model);
}

async function readRunning(yard: ObjectStore, since: number, deps: StepDeps): Promise<Running> {
  const runs = new Map<string, { newestMs: number; isEnded: boolean; isPlanned: boolean }>();
  for await (const { key, modifiedMs } of yard.list("runs/", { signal: deps.signal })) {
    const [, run = "", file] = key.split("/");
    const seen = runs.get(run) ?? { newestMs: 0, isEnded: false, isPlanned: false };
    runs.set(run, {
      newestMs: Math.max(seen.newestMs, modifiedMs),
      isEnded: seen.isEnded || key === layout.result(run),
      isPlanned: seen.isPlanned || (file === "plan.jsonl" && key === layout.plan(run)),
    });
  }
  const [inputs, models] = [new Set<string>(), new Set<string>()];
  for (const [run, { newestMs, isEnded, isPlanned }] of runs) {
    if (isEnded || !isPlanned || newestMs <= since) continue;
    const { sources, publish } = await readPlanReach(yard, run, deps.signal);
    for (const { store, prefix } of sources) if (store === yard.uri) inputs.add(prefix);
    if (publish !== undefined) models.add(publish.model);
  }
  return { inputs, models };
}

async function findGarbage(
  yard: ObjectStore,
  model: string,
  rules: Rules,
  deps: StepDeps,
): Promise<readonly Garbage[]> {
  const listing = await listModel(yard, model);
  const held = await readHeld(yard, listing, rules.since);
  const garbage: Garbage[] = [];
  const newest = new Set(
    listing.versions.slice(0, rules.keep ?? listing.versions.length).map(({ version }) => version),
  );
  for (const [version, files] of await listFolders(yard, `artifacts/${model}/`, deps.signal)) {
    const prefix = layout.version(model, version);
    const isWhole = listing.versions.some((each) => each.version === version);
    const isYoung = Math.max(...files.map(({ modifiedMs }) => modifiedMs)) > rules.since;
    if (isYoung || held.has(version) || newest.has(version) || rules.running.inputs.has(prefix)) continue;
    if (!isWhole && rules.running.models.has(model)) continue;
    const kind = isWhole ? ("version" as const) : ("unfinished-version" as const);
    garbage.push({ kind, model, prefix, version, files });
  }
  for (const { prefix, files, modifiedMs } of listing.uploads) {
    const isPush = isUnfinishedPush(files.map(({ key }) => key.slice(prefix.length)));
    if (!isPush || modifiedMs > rules.since) continue;
    garbage.push({ kind: "unfinished-push", model, prefix, version: undefined, files });
  }
  return garbage;
}

/** Versions that a channel points to, or pointed to within the grace period: somebody may be pulling one. */
async function readHeld(yard: ObjectStore, { model, channels }: ModelListing, since: number): Promise<Set<string>> {
  const held = new Set<string>();
  for (const channel of Object.keys(channels)) {
    const record = (await readChannel(yard, model, channel))?.value;
    if (record === undefined) continue;
    held.add(record.version);
    let leftMs = record.decidedMs;
    for (const { version, decidedMs } of record.history) {
      if (leftMs > since) held.add(version);
      leftMs = decidedMs;
    }
  }
  return held;
}

/** False when it turned out to be needed. */
async function remove(yard: ObjectStore, garbage: Garbage, deps: StepDeps): Promise<boolean> {
  const { prefix, files } = garbage;
  const { signal } = deps;
  if (garbage.kind === "unfinished-push") return removePush(yard, garbage, deps);
  const key = `${prefix}${MANIFEST_FILE}`;
  const manifest = await yard.get(key, ARTIFACT_LIMITS.documentBytes, { signal });
  if (await isPointedTo(yard, garbage)) return false;
  await yard.delete(key, { signal });
  if (manifest !== undefined && (await isPointedTo(yard, garbage))) {
    await createOnce(yard, key, manifest.bytes, signal);
    return false;
  }
  for (const file of files) if (file.key !== key) await yard.delete(file.key, { signal });
  return true;
}

async function isPointedTo(yard: ObjectStore, { model, version }: Garbage): Promise<boolean> {
  const { channels } = await listModel(yard, model);
  return Object.values(channels).some((pointed) => pointed === version);
}

/** Parts on their way first, then files, the records last: without them the rest might look like an upload. */
async function removePush(yard: ObjectStore, { prefix, files }: Garbage, { signal }: StepDeps): Promise<boolean> {
  const isNote = ({ key }: ObjectInfo) => isUploadNote(key.slice(prefix.length));
  const notes = files.filter(isNote);
  for (const { key } of notes) {
    const record = (await readRecord(yard, key, uploadRecordSchema, signal))?.value;
    for (const { ticket } of record?.files ?? []) if (ticket !== undefined) await yard.abortWrite(ticket, { signal });
  }
  for (const file of files) if (!isNote(file)) await yard.delete(file.key, { signal });
  for (const { key } of notes) await yard.delete(key, { signal });
  return true;
}
