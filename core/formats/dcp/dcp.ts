// PyTorch Distributed Checkpoint: a folder of `.distcp` files that ranks wrote, each the concatenation of torch files,
// and `.metadata`, a pickle that says which chunk of which tensor lies where. Chunks become boxes of the whole tensor.
// The variant of Hugging Face (safetensors.ts) has safetensors files with offsets instead.
// Source: reference checkpoint-formats.md section 6.1.
import type { Box, ByteRange, CheckpointFile, FolderReader } from "../../checkpoint.ts";
import { type ErrorCode, MergeyardError } from "../../error.ts";
import type { Json } from "../../json.ts";
import { FOLDER_LIMITS, PICKLE_LIMITS, RANK_LIMITS } from "../../limits.ts";
import { mapBounded } from "../../map-bounded.ts";
import { type Dtype, elementCount, type Shape, sameShape } from "../../tensor.ts";
import { findTilingProblem, wholeBox } from "../../universal/box.ts";
import { type ConversionParameter, plainParameter } from "../../universal/conversion.ts";
import { isSafetensorsStart, SAFETENSORS_START_BYTES } from "../foreign-content.ts";
import { type CheckpointFormat, type CheckpointWarning, type OpenedCheckpoint, openedInPieces } from "../format.ts";
import { jsonOf } from "../pickle/json.ts";
import { unpickle } from "../pickle/pickle.ts";
import {
  asKind,
  countsOf,
  describeValue,
  fieldOf,
  isCount,
  itemsOf,
  type PickleRecord,
  type PickleValue,
} from "../pickle/value.ts";
import { readSideFiles } from "../side-files.ts";
import { placeTorchTensor, readTorchFile } from "../torch/file.ts";
import { readCount } from "../torch/tensor.ts";
import { patternWhole } from "../whole-patterns.ts";
import { collectGroups, entriesToRead, groupEntries, placeInGroups, trainingOf } from "./groups.ts";
import { chooseModel } from "./model.ts";
import { joinRanks, rankMetadata } from "./rank-metadata.ts";
import { hasShardFiles, openShardedSafetensors } from "./safetensors.ts";
import { foldTraining } from "./training.ts";

const METADATA = ".metadata";
/** Classes of the document; Megatron's adds what its tensors were reshaped from. */
const RECORDS = new Set(["Metadata", "MCoreMetadata"]);
/** Bytes of one pickled hyper-parameter; the names of a group's parameters are the largest. */
const OBJECT_BYTES = 16_777_216;
/** Names in a warning. */
const NAMES_SHOWN = 20;

export const dcp = Object.freeze({
  id: "dcp",
  title: "PyTorch distributed checkpoint (DCP)",
  recognise: (files) =>
    files.some(({ name }) => name === METADATA || /^[^/]*\.distcp$/.test(name)) || hasShardFiles(files),
  open: (folder) => (hasShardFiles(folder.files) ? openShardedSafetensors(folder) : openDcp(folder)),
} satisfies CheckpointFormat);

/** A tensor as `.metadata` describes it. */
type ChunkedTensor = {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: Shape;
  readonly chunks: readonly Chunk[];
};
type Chunk = { readonly offsets: Shape; readonly sizes: Shape };
/** Where one entry lies: the bytes of one torch file inside of a `.distcp` file. */
type Place = { readonly file: CheckpointFile; readonly offset: number; readonly bytes: number };
/** An entry that is a pickled object: a hyper-parameter, a random state, whatever a trainer saved. */
type StoredObject = { readonly name: string; readonly place: Place | undefined };

/** A distributed checkpoint in the folder `prefix` ("" or ending in "/"), as it names its tensors. */
export type DcpTensors = {
  readonly metadata: PickleValue;
  readonly tensors: readonly ConversionParameter[];
  readonly objects: readonly StoredObject[];
  readonly files: readonly CheckpointFile[];
};

/** Throws Dcp, Torch, Zip and Pickle codes. */
export async function readDcp(folder: FolderReader, prefix: string): Promise<DcpTensors> {
  const documents = metadataFiles(folder, prefix);
  const metadata = await readMetadata(folder, documents);
  const places = readPlaces(metadata, folder, prefix);
  await checkForm(folder, new Set([...places.values()].map(({ file }) => file)));
  const tensors: ConversionParameter[] = [];
  for (const tensor of readTensors(metadata)) tensors.push(await placeChunks(folder, tensor, places));
  const used = new Set([...documents, ...[...places.values()].map(({ file }) => file)].map(({ name }) => name));
  const files = folder.files.filter(({ name }) => used.has(name));
  const objects = objectNames(metadata).map((name) => ({ name, place: places.get(placeKey(name, undefined)) }));
  return { metadata, tensors, objects, files };
}

