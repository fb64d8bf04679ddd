// Converting a checkpoint to another format. Between safetensors folders and universal checkpoints the tensor files are
// the same, so they are copied, digested on the way, and only the documents around them differ; from every other format
// the tensors are gathered by ranged reads. Into every other format target.ts leads.
import assert from "node:assert/strict";
import * as z from "zod";
import { digestBytes, digestJson } from "../../core/artifact/digest.ts";
import type { PlainFile, TensorFileListing } from "../../core/artifact/listed-file.ts";
import { adoptSafetensors, contentDigest, encodeUniversal, UNIVERSAL_FILE } from "../../core/artifact/universal.ts";
import type { CheckpointFile } from "../../core/checkpoint.ts";
import { MergeyardError } from "../../core/error.ts";
import { type CheckpointWarning, describeWarning, type WritableCheckpoint } from "../../core/formats/format.ts";
import { encodeShardIndex } from "../../core/formats/safetensors/shard-index.ts";
import { fileRole, isAdapter } from "../../core/formats/side-files.ts";
import type { TargetFormat } from "../../core/formats/target.ts";
import { TARGETS } from "../../core/formats/targets.ts";
import { universal as universalFormat } from "../../core/formats/universal-folder.ts";
import { weightsIn } from "../../core/formats/weights-dtype.ts";
import { mapBounded } from "../../core/map-bounded.ts";
import { SHARD_BYTES_DEFAULT } from "../../core/plan/defaults.ts";
import type { TensorFile } from "../../core/plan/receipt.ts";
import { count, uri } from "../../core/schema-atoms.ts";
import { checkpointInfoSchema } from "../../core/universal/checkpoint-info.ts";
import { describeConverted, planConversion } from "../../core/universal/convert-plan.ts";
import type { BytesDone } from "../../engine/request.ts";
import { writeBytes, writeObject } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { readUniversal } from "../checkpoint-listing.ts";
import { listDocument, openPlace, tensorFileBytes, travellingFiles, writtenDocuments } from "../open-checkpoint.ts";
import { createOnce } from "../records.ts";
import { type ConvertDeps, defineStep } from "../step.ts";
import { copyVerified, digestFile, STREAMS_IN_FLIGHT } from "../stream.ts";
import { adoptPieces, findAdoptSource } from "../units/adopt.ts";
import { convertFile } from "./file.ts";
import { type TargetChoice, type WrittenFile, writeTarget } from "./target.ts";

/** What `convert` can write; but for the first two the ids of core/formats/targets.ts. */
export const CONVERSION_TARGETS = [
  "universal",
  "safetensors",
  "torch",
  "dcp",
  "deepspeed-universal",
  "deepspeed",
] as const;

/** What weights are rounded to on request. */
export const WEIGHT_DTYPES = ["F32", "F16", "BF16"] as const;

export const convertInputSchema = z.strictObject({
  /** URI of the folder to read. */
  source: uri,
  /** One file of it that is a checkpoint by itself. */
  sourceFile: z.string().optional(),
  /** URI of the folder to write; it must be empty or absent. */
  target: uri,
  to: z.enum(CONVERSION_TARGETS),
  /** Ranks of a target that is cut for a topology. */
  topology: z
    .strictObject({
      tp: z.int().positive(),
      pp: z.int().positive(),
      dp: z.int().positive(),
      zero: z.literal([1, 2, 3]),
    })
    .optional(),
  /**
   * Float dtype of the weights, where the target holds weights alone, or of those that ranks compute with beside their
   * masters; absent: as they are.
   */
  dtype: z.enum(WEIGHT_DTYPES).optional(),
  /** The target's vocabulary is padded to a multiple of this and its tensor-parallel ranks. */
  vocabularyMultiple: z.int().positive().optional(),
  /** How tensor-parallel ranks cut the source's parameters, where the source does not say it. */
  patterns: checkpointInfoSchema.optional(),
});
export const convertOutputSchema = z.strictObject({
  source: uri,
  target: uri,
  to: convertInputSchema.shape.to,
  /** Of a universal checkpoint: of its document, and of what it holds whatever it was made from. */
  digest: z.string().nullable(),
  contents: z.string().nullable(),
  files: count,
  tensors: count,
  bytes: count,
  /** What was inferred, left out or odd in the source, one line each. */
  warnings: z.array(z.string()),
});

