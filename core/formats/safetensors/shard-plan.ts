// Cutting a list of tensors into safetensors shards: which tensor goes where, every file's header bytes and size, and
// the index, all known before a byte of weights is read.
import { MergeyardError } from "../../error.ts";
import { tensorBytes } from "../../tensor.ts";
import { fillFiles, shardName } from "../shards.ts";
import { compareSpecs, type EncodedHeader, encodeSafetensorsHeader, type TensorSpec } from "./safetensors.ts";
import { encodeShardIndex } from "./shard-index.ts";

/** One file of the output. `tensors` are in file order, their offsets count from the first byte after the header. */
export type PlannedShard = EncodedHeader & { readonly file: string };

export type ShardPlan = {
  readonly shards: readonly PlannedShard[];
  /** The index as a file; undefined for a single shard, which needs none. */
  readonly index: { readonly name: string; readonly text: string } | undefined;
  /** Bytes of all tensors. */
  readonly totalBytes: number;
};

const SINGLE_FILE = "model.safetensors";

/** What HF's loaders ask for: the framework that wrote the file. */
export const HF_METADATA: ReadonlyMap<string, string> = new Map([["format", "pt"]]);

/**
 * Shards of at most `maxShardBytes` bytes of tensors, filled greedily in the given order. A tensor is never split: one
 * that is larger gets a shard of its own. Names are Hugging Face's: `model.safetensors` when one shard is enough, else
 * `model-00001-of-0000N.safetensors` and an index. No tensors give one shard without any.
 * Throws: SafetensorsNameRepeated, SafetensorsNameInvalid, SafetensorsHeaderTooLarge.
 */
export function planShards(tensors: readonly TensorSpec[], maxShardBytes: number): ShardPlan {
  const groups = fillFiles(tensors, bytesOf, { maxBytes: maxShardBytes });
  return nameShards(groups.map((group) => encodeSafetensorsHeader(group, HF_METADATA)));
}

/**
 * The same for units of tensors that are made together, one unit after the other: a unit is never split, and tensors
 * stay in the order in which they are made. Those whose size would leave the next one at an odd place come last, in the
 * reference's order, so that every tensor begins at a multiple of its element.
 */
export function planUnitShards(units: readonly (readonly TensorSpec[])[], maxShardBytes: number): ShardPlan {
  const unitBytes = (unit: readonly TensorSpec[]) => unit.reduce((sum, tensor) => sum + bytesOf(tensor), 0);
  const groups = fillFiles(units, unitBytes, { maxBytes: maxShardBytes });
  return nameShards(groups.map((group) => encodeSafetensorsHeader(alignInOrder(group.flat()), HF_METADATA, "given")));
}

function bytesOf({ dtype, shape }: TensorSpec): number {
  return tensorBytes(dtype, shape);
}

/** Bytes of the largest element. */
const ALIGNMENT_BYTES = 8;

function alignInOrder(tensors: readonly TensorSpec[]): readonly TensorSpec[] {
  const isEven = (tensor: TensorSpec) => bytesOf(tensor) % ALIGNMENT_BYTES === 0;
  return [...tensors.filter(isEven), ...tensors.filter((tensor) => !isEven(tensor)).sort(compareSpecs)];
}

function nameShards(encoded: readonly EncodedHeader[]): ShardPlan {
  const shards = encoded.map((header, index) => ({ file: shardName(SINGLE_FILE, index, encoded.length), ...header }));
  const totalBytes = shards.reduce((sum, shard) => sum + shard.fileBytes - shard.header.length, 0);
  if (shards.length === 1) return { shards, index: undefined, totalBytes };
  const weightMap = mapWeights(shards);
  const text = encodeShardIndex(weightMap, totalBytes);
  return { shards, index: { name: `${SINGLE_FILE}.index.json`, text }, totalBytes };
}

function mapWeights(shards: readonly PlannedShard[]): Map<string, string> {
  const weightMap = new Map<string, string>();
  for (const { file, tensors } of shards) {
    for (const { name } of tensors) {
      if (weightMap.has(name)) throw new MergeyardError("SafetensorsNameRepeated", { where: { file, tensor: name } });
      weightMap.set(name, file);
    }
  }
  return weightMap;
}