async function openDcp(folder: FolderReader): Promise<OpenedCheckpoint> {
  const { metadata, tensors, objects, files: tensorFiles } = await readDcp(folder, "");
  checkUnflattened(tensors);
  const folded = await foldTraining(tensors, async ({ dtype, gather }) => {
    const [range] = gather.copies.flat().flatMap((box) => box.ranges);
    return range === undefined ? undefined : readCount(folder, range, dtype);
  });
  const ofGroups = folded.prefix === undefined ? [] : groupEntries(objects, folded.prefix);
  const entries = entriesToRead(ofGroups);
  const groups = collectGroups(entries, await mapBounded(entries, ({ object }) => readObject(folder, object)));
  const isFolded = folded.prefix !== undefined;
  const chosen = isFolded ? { ...folded, left: [] } : chooseModel(folded.parameters, metadata);
  const placed = placeInGroups(chosen.parameters, groups);
  const patterned = patternWhole(placed, { given: folder.patterns, family: undefined, prefix: "" });
  const { parameters } = patterned;
  const taken = new Set(ofGroups.map(({ object }) => object));
  const left = objects.filter((object) => !taken.has(object)).map(({ name }) => name);
  const warnings = [
    ...warnOf("TrainerStateIgnored", left),
    ...warnOf("TensorsIgnored", chosen.left),
    ...warnOf("OptimizerStateIgnored", folded.ignored),
    ...patterned.warnings,
  ];
  const { sideFiles, config } = await readSideFiles(folder, tensorFiles);
  const opened = openedInPieces({ format: dcp.id, tensorFiles, sideFiles, config }, parameters, warnings);
  return { ...opened, training: trainingOf(parameters, groups, patterned.added), family: patterned.family };
}

/** A plain value; undefined for any other. */
async function readObject(folder: FolderReader, { name, place }: StoredObject): Promise<Json | undefined> {
  if (place === undefined) throw dcpError("DcpMetadataInvalid", name, "no place of it", "storage_data for it");
  if (place.bytes > OBJECT_BYTES) {
    throw dcpError("DcpMetadataInvalid", name, `${place.bytes} bytes`, `at most ${OBJECT_BYTES} of a hyper-parameter`);
  }
  const bytes = await folder.read(place.file.name, place.offset, place.bytes);
  const read = async (from: number, length: number) => bytes.subarray(from, from + length);
  return jsonOf((await readTorchFile(read, { name: place.file.name, bytes: place.bytes })).value);
}

function dcpError(code: ErrorCode, tensor: string | undefined, found: string, expected: string): MergeyardError {
  return new MergeyardError(code, { where: { file: METADATA, tensor: tensor?.slice(0, 200) }, found, expected });
}

/** `.metadata`, or a document of each rank that was saved by itself. */
function metadataFiles({ files }: FolderReader, prefix: string): readonly CheckpointFile[] {
  const whole = files.filter(({ name }) => name === `${prefix}${METADATA}`);
  return whole.length > 0 ? whole : rankMetadata(files, prefix);
}

async function readMetadata(folder: FolderReader, files: readonly CheckpointFile[]): Promise<PickleValue> {
  const [first, ...others] = await mapBounded(files, (file) => readDocument(folder, file));
  if (first !== undefined) return joinRanks(first, others);
  throw dcpError("DcpMetadataMissing", undefined, "no .metadata", ".metadata, which is written last");
}

async function readDocument(folder: FolderReader, file: CheckpointFile): Promise<PickleRecord> {
  if (file.bytes > PICKLE_LIMITS.bytes) {
    throw dcpError("PickleTooLarge", undefined, `${file.bytes} bytes`, `at most ${PICKLE_LIMITS.bytes}`);
  }
  const bytes = await folder.read(file.name, 0, file.bytes);
  const { value, end } = unpickle(bytes, { file: file.name });
  if (end !== bytes.length)
    throw dcpError("PickleTrailing", undefined, `${bytes.length - end} bytes`, "none after STOP");
  const record = asKind(value, "record");
  if (record !== undefined && RECORDS.has(typeName(value) ?? "")) return record;
  throw dcpError("DcpMetadataInvalid", undefined, describeValue(value), "a Metadata record");
}