/**
 * Throws YardTargetOccupied, YardSourceChanged, YardFileCorrupt (a source with digests that its bytes do not have), the
 * codes of opening a checkpoint, and what the stores throw; then the target is empty again. The document that makes the
 * target a checkpoint comes last.
 */
export const convertStep = defineStep({
  name: "convert",
  input: convertInputSchema,
  output: convertOutputSchema,
  async run({ source: sourceUri, sourceFile, target: targetUri, to, patterns, dtype, ...choice }, deps: ConvertDeps) {
    const [source, target] = [deps.openStore(sourceUri), deps.openStore(targetUri)];
    const isRounded = dtype !== undefined && checkDtype(to, dtype) === "weights";
    const stored = await openPlace({ store: source, prefix: "", file: sourceFile }, deps.signal, patterns);
    if (isAdapter(stored.checkpoint)) {
      throw new MergeyardError("ConvertAdapterRefused", { where: { store: source.uri }, expected: "a model" });
    }
    const opened = isRounded ? weightsIn(stored, dtype) : stored;
    const conversion = { source: source.uri, of: stored.fingerprint, sourceFile, to, patterns, dtype, choice };
    const mark = await beginTarget(target, conversion, deps.signal);
    deps.begun?.(tensorFileBytes(opened));
    const copying: Copying = { source, target, opened, deps, done: { bytesRead: 0, bytesWritten: 0 } };
    const converting =
      to === "universal" || to === "safetensors"
        ? convertToSafetensors(copying, to)
        : convertToTarget(copying, needTarget(to), { ...choice, computeDtype: isRounded ? undefined : dtype });
    const { files, digest, contents, warnings } = await converting.catch(async (error: unknown) => {
      // Files without the document that was to come last could be taken for a checkpoint of another format.
      for await (const { key } of target.list("")) await target.delete(key);
      throw error;
    });
    if (mark !== undefined) await target.delete(mark);
    return {
      source: source.uri,
      target: target.uri,
      to,
      digest,
      contents,
      files: files.length,
      tensors: opened.checkpoint.tensors.length,
      bytes: files.reduce((sum, file) => sum + file.bytes, 0),
      warnings: [...opened.warnings, ...warnings].map(describeWarning),
    };
  },
});

/** In a target that is no folder of this machine, from the first file to the last. */
const MARK = ".mergeyard-convert";

/**
 * The key of the mark that the target is being filled by this conversion; undefined in a local folder, which gets its
 * name when it is whole. What the same conversion left when it was killed is taken away. Throws YardTargetOccupied.
 */
async function beginTarget(
  target: ObjectStore,
  conversion: Readonly<Record<string, unknown>>,
  signal: AbortSignal,
): Promise<string | undefined> {
  const text = new TextEncoder().encode(digestJson(conversion));
  const found = await target.get(MARK, text.length, { signal });
  const isOwn = found !== undefined && Buffer.compare(found.bytes, text) === 0;
  for await (const { key } of target.list("", { signal })) {
    if (!isOwn) {
      throw new MergeyardError("YardTargetOccupied", { where: { store: target.uri }, found: key, expected: "nothing" });
    }
    if (key !== MARK) await target.delete(key, { signal });
  }
  if (target.isLocal) return undefined;
  await createOnce(target, MARK, text, signal);
  return MARK;
}

type Converted = {
  readonly files: readonly WrittenFile[];
  readonly digest: string | null;
  readonly contents: string | null;
  /** What the target leaves out. */
  readonly warnings: readonly CheckpointWarning[];
};

async function convertToSafetensors(copying: Copying, to: "safetensors" | "universal"): Promise<Converted> {
  const { target, opened, deps } = copying;
  const files = opened.conversion === undefined ? await copyFiles(copying, to) : await gatherFiles(copying, to);
  const document = to === "universal" ? await describeUniversal(copying, files) : describeIndex(files);
  if (document !== undefined) await createOnce(target, document.name, document.bytes, deps.signal);
  const all = [...files.tensorFiles, ...files.sideFiles];
  if (to !== "universal" || document === undefined) return { files: all, digest: null, contents: null, warnings: [] };
  return { files: all, digest: digestBytes(document.bytes), contents: document.contents, warnings: [] };
}

