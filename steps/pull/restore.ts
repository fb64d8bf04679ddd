// Restoring one rank of a target topology from a universal checkpoint of a yard: reads universal.json and the byte
// ranges of that rank's slices, and nothing else; no rank waits for another. The folder gets safetensors files and,
// last, `rank.json`, which says what the slices are.
import * as z from "zod";
import { createPartHasher } from "../../core/artifact/digest.ts";
import { checkName } from "../../core/artifact/key.ts";
import { layout } from "../../core/artifact/layout.ts";
import { checkpointDigest, UNIVERSAL_FILE } from "../../core/artifact/universal.ts";
import { MergeyardError } from "../../core/error.ts";
import { count, uri } from "../../core/schema-atoms.ts";
import { tensorBytes } from "../../core/tensor.ts";
import { planRestore, type RestoredFile, type RestoredTensor } from "../../core/universal/plan-restore.ts";
import { type GatherSource, gatherPieces } from "../../engine/gather.ts";
import { writeBytes, writeObject } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { readUniversal } from "../checkpoint-listing.ts";
import { encodeRecord } from "../records.ts";
import { whyIncomplete } from "../resolve-model.ts";
import { defineStep, type StepDeps } from "../step.ts";
import { listUploads, openYard } from "../yard.ts";

/** MODEL@DIGEST, or MODEL's newest universal checkpoint; a rank of the target topology; the folder to restore into. */
const restoreInputSchema = z
  .strictObject({
    yard: uri,
    model: z.string().min(1),
    target: uri,
    tp: z.int().positive(),
    pp: z.int().positive(),
    dp: z.int().positive(),
    rank: count,
    /** The vocabulary is padded to a multiple of this times `tp`; unless said, as the source's padding suggests. */
    vocabularyMultiple: z.int().positive().optional(),
  })
  .refine(({ tp, pp, dp, rank }) => rank < tp * pp * dp, "a rank below tp * pp * dp");
