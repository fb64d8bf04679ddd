// Removing what versions are made from, beyond the numbers that are kept: complete uploads that a run has read or
// passed over for a newer one, and universal checkpoints. Of each folder a note is left first (removal.ts); then runs
// and pipelines are looked at once more, and a folder that one of them names by now loses its note and stays; then it
// goes.
//
// Called by collect-garbage.ts, after versions: an input stays as long as a version names it.
import { NAME } from "../core/artifact/key.ts";
import { layout, shortDigest } from "../core/artifact/layout.ts";
import { UNIVERSAL_FILE } from "../core/artifact/universal.ts";
import { isUnfinishedPush, isUploadNote, REMOVAL_NOTE, UPLOAD_MARKER } from "../core/artifact/upload.ts";
import { isVerdict } from "../core/error.ts";
import { STORE_LIMITS } from "../core/limits.ts";
import { mapBounded } from "../core/map-bounded.ts";
import type { ObjectInfo, ObjectStore } from "../stores/store.ts";
import { readManifest } from "./checkpoint-listing.ts";
import { openCheckpoint } from "./open-checkpoint.ts";
import { encodeRecord, listKeys, readRecord } from "./records.ts";
import { type Removal, removalSchema } from "./removal.ts";
import { whyIncomplete } from "./resolve-model.ts";
import type { StepDeps } from "./step.ts";
import { listFolders, listUploadFolders, listUploads, type ModelListing } from "./yard.ts";
import { type Needs, readNeeds } from "./yard-needs.ts";

/** A note that is older was left by a gc that is not there any more. */
const ABANDONED_MS = 3_600_000;

export type InputRules = {
  /** Newest complete uploads, and newest universal checkpoints, of each model that stay; undefined: all. */
  readonly uploads: number | undefined;
  readonly checkpoints: number | undefined;
  /** What is younger stays. */
  readonly sinceMs: number;
  readonly needs: Needs;
};

/** A folder of inputs that goes. */
export type Input = {
  readonly kind: "upload" | "checkpoint" | "unfinished-checkpoint";
  readonly model: string;
  readonly prefix: string;
  /** All but the note. */
  readonly files: readonly ObjectInfo[];
  /** Key of the cache entry that goes with an upload. */
  readonly cache: string | null;
  /** An upload of `push`. */
  readonly isPushed: boolean;
  /** An earlier gc decided it, and was killed before all files were gone. */
  readonly isDecided: boolean;
};

/**
 * What goes of the inputs of a yard that has these models, when these folders of versions are gone.
 * Throws Manifest codes and YardManifestMissing of a version that cannot be read, and what the stores throw.
 * Cost: the headers of uploads that go and of those newer than the last one that a run has read; for checkpoints, every
 * manifest and every cache entry.
 */
export async function findInputs(
  yard: ObjectStore,
  models: readonly ModelListing[],
  gone: ReadonlySet<string>,
  rules: InputRules,
  deps: StepDeps,
): Promise<readonly Input[]> {
  const left = await findLeft(yard, models, deps);
  if (rules.uploads === undefined && rules.checkpoints === undefined) return left;
  const named = await readNamed(yard, models, gone, deps.signal);
  const uploads: Input[] = [];
  if (rules.uploads !== undefined) {
    for (const { model } of models)
      uploads.push(...(await findUploads(yard, model, rules.uploads, named, rules, deps)));
  }
  const dropped = new Set([...left, ...uploads].map(({ cache }) => cache));
  const checkpoints = await findCheckpoints(yard, named, dropped, rules, deps);
  return [...left, ...uploads, ...checkpoints];
}

/** Short digests of what versions name as their inputs. */
async function readNamed(
  yard: ObjectStore,
  models: readonly ModelListing[],
  gone: ReadonlySet<string>,
  signal: AbortSignal,
): Promise<ReadonlySet<string>> {
  const all = models.flatMap(({ model, versions }) => versions.map(({ version }) => layout.version(model, version)));
  const inputs = await mapBounded(
    all.filter((prefix) => !gone.has(prefix)),
    async (prefix) => (await readManifest(yard, prefix, signal)).manifest.inputs,
  );
  return new Set(inputs.flat().flatMap(({ digest }) => (digest === null ? [] : [shortDigest(digest)])));
}

/**
 * Complete uploads beyond the newest, from the newest one on that a run has read: what came after it may be what a
 * pipeline is about to be started for.
 */