async function convertToTarget(copying: Copying, format: TargetFormat, choice: TargetChoice): Promise<Converted> {
  const { files, warnings, finish } = await writeTarget(copying, copying.opened, format, choice);
  const { sideFiles: beside } = copying.opened.checkpoint;
  const sideFiles = await copySideFiles(
    copying,
    beside.filter(({ name }) => fileRole(name) !== "index"),
  );
  const made = await writeDocuments(copying);
  await finish();
  return { files: [...files, ...sideFiles, ...made], digest: null, contents: null, warnings };
}

/** What the dtype is for. Throws ConvertDtypeRefused where the target has no choice. */
function checkDtype(to: (typeof CONVERSION_TARGETS)[number], dtype: string): "weights" | "compute" {
  const taken = to === "safetensors" ? "weights" : TARGETS.get(to)?.takesDtype;
  if (taken !== undefined) return taken;
  const taking = [...TARGETS.values()].filter(({ takesDtype }) => takesDtype !== undefined).map(({ id }) => id);
  throw new MergeyardError("ConvertDtypeRefused", {
    found: `${dtype} for ${to}, which keeps master weights alone`,
    expected: `one of ${["safetensors", ...taking].join(", ")}`,
  });
}

function needTarget(id: string): TargetFormat {
  const target = TARGETS.get(id);
  assert.ok(target !== undefined, `${id} is a target`);
  return target;
}

type Copying = {
  readonly source: ObjectStore;
  readonly target: ObjectStore;
  readonly opened: WritableCheckpoint;
  readonly deps: ConvertDeps;
  readonly done: { bytesRead: number; bytesWritten: number };
};

type CopiedFiles = { readonly tensorFiles: readonly TensorFile[]; readonly sideFiles: readonly PlainFile[] };

/** Copies what the target format holds: a safetensors folder has no place for files of optimizer state alone. */
async function copyFiles(copying: Copying, to: "safetensors" | "universal"): Promise<CopiedFiles> {
  const { checkpoint } = copying.opened;
  const used = new Set(checkpoint.tensors.flatMap(({ ranges }) => ranges.map(({ file }) => file)));
  const wanted = checkpoint.tensorFiles.filter(({ name }) => to === "universal" || used.has(name));
  const tensorFiles = await mapBounded(wanted, (file) => copyTensorFile(copying, file), STREAMS_IN_FLIGHT);
  return { tensorFiles, sideFiles: await copySideFiles(copying, checkpoint.sideFiles) };
}

/** Gathers the tensors of another format into files of ours, one after the other. */
async function gatherFiles(copying: Copying, format: "safetensors" | "universal"): Promise<CopiedFiles> {
  const { source, target, opened, deps, done } = copying;
  const planned = planConversion(opened.conversion ?? [], SHARD_BYTES_DEFAULT, { states: format === "universal" });
  const tensorFiles: TensorFile[] = [];
  for (const file of planned) {
    const before = { ...done };
    const progress = ({ bytesRead, bytesWritten }: BytesDone): void => {
      done.bytesRead = before.bytesRead + bytesRead;
      done.bytesWritten = before.bytesWritten + bytesWritten;
      deps.progress?.({ ...done });
    };
    const [from, to] = [
      { store: source.uri, prefix: "", listings: opened.listings },
      { store: target.uri, key: file.file },
    ];
    const { listing } = await convertFile(from, file, to, { ...deps, progress });
    tensorFiles.push(listing);
  }
  const made = await writeDocuments(copying);
  return { tensorFiles, sideFiles: [...(await copySideFiles(copying, travellingFiles(opened))), ...made] };
}

/** Documents that the source's reader made of what the source says in its own form. */
async function writeDocuments({ target, opened, deps }: Copying): Promise<readonly PlainFile[]> {
  const made = writtenDocuments(opened);
  for (const { name, bytes } of made) await writeBytes(target, name, bytes, { signal: deps.signal });
  return made.map(listDocument);
}

