// `model.safetensors.index.json` and the shards it names; folders of torch files have the same.
// An index is parsed strictly, compared with the folder and with what its shards hold, and written as those tools do.
import { isPlainFileName } from "../../artifact/file-name.ts";
import type { CheckpointFile, FolderReader, TensorEntry } from "../../checkpoint.ts";
import { type ErrorCode, MergeyardError } from "../../error.ts";
import { FOLDER_LIMITS } from "../../limits.ts";
import { compareUtf8 } from "../../utf8-order.ts";
import type { CheckpointWarning } from "../format.ts";
import { decodeUtf8, type JsonFault, type JsonOptions, JsonScanner } from "../json-scan.ts";
import { singleName } from "../shards.ts";
import { topLevelFiles } from "../side-files.ts";

export type ShardIndex = {
  /** Tensor name to file name, in the index's order. */
  readonly weightMap: ReadonlyMap<string, string>;
  /** `metadata.total_size` as it stands there; undefined when absent. */
  readonly totalSize: unknown;
};

/**
 * The index of a sharded folder, and the shards that it names in the folder's order: none may be missing, and none of
 * their family may be left over.
 * Throws: CheckpointIndexNotJson, CheckpointIndexInvalid, CheckpointIndexNameRepeated, CheckpointIndexFileNameInvalid,
 * CheckpointShardMissing, CheckpointShardUnexpected.
 */
export async function readShardIndex(
  folder: FolderReader,
  file: CheckpointFile,
): Promise<{ readonly index: ShardIndex; readonly shards: readonly CheckpointFile[] }> {
  if (file.bytes > FOLDER_LIMITS.indexBytes) {
    const expected = `at most ${FOLDER_LIMITS.indexBytes} bytes`;
    throw fileError("CheckpointIndexInvalid", file.name, `${file.bytes} bytes`, expected);
  }
  const index = parseShardIndex(await folder.read(file.name, 0, file.bytes), file.name);
  const files = topLevelFiles(folder.files);
  const names = new Set(index.weightMap.values());
  const shards = files.filter(({ name }) => names.has(name));
  const present = new Set(shards.map(({ name }) => name));
  const [missing] = [...names].filter((name) => !present.has(name)).sort();
  if (missing !== undefined) {
    const found = `${shards.length} of ${names.size} files`;
    throw fileError("CheckpointShardMissing", missing, found, `every file that ${file.name} names`);
  }
  const families = new Set([...names].flatMap((name) => singleName(name) ?? []));
  const extra = files.find(({ name }) => !names.has(name) && families.has(singleName(name) ?? ""));
  if (extra === undefined) return { index, shards };
  throw fileError("CheckpointShardUnexpected", extra.name, "a shard that the index does not name", "no such file");
}

/** What is wrong with a file of the folder, or with the choice among its files. */
export function fileError(code: ErrorCode, file: string | undefined, found: string, expected: string): MergeyardError {
  return new MergeyardError(code, { where: { file }, found, expected });
}

function parseShardIndex(bytes: Uint8Array, file: string): ShardIndex {
  const fail = (code: ErrorCode, found: string, expected: string, field?: string) =>
    new MergeyardError(code, { where: { file, field }, found, expected });
  const options: JsonOptions = { refuse: (fault) => faultError(fault, file) };
  const scanner = new JsonScanner(decodeUtf8(bytes, options), options);
  let weightMap: Map<string, string> | undefined;
  let totalSize: unknown;
  scanner.readObject((name) => {
    if (name === "weight_map" && weightMap === undefined) weightMap = readWeightMap(scanner, fail);
    else if (name === "weight_map") throw fail("CheckpointIndexNameRepeated", "weight_map again", "one weight_map");
    else if (name === "metadata") totalSize = readTotalSize(scanner.readValue());
    else scanner.skipValue();
  });
  scanner.readEnd();
  if (weightMap === undefined) throw fail("CheckpointIndexInvalid", "no weight_map", "weight_map", "weight_map");
  if (weightMap.size === 0) throw fail("CheckpointIndexInvalid", "no tensors", "at least one tensor", "weight_map");
  return { weightMap, totalSize };
}