async function findUploads(
  yard: ObjectStore,
  model: string,
  keep: number,
  named: ReadonlySet<string>,
  { sinceMs, needs }: InputRules,
  deps: StepDeps,
): Promise<readonly Input[]> {
  const found: Input[] = [];
  const uploads = await listUploads(yard, model);
  let [kept, isRead] = [0, false];
  for (const upload of uploads.length > keep ? uploads : []) {
    const { prefix, files, modifiedMs } = upload;
    if ((await whyIncomplete(yard, upload, deps.signal)) !== undefined) continue;
    kept += 1;
    const mayGo = kept > keep && modifiedMs <= sinceMs && !isNeeded({ kind: "upload", model, prefix }, needs);
    if (isRead && !mayGo) continue;
    const { cache, digest } = await identify(yard, prefix, deps.signal);
    const isNamed = digest !== undefined && named.has(shortDigest(digest));
    isRead ||= isNamed || (cache !== null && (await yard.head(cache, { signal: deps.signal })) !== undefined);
    // A name that is none cannot be found in what names uploads.
    if (!mayGo || !isRead || isNamed || !NAME.test(upload.upload)) continue;
    const names = files.map(({ key }) => key.slice(prefix.length)).filter((name) => name !== UPLOAD_MARKER);
    const isPushed = isUnfinishedPush(names);
    found.push({ kind: "upload", model, prefix, files, cache, isPushed, isDecided: false });
  }
  return found;
}

/** What a run would know the upload by; nothing of one that no run can open. */
async function identify(yard: ObjectStore, prefix: string, signal: AbortSignal) {
  try {
    const { fingerprint, digest } = await openCheckpoint(yard, prefix, signal);
    return { cache: digest === undefined ? layout.cache(fingerprint) : null, digest };
  } catch (cause) {
    if (isVerdict(cause)) return { cache: null, digest: undefined };
    throw cause;
  }
}

async function findCheckpoints(
  yard: ObjectStore,
  named: ReadonlySet<string>,
  dropped: ReadonlySet<string | null>,
  { checkpoints: keep, sinceMs, needs }: InputRules,
  deps: StepDeps,
): Promise<readonly Input[]> {
  if (keep === undefined) return [];
  const folders = await listCheckpointFolders(yard, deps.signal);
  const whole = folders.filter(({ kind }) => kind === "checkpoint").sort((a, b) => b.madeMs - a.madeMs);
  const newest = new Set([...Map.groupBy(whole, ({ model }) => model).values()].flatMap((own) => own.slice(0, keep)));
  const found: Input[] = [];
  for (const folder of folders) {
    const { kind, model, digest, prefix, files } = folder;
    const isYoung = files.some(({ modifiedMs }) => modifiedMs > sinceMs);
    const isGoing = files.some(({ key }) => key === `${prefix}${REMOVAL_NOTE}`);
    if (isGoing || isYoung || newest.has(folder) || named.has(digest) || isNeeded(folder, needs)) continue;
    found.push({ kind, model, prefix, files, cache: null, isPushed: false, isDecided: false });
  }
  const cached = found.length === 0 ? new Set<string>() : await readCached(yard, dropped, deps.signal);
  return found.filter(({ prefix }) => !cached.has(prefix));
}

