// A folder of safetensors as Hugging Face tools write it: one file, or shards with an index, and side files around
// them. Which file is the model is settled by name and never guessed: an ambiguous folder is refused.
import assert from "node:assert/strict";
import type { CheckpointFile, FolderReader, ReadRange, TensorEntry } from "../../checkpoint.ts";
import { FOLDER_LIMITS } from "../../limits.ts";
import { mapBounded } from "../../map-bounded.ts";
import { hasRankFiles } from "../deepspeed/files.ts";
import type { CheckpointFormat, CheckpointWarning, FileHeader, OpenedCheckpoint } from "../format.ts";
import { isShardName } from "../shards.ts";
import { readSideFiles, topLevelFiles } from "../side-files.ts";
import { completeHeader, parseSafetensorsHeader, readHeaderStart, type SafetensorsHeader } from "./safetensors.ts";
import { compareIndex, fileError, readShardIndex } from "./shard-index.ts";

const EXTENSION = ".safetensors";
const INDEX_EXTENSION = ".safetensors.index.json";

/** Single files that are the model even when others lie beside them; the first present one is taken. */
const SINGLE_NAMES = ["model.safetensors", "consolidated.safetensors"];

export const safetensors = Object.freeze({
  id: "safetensors",
  title: "safetensors folder (Hugging Face)",
  recognise: (files) =>
    topLevelFiles(files).some(({ name }) => name.endsWith(EXTENSION) || name.endsWith(INDEX_EXTENSION)),
  open: openSafetensorsFolder,
  file: { extensions: [EXTENSION], open: (folder) => assemble(folder, folder.files, () => []) },
} satisfies CheckpointFormat);

async function openSafetensorsFolder(folder: FolderReader): Promise<OpenedCheckpoint> {
  const files = topLevelFiles(folder.files);
  const indexFile = chooseIndex(files);
  const beside = warnOfRanks(folder.files);
  if (indexFile === undefined) return assemble(folder, [chooseSingle(files)], () => beside);
  const { index, shards } = await readShardIndex(folder, indexFile);
  return assemble(folder, shards, (tensors) => [...compareIndex(index, indexFile, tensors), ...beside]);
}

/** A trainer that saves the model for others beside its own step; which of the two is meant, only the user knows. */
function warnOfRanks(files: readonly CheckpointFile[]): CheckpointWarning[] {
  const rank = files.find((file) => hasRankFiles([file]));
  return rank === undefined ? [] : [{ code: "TrainingStateBeside", where: { file: rank.name } }];
}

async function assemble(
  folder: FolderReader,
  tensorFiles: readonly CheckpointFile[],
  check: (tensors: readonly TensorEntry[]) => CheckpointWarning[],
): Promise<OpenedCheckpoint> {
  const headers = await readHeaders(folder, tensorFiles);
  const tensors = headers.flatMap((header) => header.tensors);
  const warnings = check(tensors);
  const side = await readSideFiles(folder, tensorFiles);
  const metadata = new Map(headers.flatMap((header) => [...header.metadata]));
  const { sideFiles, config } = side;
  return {
    checkpoint: { format: safetensors.id, tensorFiles, sideFiles, tensors, metadata, config },
    warnings: [...warnings, ...side.warnings],
    headers: new Map(tensorFiles.map((file, index) => [file.name, describeHeader(headers[index])])),
    digest: undefined,
  };
}

function describeHeader(header: SafetensorsHeader | undefined): FileHeader {
  assert.ok(header !== undefined, "every tensor file has a header");
  return { bytes: header.headerBytes, digest: header.headerDigest };
}

/**
 * Headers of the files, in their order. The first reads run side by side; headers larger than the guess are read and
 * parsed one after another, so that forged lengths cannot add up. Throws: Safetensors codes, CheckpointTooManyTensors.
 */
export async function readHeaders(
  folder: FolderReader,
  files: readonly CheckpointFile[],
  tensorsMax: number = FOLDER_LIMITS.tensors,
): Promise<readonly SafetensorsHeader[]> {
  const headers = new Array<SafetensorsHeader>(files.length);
  let tensors = 0;
  const keep = (index: number, file: CheckpointFile, header: SafetensorsHeader) => {
    tensors += header.tensors.length;
    headers[index] = header;
    if (tensors <= tensorsMax) return;
    throw fileError("CheckpointTooManyTensors", file.name, `${tensors} up to this file`, `at most ${tensorsMax}`);
  };
  const large: number[] = [];
  await mapBounded(files, async (file, index) => {
    const start = await readHeaderStart((offset, bytes) => folder.read(file.name, offset, bytes), file);
    if (start.bytes.length >= start.headerBytes) keep(index, file, parseSafetensorsHeader(start.bytes, file));
    else large.push(index);
  });
  for (const index of large) {
    const file = files[index];
    assert.ok(file !== undefined);
    const read: ReadRange = (offset, bytes) => folder.read(file.name, offset, bytes);
    keep(index, file, parseSafetensorsHeader(await completeHeader(read, await readHeaderStart(read, file)), file));
  }
  return headers;
}

/** The index that rules the folder; undefined when the model is a single file. */
function chooseIndex(files: readonly CheckpointFile[]): CheckpointFile | undefined {
  const indexes = files.filter(({ name }) => name.endsWith(INDEX_EXTENSION));
  const main = indexes.find(({ name }) => name === `model${INDEX_EXTENSION}`);
  const single = files.find(({ name }) => name === SINGLE_NAMES[0]);
  if (main !== undefined && single !== undefined) {
    const found = `${single.name} and ${main.name}`;
    throw fileError("CheckpointAmbiguous", single.name, found, "one of them");
  }
  if (main !== undefined || single !== undefined) return main;
  if (indexes.length < 2) return indexes[0];
  throw fileError("CheckpointAmbiguous", indexes[0]?.name, indexes.map(({ name }) => name).join(", "), "one index");
}

function chooseSingle(files: readonly CheckpointFile[]): CheckpointFile {
  const candidates = files.filter(({ name }) => name.endsWith(EXTENSION));
  for (const wanted of SINGLE_NAMES) {
    const file = candidates.find(({ name }) => name === wanted);
    if (file !== undefined) return file;
  }
  const shard = candidates.find(({ name }) => isShardName(name));
  if (shard !== undefined) {
    throw fileError("CheckpointIndexMissing", shard.name, "a shard and no index", "model.safetensors.index.json");
  }
  const [only, ...others] = candidates;
  if (only !== undefined && others.length === 0) return only;
  const found = candidates.map(({ name }) => name).join(", ");
  throw fileError("CheckpointAmbiguous", only?.name, found, "model.safetensors, or an index, or a single file");
}
