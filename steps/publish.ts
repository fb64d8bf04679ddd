// Publishing a checked run: the version's folder file by file, its signature, its manifest last, then the cache
// entries, then the channel, then the run's result. A version's name is the digest of its manifest, so an interrupted
// publish is repeated into the same folder, and the same bytes are never published twice.
import type { Signer } from "../core/artifact/attestation.ts";
import { digestBytes } from "../core/artifact/digest.ts";
import { layout } from "../core/artifact/layout.ts";
import type { PlainFile } from "../core/artifact/listed-file.ts";
import {
  buildManifest,
  encodeManifest,
  MANIFEST_FILE,
  type Manifest,
  type ManifestFile,
  type ManifestInput,
  versionName,
} from "../core/artifact/manifest.ts";
import { collectStatistics, encodeStatistics, STATISTICS_FILE } from "../core/artifact/statistics.ts";
import { mapBounded } from "../core/map-bounded.ts";
import { completedBytes } from "../core/plan/model-card.ts";
import type { SideFile } from "../core/plan/schema.ts";
import { type CachedFile, recordCached } from "./cache.ts";
import { moveChannel } from "./channel.ts";
import { createOnce, encodeRecord } from "./records.ts";
import { type FinishedFile, type FinishedMerge, mergesOf, readFinishedUnits, stageFilesOf } from "./runs/receipts.ts";
import { type PublishOutput, publishInputSchema, publishOutputSchema } from "./schemas.ts";
import { addSignature } from "./signature.ts";
import { defineStep, type StepDeps } from "./step.ts";
import { copyVerified, digestFile, fileIsWhole, type ListedFile, putFile, type StreamSource } from "./stream.ts";
import { openRun, type UnitContext } from "./units/context.ts";

export type PublishDeps = StepDeps & {
  /** Signs what is published; versions stay unsigned without one. */
  readonly signer?: Signer | undefined;
};

/**
 * Throws YardUnitsUnfinished, YardNameConflict, YardChannelContended, Manifest, Signing and Signature codes, and what
 * the stores throw.
 */
export const publishStep = defineStep({
  name: "publish",
  input: publishInputSchema,
  output: publishOutputSchema,
  async run({ yard, run, plannedMs }, deps: PublishDeps) {
    const context = await openRun({ yard, run }, deps);
    const output = await publishRun(context, plannedMs);
    const { yard: _, ...result } = output;
    await context.yard.create(layout.result(run), encodeRecord({ result: 1, ...result }), { signal: deps.signal });
    return output;
  },
});

async function publishRun(context: UnitContext<PublishDeps>, plannedMs: number): Promise<PublishOutput> {
  const { yard, run, plan, deps } = context;
  const { publish } = plan.header;
  const finished = await readFinishedUnits(context);
  const merges = mergesOf(finished);
  const bytes = merges.reduce((sum, { file }) => sum + file.bytes, 0);
  const base = { yard: yard.uri, run, files: merges.length, bytes };
  if (publish === undefined) {
    return { ...base, outcome: "not-requested", model: null, channel: null, version: null, current: null };
  }
  const { model, channel } = publish;
  const version = await describeVersion(context, merges, model);
  const prefix = layout.version(model, version.name);
  const existed = await putVersion(context, version, prefix, () => signVersion(context, version, prefix, merges));
  const placeOf = (merge: FinishedMerge) =>
    plan.header.publishesCheckpoint ? `${prefix}${merge.unit.file}` : merge.outputKey;
  await mapBounded(merges, (merge) => cacheFile(context, merge, placeOf(merge), existed, prefix));
  // Results that only later stages read stay in the run, and are found there as long as it is kept.
  await mapBounded(stageFilesOf(finished), (made) => cacheFile(context, made, made.outputKey, false, undefined));
  const wanted = { version: version.name, run, decidedMs: plannedMs };
  const move = await moveChannel(yard, { model, channel }, wanted, deps.signal);
  // Its own earlier attempt may have moved the channel and then been interrupted.
  const isOwn = move.outcome === "moved" || (move.outcome === "kept" && move.current.run === run);
  const outcome = move.outcome === "lost" ? "lost-race" : isOwn ? "published" : "unchanged";
  const current = { version: move.current.version, run: move.current.run };
  return {
    ...base,
    outcome,
    model,
    channel,
    version: version.name,
    current,
    files: version.files.length,
    bytes: version.bytes,
  };
}