function faultError(fault: JsonFault, file: string): MergeyardError {
  const invalid = fault.kind === "type" || fault.kind === "too-long";
  const code = fault.kind === "repeated-name" ? "CheckpointIndexNameRepeated" : "CheckpointIndexInvalid";
  return new MergeyardError(invalid || fault.kind === "repeated-name" ? code : "CheckpointIndexNotJson", {
    where: { file, offset: fault.offset },
    found: fault.found,
    expected: fault.expected,
  });
}

function readWeightMap(
  scanner: JsonScanner,
  fail: (code: ErrorCode, found: string, expected: string, field?: string) => MergeyardError,
): Map<string, string> {
  const weightMap = new Map<string, string>();
  scanner.readObject((tensor) => {
    const field = `weight_map.${tensor.slice(0, 200)}`;
    if (weightMap.has(tensor)) throw fail("CheckpointIndexNameRepeated", "the name again", "every name once", field);
    const shard = scanner.readString();
    if (!isPlainFileName(shard)) {
      const found = JSON.stringify(shard.slice(0, 200));
      throw fail("CheckpointIndexFileNameInvalid", found, "a file name without directories", field);
    }
    weightMap.set(tensor, shard);
  });
  return weightMap;
}

function readTotalSize(metadata: unknown): unknown {
  return typeof metadata === "object" && metadata !== null && "total_size" in metadata
    ? metadata.total_size
    : undefined;
}

/**
 * Compares an index with what its shards hold; returns the warnings.
 * Throws: CheckpointTensorRepeated (in two shards), CheckpointTensorMissing, CheckpointTensorMisplaced (in another
 * shard than the index says), CheckpointTensorNotIndexed.
 */
export function compareIndex(
  index: ShardIndex,
  indexFile: CheckpointFile,
  tensors: readonly TensorEntry[],
): CheckpointWarning[] {
  const homes = new Map<string, string>();
  for (const { name, ranges } of tensors) {
    const file = ranges[0]?.file ?? "";
    const first = homes.get(name);
    if (first !== undefined) throw tensorError("CheckpointTensorRepeated", name, file, `also in ${first}`, "one shard");
    homes.set(name, file);
  }
  for (const [name, stated] of index.weightMap) {
    const file = homes.get(name);
    if (file === undefined) throw tensorError("CheckpointTensorMissing", name, stated, "no such tensor", "the tensor");
    if (file !== stated) throw tensorError("CheckpointTensorMisplaced", name, file, file, `${stated} by the index`);
  }
  for (const [name, file] of homes) {
    if (index.weightMap.has(name)) continue;
    throw tensorError("CheckpointTensorNotIndexed", name, file, "no such name", `the name in ${indexFile.name}`);
  }
  const total = tensors.reduce((sum, { ranges }) => sum + (ranges[0]?.bytes ?? 0), 0);
  if (index.totalSize === undefined || index.totalSize === total) return [];
  const where = { file: indexFile.name, field: "metadata.total_size" };
  return [{ code: "IndexTotalSizeWrong", where, found: JSON.stringify(index.totalSize), expected: String(total) }];
}

function tensorError(code: ErrorCode, tensor: string, file: string, found: string, expected: string): MergeyardError {
  return new MergeyardError(code, { where: { file, tensor }, found, expected });
}

/** The text of an index as HF's `save_pretrained` writes it: two spaces, names sorted, a newline at the end. */
export function encodeShardIndex(weightMap: ReadonlyMap<string, string>, totalSize: number): string {
  const lines = [...weightMap]
    .sort(([a], [b]) => compareUtf8(a, b))
    .map(([name, file]) => `    ${JSON.stringify(name)}: ${JSON.stringify(file)}`);
  return `{\n  "metadata": {\n    "total_size": ${totalSize}\n  },\n  "weight_map": {\n${lines.join(",\n")}\n  }\n}\n`;
}