/** torch can write files of safetensors under the same name, whose places in `.metadata` are wrong. */
async function checkForm(folder: FolderReader, files: ReadonlySet<CheckpointFile>): Promise<void> {
  await mapBounded([...files], async ({ name, bytes }) => {
    if (!isSafetensorsStart(await folder.read(name, 0, Math.min(bytes, SAFETENSORS_START_BYTES)))) return;
    throw dcpError("DcpUnsupported", undefined, `${name} in the form of safetensors`, "the form of torch.save");
  });
}

function typeName(value: PickleValue | undefined): string | undefined {
  return asKind(value, "record")?.type.split(" ")[1];
}

function readTensors(metadata: PickleValue): readonly ChunkedTensor[] {
  const entries = asKind(fieldOf(metadata, "state_dict_metadata"), "dict")?.entries;
  if (entries === undefined) throw dcpError("DcpMetadataInvalid", undefined, "no state_dict_metadata", "a dict");
  if (entries.size > FOLDER_LIMITS.tensors) {
    throw dcpError("CheckpointTooManyTensors", undefined, `${entries.size}`, `at most ${FOLDER_LIMITS.tensors}`);
  }
  return [...entries.values()].flatMap(({ key, value }) => {
    if (typeof key !== "string")
      throw dcpError("DcpMetadataInvalid", undefined, describeValue(key), "the name of a tensor");
    if (typeName(value) === "BytesStorageMetadata") return [];
    return [readTensor(key, value)];
  });
}

function objectNames(metadata: PickleValue): readonly string[] {
  const entries = [...(asKind(fieldOf(metadata, "state_dict_metadata"), "dict")?.entries.values() ?? [])];
  return entries.flatMap(({ key, value }) =>
    typeof key === "string" && typeName(value) === "BytesStorageMetadata" ? [key] : [],
  );
}

/** Of what is left out, by name. */
export function warnOf(code: CheckpointWarning["code"], names: readonly string[]): readonly CheckpointWarning[] {
  if (names.length === 0) return [];
  const more = names.length > NAMES_SHOWN ? ` and ${names.length - NAMES_SHOWN} more` : "";
  const found = `${names.slice(0, NAMES_SHOWN).join(", ")}${more}`.slice(0, 1000);
  return [{ code, where: { file: METADATA }, found }];
}

/** FSDP's flat parameters are joined and padded: only the model's own modules know what lies where in them. */
function checkUnflattened(tensors: readonly ConversionParameter[]): void {
  const flat = tensors.find(({ name }) => /(^|\.)_?flat_param(_\d+)?$/.test(name));
  if (flat === undefined) return;
  throw dcpError("DcpUnsupported", flat.name, "a flat parameter of FSDP", "parameters: FSDP's SHARDED_STATE_DICT");
}

function readTensor(name: string, value: PickleValue): ChunkedTensor {
  const properties = asKind(fieldOf(value, "properties"), "record");
  const dtype = asKind(itemsOf(properties?.state.value)?.[0] ?? properties?.fields.get("dtype"), "dtype");
  const shape = countsOf(fieldOf(value, "size"));
  const chunks = itemsOf(fieldOf(value, "chunks"));
  if (
    typeName(value) !== "TensorStorageMetadata" ||
    dtype === undefined ||
    shape === undefined ||
    chunks === undefined
  ) {
    throw dcpError(
      "DcpMetadataInvalid",
      name,
      describeValue(value),
      "a TensorStorageMetadata with dtype, size and chunks",
    );
  }
  if (dtype.dtype === undefined) throw dcpError("TorchDtypeUnsupported", name, dtype.name, "a dtype of safetensors");
  if (chunks.length > RANK_LIMITS.chunks) {
    throw dcpError("DcpMetadataInvalid", name, `${chunks.length} chunks`, `at most ${RANK_LIMITS.chunks}`);
  }
  const boxes = chunks.map((chunk) => {
    const [offsets, sizes] = [countsOf(fieldOf(chunk, "offsets")), countsOf(fieldOf(chunk, "sizes"))];
    if (offsets === undefined || sizes === undefined) {
      throw dcpError("DcpMetadataInvalid", name, describeValue(chunk), "a chunk with offsets and sizes");
    }
    return { offsets, sizes };
  });
  if (elementCount(shape) > Number.MAX_SAFE_INTEGER)
    throw dcpError("TorchTensorTooLarge", name, `[${shape}]`, "fewer elements");
  const problem = findTilingProblem(
    boxes.map(({ offsets, sizes }) => ({ targetOffset: offsets, size: sizes })),
    shape,
  );
  if (problem !== undefined) throw dcpError("DcpChunksInvalid", name, problem.found, problem.expected);
  return { name, dtype: dtype.dtype, shape, chunks: boxes };
}