/** Universal checkpoints that the cache leads to, without the entries that go. */
async function readCached(
  yard: ObjectStore,
  dropped: ReadonlySet<string | null>,
  signal: AbortSignal,
): Promise<ReadonlySet<string>> {
  const keys = (await listKeys(yard, "cache/", signal)).filter((key) => !dropped.has(key));
  const texts = await mapBounded(keys, async (key) => {
    const entry = await yard.get(key, STORE_LIMITS.conditionalBytes, { signal });
    const text = new TextDecoder().decode(entry?.bytes);
    return [...text.matchAll(/checkpoints\/[^/"]+\/[^/"]+\//g)].map(([prefix]) => prefix);
  });
  return new Set(texts.flat());
}

/** A folder with its note, which lies there for so long that whoever left it is gone. */
type Abandoned = { readonly folder: Folder; readonly note: ObjectInfo; readonly removal: Removal };
type Folder = Pick<Input, "kind" | "model" | "prefix" | "files">;

async function findAbandoned(
  yard: ObjectStore,
  models: readonly ModelListing[],
  deps: StepDeps,
): Promise<readonly Abandoned[]> {
  const folders: Folder[] = [...(await listCheckpointFolders(yard, deps.signal))];
  for (const { model } of models) {
    const uploads = await listUploadFolders(yard, model);
    folders.push(...uploads.map(({ prefix, files }) => ({ kind: "upload" as const, model, prefix, files })));
  }
  const abandoned: Abandoned[] = [];
  for (const folder of folders) {
    const note = folder.files.find(({ key }) => key === `${folder.prefix}${REMOVAL_NOTE}`);
    if (note === undefined || note.modifiedMs > deps.now() - ABANDONED_MS) continue;
    const removal = (await readRecord(yard, note.key, removalSchema, deps.signal))?.value;
    if (removal !== undefined) abandoned.push({ folder, note, removal });
  }
  return abandoned;
}

/** Takes away the notes of a gc that was killed before it decided: their folders are what they were. */
export async function forgetAbandoned(
  yard: ObjectStore,
  models: readonly ModelListing[],
  deps: StepDeps,
): Promise<void> {
  for (const { note, removal } of await findAbandoned(yard, models, deps)) {
    if (removal.state === "asked") await yard.delete(note.key, { signal: deps.signal });
  }
}

/** Folders that an earlier gc has decided about, and was killed before all of their files were gone. */
async function findLeft(yard: ObjectStore, models: readonly ModelListing[], deps: StepDeps): Promise<readonly Input[]> {
  const abandoned = await findAbandoned(yard, models, deps);
  return abandoned.flatMap(({ folder, note, removal: { state, cache, isPushed } }) => {
    const files = folder.files.filter((file) => file !== note);
    const isLeft = state === "decided" && !(isPushed && files.length === 0);
    return isLeft ? [{ ...folder, files, cache, isPushed, isDecided: true }] : [];
  });
}

type CheckpointFolder = Folder & { readonly digest: string; readonly madeMs: number };

async function listCheckpointFolders(yard: ObjectStore, signal: AbortSignal): Promise<readonly CheckpointFolder[]> {
  const models = await listFolders(yard, "checkpoints/", signal);
  return [...models].flatMap(([model, all]) => {
    const folders = Map.groupBy(all, ({ key }) => key.split("/")[2] ?? "");
    const ours = [...folders].filter(([digest]) => /^[0-9a-f]{16}$/.test(digest));
    return ours.map(([digest, files]) => {
      const prefix = layout.checkpoint(model, digest);
      const document = files.find(({ key }) => key === `${prefix}${UNIVERSAL_FILE}`);
      const kind = document === undefined ? ("unfinished-checkpoint" as const) : ("checkpoint" as const);
      return { kind, model, digest, prefix, files, madeMs: document?.modifiedMs ?? 0 };
    });
  });
}

function isNeeded({ kind, model, prefix }: Pick<Input, "kind" | "model" | "prefix">, needs: Needs): boolean {
  if (needs.folders.has(prefix) || needs.piped.has(prefix)) return true;
  return kind !== "upload" && needs.described.has(model);
}

/** Removes those that turn out not to be needed, and returns them. */
export async function removeInputs(
  yard: ObjectStore,
  inputs: readonly Input[],
  { sinceMs, needs }: InputRules,
  deps: StepDeps,
): Promise<readonly Input[]> {
  const asked: { readonly input: Input; readonly etag: string }[] = [];
  for (const input of inputs) {
    if (input.isDecided) continue;
    const { created, etag } = await yard.create(`${input.prefix}${REMOVAL_NOTE}`, encode(input, "asked"), deps);
    if (created) asked.push({ input, etag });
  }
  const now = asked.length === 0 ? needs : await readNeeds(yard, sinceMs, deps, needs);
  const decided = inputs.filter(({ isDecided }) => isDecided);
  for (const { input, etag } of asked) {
    const key = `${input.prefix}${REMOVAL_NOTE}`;
    if (isNeeded(input, now) || !(await isUnchanged(yard, input, deps.signal))) await yard.delete(key, deps);
    else if ((await yard.replace(key, encode(input, "decided"), etag, deps)).replaced) decided.push(input);
  }
  for (const input of decided) await removeFiles(yard, input, deps.signal);
  return decided;
}

function encode({ cache, isPushed }: Input, state: Removal["state"]): Uint8Array {
  return encodeRecord({ removal: 1, state, cache, isPushed } satisfies Removal);
}

/** False when somebody has written into the folder since it was listed. */
async function isUnchanged(yard: ObjectStore, { prefix, files }: Input, signal: AbortSignal): Promise<boolean> {
  const now = await Array.fromAsync(yard.list(prefix, { signal }));
  const etags = new Map(files.map(({ key, etag }) => [key, etag]));
  return now.length === files.length + 1 && now.every(({ key, etag }) => (etags.get(key) ?? etag) === etag);
}

/**
 * The cache entry first, for nothing else leads to it; another upload of the same bytes is then adopted once more. The
 * document that makes a checkpoint next, what push wrote last; the note of what was pushed stays.
 */
async function removeFiles(yard: ObjectStore, input: Input, signal: AbortSignal): Promise<void> {
  const { prefix, files, cache, isPushed } = input;
  if (cache !== null) await yard.delete(cache, { signal });
  const isFirst = ({ key }: ObjectInfo) => key === `${prefix}${UNIVERSAL_FILE}`;
  const isLast = ({ key }: ObjectInfo) => isUploadNote(key.slice(prefix.length));
  for (const { key } of files.filter(isFirst)) await yard.delete(key, { signal });
  await mapBounded(
    files.filter((file) => !isFirst(file) && !isLast(file)),
    ({ key }) => yard.delete(key, { signal }),
  );
  for (const { key } of files.filter(isLast)) await yard.delete(key, { signal });
  if (!isPushed) await yard.delete(`${prefix}${REMOVAL_NOTE}`, { signal });
}
