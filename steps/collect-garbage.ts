// Removing what a yard does not need any more: versions beyond the number that is kept, folders of versions that were
// never finished, pushes that nobody goes on with, and what versions are made from (remove-inputs.ts). Safe beside
// running work: nothing that is younger than the grace period goes, nothing that a channel points to or pointed to
// within it, and nothing that an unfinished run reads.
//
// A version's manifest goes first, so that no reader begins to pull what is going; then the channels are looked at once
// more, and a version that was promoted meanwhile gets its manifest back.
import * as z from "zod";
import { layout } from "../core/artifact/layout.ts";
import { MANIFEST_FILE } from "../core/artifact/manifest.ts";
import { isUnfinishedPush, isUploadNote, uploadRecordSchema } from "../core/artifact/upload.ts";
import { ARTIFACT_LIMITS } from "../core/limits.ts";
import { count, uri } from "../core/schema-atoms.ts";
import type { ObjectInfo, ObjectStore } from "../stores/store.ts";
import { readRecipe } from "./read-recipe.ts";
import { createOnce, readRecord } from "./records.ts";
import { findInputs, forgetAbandoned, type InputRules, removeInputs } from "./remove-inputs.ts";
import { defineStep, type StepDeps } from "./step.ts";
import { listFolders, listModel, listModels, type ModelListing, openYard, readChannel } from "./yard.ts";
import { type Needs, readNeeds, readPipelines } from "./yard-needs.ts";

const KINDS = [
  "version",
  "unfinished-version",
  "unfinished-push",
  "upload",
  "checkpoint",
  "unfinished-checkpoint",
] as const;

const gcInputSchema = z.strictObject({
  yard: uri,
  /** Newest versions of each model that stay; absent: what the yard's pipelines say, else all. */
  keep: z.int().positive().optional(),
  /** Newest complete uploads, and newest universal checkpoints, of each model that stay; absent: all. */
  keepUploads: z.int().positive().optional(),
  keepCheckpoints: z.int().positive().optional(),
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
      kind: z.enum(KINDS),
      model: z.string(),
      prefix: z.string(),
      files: count,
      bytes: count,
    }),
  ),
  bytes: count,
});

/**
 * Throws YardMissing, Recipe codes of a pipeline that cannot be read, YardPlanInvalid, Manifest codes of a version when
 * inputs are to go, and what the stores throw.
 */
export const gcStep = defineStep({
  name: "gc",
  input: gcInputSchema,
  output: gcOutputSchema,
  async run({ yard: uri, keep, keepUploads, keepCheckpoints, graceMs, isTrial }, deps) {
    const yard = await openYard(deps.openStore, uri);
    const sinceMs = deps.now() - graceMs;
    const keeps = await readKeeps(yard, keep, deps);
    const needs = await readNeeds(yard, sinceMs, deps);
    const models = await listModels(yard);
    const removed: Removed[] = [];
    const note = ({ kind, model, prefix, files }: Pick<Removed, "kind" | "model" | "prefix"> & Files) => {
      const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
      removed.push({ kind, model, prefix, files: files.length, bytes });
      deps.log({ event: "removed", kind, prefix, bytes, isTrial });
    };
    for (const { model } of models) {
      for (const garbage of await findGarbage(yard, model, { keep: keeps(model), sinceMs, needs }, deps)) {
        if (isTrial || (await remove(yard, garbage, deps))) note(garbage);
      }
    }
    const rules: InputRules = { uploads: keepUploads, checkpoints: keepCheckpoints, sinceMs, needs };
    if (!isTrial) await forgetAbandoned(yard, models, deps);
    const gone = new Set(removed.map(({ prefix }) => prefix));
    const inputs = await findInputs(yard, models, gone, rules, deps);
    for (const input of isTrial ? inputs : await removeInputs(yard, inputs, rules, deps)) note(input);
    return { yard: yard.uri, isTrial, removed, bytes: removed.reduce((sum, { bytes }) => sum + bytes, 0) };
  },
});

type Files = { readonly files: readonly ObjectInfo[] };
type Removed = {
  readonly kind: (typeof KINDS)[number];
  readonly model: string;
  readonly prefix: string;
  readonly files: number;
  readonly bytes: number;
};

type Garbage = Files & {
  readonly kind: "version" | "unfinished-version" | "unfinished-push";
  readonly model: string;
  readonly prefix: string;
  readonly version: string | undefined;
};

type Rules = {
  /** Newest versions that stay; undefined: all. */
  readonly keep: number | undefined;
  /** What is younger stays. */
  readonly sinceMs: number;
  readonly needs: Needs;
};

/** How many versions of a model stay: what was asked for, else the most that a pipeline of the yard says. */
async function readKeeps(
  yard: ObjectStore,
  keep: number | undefined,
  deps: StepDeps,
): Promise<(model: string) => number | undefined> {
  if (keep !== undefined) return () => keep;
  const keeps = new Map<string, number>();
  for await (const { key, bytes } of readPipelines(yard, deps.signal)) {
    // One that cannot be read may be the one that keeps more: its error ends this.
    const { publish } = readRecipe(bytes, key).pipeline;
    if (publish?.keep != null) keeps.set(publish.model, Math.max(publish.keep, keeps.get(publish.model) ?? 0));
  }
  return (model) => keeps.get(model);
}

/** Whether an unfinished run reads a version, or a pipeline names it. */
function isNeeded(
  { model, version, prefix }: { readonly model: string; readonly version: string; readonly prefix: string },
  { folders, piped, pinned }: Needs,
): boolean {
  if (folders.has(prefix) || piped.has(prefix)) return true;
  return pinned.some((each) => each.model === model && version.startsWith(each.beginning));
}

async function findGarbage(
  yard: ObjectStore,
  model: string,
  rules: Rules,
  deps: StepDeps,
): Promise<readonly Garbage[]> {
  const listing = await listModel(yard, model);
  const held = await readHeld(yard, listing, rules.sinceMs);
  const garbage: Garbage[] = [];
  const newest = new Set(
    listing.versions.slice(0, rules.keep ?? listing.versions.length).map(({ version }) => version),
  );
  for (const [version, files] of await listFolders(yard, `artifacts/${model}/`, deps.signal)) {
    const prefix = layout.version(model, version);
    const isWhole = listing.versions.some((each) => each.version === version);
    const isYoung = Math.max(...files.map(({ modifiedMs }) => modifiedMs)) > rules.sinceMs;
    if (isYoung || held.has(version) || newest.has(version) || isNeeded({ model, version, prefix }, rules.needs))
      continue;
    if (!isWhole && rules.needs.published.has(model)) continue;
    const kind = isWhole ? ("version" as const) : ("unfinished-version" as const);
    garbage.push({ kind, model, prefix, version, files });
  }
  for (const { prefix, files, modifiedMs } of listing.uploads) {
    const isPush = isUnfinishedPush(files.map(({ key }) => key.slice(prefix.length)));
    if (!isPush || modifiedMs > rules.sinceMs) continue;
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