/** By name and offsets of the chunk. */
function readPlaces(metadata: PickleValue, folder: FolderReader, prefix: string): ReadonlyMap<string, Place> {
  const entries = asKind(fieldOf(metadata, "storage_data"), "dict")?.entries;
  if (entries === undefined) throw dcpError("DcpMetadataInvalid", undefined, "no storage_data", "a dict");
  const files = new Map(folder.files.map((file) => [file.name, file]));
  return new Map(
    [...entries.values()].map(({ key, value }) => {
      const name = fieldOf(key, "fqn");
      if (typeof name !== "string")
        throw dcpError("DcpMetadataInvalid", undefined, describeValue(key), "a MetadataIndex");
      return [
        placeKey(name, countsOf(fieldOf(key, "offset"))),
        readPlace(name, asKind(value, "record"), files, prefix),
      ];
    }),
  );
}

function placeKey(name: string, offsets: Shape | undefined): string {
  return JSON.stringify([name, offsets ?? []]);
}

function readPlace(
  name: string,
  info: PickleRecord | undefined,
  files: ReadonlyMap<string, CheckpointFile>,
  prefix: string,
): Place {
  const [path, offset, bytes] = ["relative_path", "offset", "length"].map((field) => info?.fields.get(field));
  if (typeof path !== "string" || !isCount(offset) || !isCount(bytes)) {
    throw dcpError("DcpMetadataInvalid", name, describeValue(info), "a path, an offset and a length");
  }
  const transforms = info?.fields.get("transform_descriptors") ?? null;
  if (transforms !== null && itemsOf(transforms)?.length !== 0) {
    throw dcpError("DcpUnsupported", name, `transforms ${describeValue(itemsOf(transforms)?.[0])}`, "plain bytes");
  }
  const isPlain =
    path !== "" &&
    !/[\\\p{Cc}]/u.test(path) &&
    path.split("/").every((part) => part !== "" && part !== "." && part !== "..");
  if (!isPlain)
    throw dcpError("DcpPathInvalid", name, JSON.stringify(path.slice(0, 200)), "a path inside of the folder");
  const file = files.get(`${prefix}${path}`);
  if (file === undefined) throw dcpError("DcpFileMissing", name, `no ${path.slice(0, 200)}`, "the file");
  if (offset + bytes <= file.bytes) return { file, offset, bytes };
  throw new MergeyardError("DcpChunkOutOfFile", {
    where: { file: path, tensor: name },
    found: `bytes ${offset} to ${offset + bytes}`,
    expected: `at most ${file.bytes}, the file's size`,
  });
}

async function placeChunks(
  folder: FolderReader,
  { name, dtype, shape, chunks }: ChunkedTensor,
  places: ReadonlyMap<string, Place>,
): Promise<ConversionParameter> {
  const boxes = await mapBounded(chunks, async ({ offsets, sizes }): Promise<Box> => {
    const place = places.get(placeKey(name, offsets));
    if (place === undefined)
      throw dcpError("DcpMetadataInvalid", name, `no place of chunk [${offsets}]`, "storage_data for it");
    return wholeBox(await readChunk(folder, place, { name, dtype, sizes }), sizes, offsets);
  });
  return plainParameter({ name, dtype, shape, gather: { rule: "join", copies: [boxes] } });
}

/** The chunk's bytes inside of its file: the slice is a whole torch file, whose offsets count from its start. */
async function readChunk(
  folder: FolderReader,
  { file, offset, bytes }: Place,
  { name, dtype, sizes }: { readonly name: string; readonly dtype: Dtype; readonly sizes: Shape },
): Promise<readonly ByteRange[]> {
  const read = (from: number, length: number) => folder.read(file.name, offset + from, length);
  const torch = await readTorchFile(read, { name: file.name, bytes });
  const tensor = asKind(torch.value, "tensor");
  const placed = tensor === undefined ? undefined : placeTorchTensor(torch, tensor, name);
  if (placed !== undefined && placed.dtype === dtype && sameShape(placed.shape, sizes)) {
    return placed.ranges.map((range) => ({ ...range, offset: range.offset + offset }));
  }
  throw new MergeyardError("DcpChunkMismatch", {
    where: { file: file.name, tensor: name, offset },
    found: placed === undefined ? describeValue(torch.value) : `${placed.dtype} [${placed.shape}]`,
    expected: `${dtype} [${sizes}]`,
  });
}
