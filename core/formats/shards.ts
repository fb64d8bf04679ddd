// A model in several files: which tensors each has, and the files' names as HF tools and llama.cpp write them. Used by
// the readers and writers of safetensors, torch and GGUF.

/** `model-00002-of-00005.safetensors`: stem, number, count, extension. */
const SHARD_NAME = /^(.*)-(\d{5,})-of-(\d{5,})(\.[a-z]+)$/;

/** True for the name of one file of several. */
export function isShardName(name: string): boolean {
  return Number(SHARD_NAME.exec(name)?.[3] ?? 0) > 1;
}

/** Name of a shard: for index 1 of 5 and `model.safetensors`, as the only one is named, the name above. */
export function shardName(single: string, index: number, count: number): string {
  if (count === 1) return single;
  const digits = (value: number) => String(value).padStart(5, "0");
  const dot = single.lastIndexOf(".");
  return `${single.slice(0, dot)}-${digits(index + 1)}-of-${digits(count)}${single.slice(dot)}`;
}

/** Of the shards of one model, the name of the file that would hold it alone; undefined for other names. */
export function singleName(name: string): string | undefined {
  const [, stem, , , extension = ""] = SHARD_NAME.exec(name) ?? [];
  return stem === undefined ? undefined : `${stem}${extension}`;
}

/** Bounds of one file; absent: none. */
export type FileLimits = {
  /** Bytes of tensors; the header is not counted. A larger tensor has a file of its own. */
  readonly maxBytes?: number | undefined;
  readonly maxTensors?: number | undefined;
};

/** Items in order, by file: each file is filled until the next item would go beyond a limit. None give one file. */
export function fillFiles<Item>(
  items: readonly Item[],
  bytesOf: (item: Item) => number,
  { maxBytes = Number.POSITIVE_INFINITY, maxTensors = Number.POSITIVE_INFINITY }: FileLimits,
): readonly (readonly Item[])[] {
  let current: Item[] = [];
  let filled = 0;
  const files = [current];
  for (const item of items) {
    const bytes = bytesOf(item);
    if (current.length > 0 && (filled + bytes > maxBytes || current.length >= maxTensors)) {
      current = [];
      files.push(current);
      filled = 0;
    }
    current.push(item);
    filled += bytes;
  }
  return files;
}