/** A file of the version and how it gets there. */
type VersionFile = { readonly listing: ManifestFile; readonly put: (key: string) => Promise<unknown> };

type Version = {
  readonly name: string;
  readonly manifest: Manifest;
  readonly files: readonly VersionFile[];
  readonly bytes: number;
};

async function describeVersion(
  context: UnitContext,
  merges: readonly FinishedMerge[],
  model: string,
): Promise<Version> {
  const { yard, plan, deps } = context;
  const { engine, method, recipe } = plan.header;
  const published = plan.header.publishesCheckpoint ? merges : [];
  const made = [
    ...published.map(({ file, outputKey }) => ({ file, key: outputKey })),
    ...merges.flatMap(({ receipt }) => receipt.derived),
  ];
  const tensorFiles = made.map(
    ({ file, key: from }): VersionFile => ({
      listing: file,
      put: (key: string) =>
        putFile({ store: yard, key: from, bytes: file.bytes }, { store: yard, key }, file, deps.signal),
    }),
  );
  const inputs = await listInputs(context);
  const sideFiles = await mapBounded(plan.header.sideFiles, (file) => describeSideFile(context, file, inputs));
  const statistics = describeStatistics(context, merges);
  const files: readonly VersionFile[] = [
    ...tensorFiles,
    ...sideFiles,
    ...(statistics === undefined ? [] : [statistics]),
  ];
  const listings = files.map(({ listing }) => listing);
  const manifest = buildManifest({ model, engine, method, recipe, inputs, files: listings });
  const bytes = listings.reduce((sum, listing) => sum + listing.bytes, 0);
  return { name: versionName(manifest), manifest, files, bytes };
}

/** statistics.json, when the pipeline asks for it or has quantized outputs. */
function describeStatistics(
  { yard, plan, deps }: UnitContext,
  merges: readonly FinishedMerge[],
): VersionFile | undefined {
  const receipts = merges.map(({ receipt }) => receipt);
  const statistics = collectStatistics(plan.header.method, receipts);
  if (statistics === undefined) return undefined;
  const bytes = encodeStatistics(statistics);
  const listing: PlainFile = { name: STATISTICS_FILE, bytes: bytes.length, digest: digestBytes(bytes) };
  return { listing, put: (key) => createOnce(yard, key, bytes, deps.signal) };
}

async function describeSideFile(
  context: UnitContext,
  file: SideFile,
  inputs: readonly ManifestInput[],
): Promise<VersionFile> {
  const { yard, deps } = context;
  if (file.from === "text") {
    const digests = inputs.map(({ digest }) => digest ?? undefined);
    const bytes = completedBytes(file, digests);
    const listing: PlainFile = { name: file.name, bytes: bytes.length, digest: digestBytes(bytes) };
    return { listing, put: (key) => createOnce(yard, key, bytes, deps.signal) };
  }
  const { resolved } = await context.source(file.source);
  const store = deps.openStore(resolved.store);
  const source: StreamSource = { store, key: `${resolved.prefix}${file.file}`, bytes: file.bytes };
  const listing: PlainFile = { name: file.name, bytes: file.bytes, digest: await digestFile(source, deps.signal) };
  return { listing, put: (key) => copyVerified(source, { store: yard, key }, listing, deps.signal) };
}

/** What the version was made from: digests where the inputs have them. */
function listInputs(context: UnitContext): Promise<readonly ManifestInput[]> {
  // Results of the recipe's own documents come after the models, and are no inputs.
  const models = context.plan.header.sources.filter(({ state }) => state !== "merged");
  return mapBounded(models, async ({ model }, index) => {
    const { digest } = await context.source(index);
    return { model, digest: digest ?? null };
  });
}