function copySideFiles(copying: Copying, files: readonly CheckpointFile[]): Promise<readonly PlainFile[]> {
  return mapBounded(files, (file) => copySideFile(copying, file), STREAMS_IN_FLIGHT);
}

async function copyTensorFile(copying: Copying, { name, bytes }: CheckpointFile): Promise<TensorFile> {
  const { source, target, opened, deps } = copying;
  const where = { store: source.uri, file: name };
  const from = await findAdoptSource(source, name, deps.signal);
  if (from === undefined) throw new MergeyardError("YardSourceChanged", { where, found: "no such file any more" });
  let listing: TensorFile | undefined;
  const pieces = adoptPieces(from, name, deps.signal, (file) => {
    checkDigests(where, opened.listings, file);
    listing = file;
  });
  await writeObject(target, name, counted(pieces, copying), from.bytes, { signal: deps.signal });
  if (listing === undefined) throw new MergeyardError("YardSourceChanged", { where, expected: `${bytes} bytes` });
  return listing;
}

/** Tensors whose digests the source states must have them. */
function checkDigests(
  where: { readonly store: string; readonly file: string },
  listings: readonly TensorFileListing[] | undefined,
  file: TensorFile,
): void {
  const listing = listings?.find((each) => each.name === file.name);
  const stated = new Map(listing?.tensors.map((tensor) => [tensor.name, tensor.digest]));
  for (const { name, digest } of file.tensors) {
    const expected = stated.get(name);
    if (expected === undefined || expected === digest) continue;
    throw new MergeyardError("YardFileCorrupt", { where: { ...where, tensor: name }, found: digest, expected });
  }
}

async function* counted(pieces: AsyncIterable<Uint8Array>, { deps, done }: Copying): AsyncGenerator<Uint8Array> {
  for await (const piece of pieces) {
    yield piece;
    done.bytesRead += piece.length;
    done.bytesWritten += piece.length;
    deps.progress?.({ ...done });
  }
}

async function copySideFile(copying: Copying, { name, bytes }: CheckpointFile): Promise<PlainFile> {
  const { source, target, deps } = copying;
  const from = { store: source, key: name, bytes };
  const file = { name, bytes, digest: await digestFile(from, deps.signal) };
  await copyVerified(from, { store: target, key: name }, file, deps.signal);
  return file;
}

/** `contents`: the digest of a universal checkpoint's contents. */
type Document = { readonly name: string; readonly bytes: Uint8Array; readonly contents: string | null };

/** What is universal already keeps its own document: it says more than the files do. */
async function describeUniversal({ source, opened, deps }: Copying, files: CopiedFiles): Promise<Document> {
  const { conversion, checkpoint } = opened;
  const { tensorFiles, sideFiles } = files;
  if (checkpoint.format === universalFormat.id) {
    const { universal, bytes } = await readUniversal(source, "", deps.signal);
    return { name: UNIVERSAL_FILE, bytes, contents: contentDigest(universal) };
  }
  const universal =
    conversion === undefined
      ? adoptSafetensors(tensorFiles, sideFiles)
      : describeConverted(opened, conversion, tensorFiles, sideFiles);
  return { name: UNIVERSAL_FILE, bytes: encodeUniversal(universal), contents: contentDigest(universal) };
}

/** A folder of several files needs an index, unless it brought one. */
function describeIndex({ tensorFiles, sideFiles }: CopiedFiles): Document | undefined {
  if (tensorFiles.length < 2 || sideFiles.some(({ name }) => fileRole(name) === "index")) return undefined;
  const tensors = tensorFiles.flatMap((file) =>
    file.tensors.map(({ name, bytes }) => ({ name, bytes, file: file.name })),
  );
  const text = encodeShardIndex(
    new Map(tensors.map(({ name, file }) => [name, file])),
    tensors.reduce((sum, { bytes }) => sum + bytes, 0),
  );
  return { name: "model.safetensors.index.json", bytes: new TextEncoder().encode(text), contents: null };
}