const restoreOutputSchema = z.strictObject({
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

/** What makes a restored folder whole. */
const RANK_FILE = "rank.json";
/** Bytes of tensors of one file. The first one holds the small tensors, and is there early. */
const FILE_BYTES = 2 ** 30;

/**
 * Throws YardModelMissing, YardTargetOccupied, UniversalPatternsMissing, UniversalShapeMismatch, YardFileCorrupt (of
 * tensors that are restored whole: a slice has no digest to compare with), Universal codes and what the stores throw.
 */
export const restoreStep = defineStep({
  name: "restore",
  input: restoreInputSchema,
  output: restoreOutputSchema,
  async run({ yard: uri, model, target: targetUri, tp, pp, dp, rank, vocabularyMultiple }, deps) {
    const topology = { tp, pp, dp };
    const yard = await openYard(deps.openStore, uri);
    const prefix = await findCheckpoint(yard, model, deps.signal);
    const { universal, bytes } = await readUniversal(yard, prefix, deps.signal);
    const plan = planRestore(universal, { topology, rank, shardBytes: FILE_BYTES, vocabularyMultiple });
    const target = deps.openStore(targetUri);
    await refuseStrangers(target, plan.files, deps.signal);
    await target.delete(RANK_FILE, { signal: deps.signal });
    const counted = countReads(yard, bytes.length);
    const done = { bytesRead: 0, bytesWritten: 0 };
    for (const file of plan.files) {
      await writeFile({ store: counted.store, prefix }, target, file, deps, (written) => {
        done.bytesWritten += written;
        done.bytesRead = counted.bytes();
        deps.progress?.({ ...done });
      });
    }
    const digest = checkpointDigest(universal);
    const files = plan.files.map(({ file, fileBytes }) => ({ name: file, bytes: fileBytes }));
    const record = { rank: 1, checkpoint: digest, topology, place: plan.place, files, parameters: plan.parameters };
    const document = encodeRecord(record);
    await writeBytes(target, RANK_FILE, document, { signal: deps.signal });
    return {
      checkpoint: prefix,
      digest,
      target: target.uri,
      place: plan.place,
      files: files.length,
      tensors: plan.files.reduce((sum, { contents }) => sum + contents.length, 0),
      bytes: files.reduce((sum, file) => sum + file.bytes, 0),
      fetchedBytes: counted.bytes(),
    };
  },
});

type Found = { readonly prefix: string; readonly modifiedMs: number };

/**
 * `MODEL@DIGEST`, or the newest universal checkpoint of `MODEL`, whether a run made it or it was uploaded.
 * Throws YardModelMissing.
 */
async function findCheckpoint(yard: ObjectStore, text: string, signal: AbortSignal): Promise<string> {
  const [, model = "", digest] = /^([^@/]+)(?:@(?:sha256:)?([0-9a-f]{16,64}))?$/.exec(text) ?? [];
  const name = checkName(model);
  const stated = digest === undefined ? undefined : layout.checkpoint(name, digest);
  if (stated !== undefined && (await yard.head(`${stated}${UNIVERSAL_FILE}`, { signal })) !== undefined) return stated;
  const area = `checkpoints/${name}/`;
  const found =
    stated === undefined ? [await newestMade(yard, area, signal), await newestUpload(yard, name, signal)] : [];
  const [newest] = found.flatMap((each) => each ?? []).sort((a, b) => b.modifiedMs - a.modifiedMs);
  if (newest !== undefined) return newest.prefix;
  throw new MergeyardError("YardModelMissing", {
    where: { store: yard.uri, model: text },
    found: "no universal checkpoint",
    expected: `${stated ?? `${area}DIGEST/`}${UNIVERSAL_FILE}, or an upload with one`,
    hint: "a run that reads an upload makes it one; or push what `mergeyard convert --to universal` makes of it",
  });
}

async function newestMade(yard: ObjectStore, area: string, signal: AbortSignal): Promise<Found | undefined> {
  let newest: Found | undefined;
  for await (const { key, modifiedMs } of yard.list(area, { signal })) {
    const isNewer = key.endsWith(`/${UNIVERSAL_FILE}`) && modifiedMs > (newest?.modifiedMs ?? -1);
    if (isNewer) newest = { prefix: key.slice(0, -UNIVERSAL_FILE.length), modifiedMs };
  }
  return newest;
}

/** The newest complete upload that is a universal checkpoint: it is read where it lies. */
async function newestUpload(yard: ObjectStore, model: string, signal: AbortSignal): Promise<Found | undefined> {
  for (const upload of await listUploads(yard, model)) {
    const document = upload.files.find(({ key }) => key === `${upload.prefix}${UNIVERSAL_FILE}`);
    const isWhole = document !== undefined && (await whyIncomplete(yard, upload, signal)) === undefined;
    if (isWhole) return { prefix: upload.prefix, modifiedMs: document.modifiedMs };
  }
  return undefined;
}

async function refuseStrangers(
  target: ObjectStore,
  files: readonly RestoredFile[],
  signal: AbortSignal,
): Promise<void> {
  const own = new Set([RANK_FILE, ...files.map(({ file }) => file)]);
  for await (const { key } of target.list("", { signal })) {
    if (own.has(key)) continue;
    const where = { store: target.uri, file: key };
    throw new MergeyardError("YardTargetOccupied", { where, found: "another file", expected: "an empty folder" });
  }
}

function countReads(store: ObjectStore, before: number): { readonly store: ObjectStore; readonly bytes: () => number } {
  let bytes = before;
  const readInto: ObjectStore["readInto"] = async (key, offset, into, options) => {
    await store.readInto(key, offset, into, options);
    bytes += into.byteLength;
  };
  return { store: { ...store, readInto }, bytes: () => bytes };
}

async function writeFile(
  source: GatherSource,
  target: ObjectStore,
  { file, header, fileBytes, contents }: RestoredFile,
  deps: StepDeps,
  wrote: (bytes: number) => void,
): Promise<void> {
  const pieces = async function* () {
    yield header;
    for await (const piece of restoredPieces(source, contents, deps.signal)) {
      yield piece;
      wrote(piece.length);
    }
  };
  await writeObject(target, file, pieces(), fileBytes, { signal: deps.signal });
  deps.log({ event: "file-restored", file, bytes: fileBytes });
}

/** Neighbours without padding are gathered together, so that many small tensors are read ahead of each other. */
async function* restoredPieces(
  source: GatherSource,
  contents: readonly RestoredTensor[],
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  for (let from = 0; from < contents.length; ) {
    const padded = contents.findIndex(({ zeroBytes }, index) => index >= from && zeroBytes > 0);
    const end = padded === -1 ? contents.length : padded + 1;
    const group = contents.slice(from, end);
    const hasher = createPartHasher(group.map(({ dtype, gathered }) => tensorBytes(dtype, gathered)));
    const tensors = group.map(({ gathered, ...tensor }) => ({ ...tensor, shape: gathered }));
    for await (const piece of gatherPieces(source, tensors, signal)) {
      hasher.update(piece);
      yield piece;
    }
    checkWhole(source, group, hasher.digests());
    yield* zeros(group.at(-1)?.zeroBytes ?? 0);
    from = end;
  }
}

/** Of tensors that are restored whole the digest is known. */
function checkWhole({ store, prefix }: GatherSource, group: readonly RestoredTensor[], found: readonly string[]): void {
  const index = group.findIndex(({ digest }, at) => digest !== undefined && digest !== found[at]);
  const wrong = group[index];
  if (wrong === undefined) return;
  throw new MergeyardError("YardFileCorrupt", {
    where: { store: store.uri, file: prefix, tensor: wrong.name },
    found: found[index],
    expected: wrong.digest,
  });
}

function* zeros(bytes: number): Generator<Uint8Array> {
  const piece = new Uint8Array(Math.min(bytes, 2 ** 20));
  for (let left = bytes; left > 0; left -= piece.length) yield piece.subarray(0, Math.min(left, piece.length));
}