/**
 * Files first, each whole under its final name, then the signature, the manifest last: it makes the version exist.
 * True: it did before.
 */
async function putVersion(
  context: UnitContext,
  version: Version,
  prefix: string,
  sign: () => Promise<void>,
): Promise<boolean> {
  const { yard, deps } = context;
  const existed = (await yard.head(`${prefix}${MANIFEST_FILE}`, { signal: deps.signal })) !== undefined;
  if (!existed) {
    await mapBounded(version.files, async ({ listing, put }) => {
      const key = `${prefix}${listing.name}`;
      const there = await yard.head(key, { signal: deps.signal });
      // Put whole by an earlier attempt: the folder's name is made from the digests of its files.
      if (there?.bytes !== listing.bytes) await put(key);
    });
  }
  await sign();
  await createOnce(yard, `${prefix}${MANIFEST_FILE}`, encodeManifest(version.manifest), deps.signal);
  return existed;
}

/** Adds the signer's signature, if there is a signer. A version that was published unsigned is signed if it recurs. */
async function signVersion(
  context: UnitContext<PublishDeps>,
  { manifest, name }: Version,
  prefix: string,
  merges: readonly FinishedMerge[],
): Promise<void> {
  const { yard, run, deps } = context;
  if (deps.signer === undefined) return;
  const inputs = await mapBounded(manifest.inputs, async ({ model, digest }, index) => {
    const { resolved } = await context.source(index);
    return { model, digest, place: resolved.store === yard.uri ? resolved.prefix : undefined };
  });
  const images = [...new Set(merges.flatMap(({ receipt }) => receipt.image ?? []))].sort();
  const parts = { manifest, run, inputs, images };
  const isNew = await addSignature({ store: yard, prefix }, parts, deps.signer, deps.signal);
  if (isNew) deps.log({ event: "version-signed", version: name, keyId: deps.signer.keyId });
}

/**
 * Later runs take the unit's output from the version. A file that this publish did not put there is read before it is
 * trusted, and restored from the unit's own when it was damaged.
 */
async function cacheFile(
  context: UnitContext,
  made: FinishedFile,
  key: string,
  existed: boolean,
  prefix: string | undefined,
): Promise<void> {
  const { yard, deps } = context;
  const { receipt, file, outputKey } = made;
  if (receipt.cached && existed) return;
  const etag = await restoreFile(context, { file, from: outputKey, key }, existed);
  if (etag === undefined) return; // deleted meanwhile: nothing to find later
  const derived: CachedFile["derived"] = [];
  for (const { file: listing, key: from } of receipt.derived) {
    const place = prefix === undefined ? from : `${prefix}${listing.name}`;
    const own = await restoreFile(context, { file: listing, from, key: place }, existed);
    if (own === undefined) return;
    derived.push({ file: place, etag: own, listing });
  }
  const entry = {
    cache: 1,
    output: "file",
    file: key,
    etag,
    listing: file,
    derived,
    losses: receipt.losses,
    nonFinite: receipt.nonFinite,
    statistics: receipt.statistics,
  } as const;
  await recordCached(yard, receipt.key, entry, deps.signal);
}

/** The ETag of a file of the version; put back when it is not what it should be. Undefined when it is gone. */
async function restoreFile(
  { yard, deps }: UnitContext,
  { file, from, key }: { readonly file: ListedFile; readonly from: string; readonly key: string },
  existed: boolean,
): Promise<string | undefined> {
  if (existed && !(await fileIsWhole(yard, key, file, deps.signal))) {
    deps.log({ event: "version-file-restored", file: key });
    await putFile({ store: yard, key: from, bytes: file.bytes }, { store: yard, key }, file, deps.signal);
  }
  return (await yard.head(key, { signal: deps.signal }))?.etag;
}
