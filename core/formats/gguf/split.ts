// A model in several GGUF files: which tensors each has, what each says of the set, and its name. Whoever quantizes a
// checkpoint cuts by size or count (steps/quantize/quantize.ts); a merge has a file for every unit
// (core/plan/gguf-outputs.ts).
// Source: llama.cpp, gguf-split and the reader of split models; quantization reference section 2.
import { MergeyardError } from "../../error.ts";
import type { GgufMetadata, GgufValue } from "./type-codes.ts";

/** Bounds of one file; absent: none. */
export type GgufSplitLimits = {
  /** Bytes of tensors with the zeros behind them; the header is not counted. A larger tensor has a file of its own. */
  readonly maxBytes?: number | undefined;
  readonly maxTensors?: number | undefined;
};

/** Numbers of files are 16 bits, and names have five digits. */
const FILES_MAX = 65_535;

/**
 * Consecutive tensors for each file, each file as full as the limits let it be. `bytesOf`: padded to the alignment.
 * Throws GgufTensorInvalid: more files than a set may have.
 */
export function splitTensors<Tensor>(
  tensors: readonly Tensor[],
  bytesOf: (tensor: Tensor) => number,
  { maxBytes = Number.POSITIVE_INFINITY, maxTensors = Number.POSITIVE_INFINITY }: GgufSplitLimits,
): readonly (readonly Tensor[])[] {
  let current: Tensor[] = [];
  const files = [current];
  let filled = 0;
  for (const tensor of tensors) {
    const bytes = bytesOf(tensor);
    if (current.length > 0 && (filled + bytes > maxBytes || current.length >= maxTensors)) {
      current = [];
      files.push(current);
      filled = 0;
    }
    current.push(tensor);
    filled += bytes;
  }
  if (files.length <= FILES_MAX) return files;
  throw new MergeyardError("GgufTensorInvalid", { found: `${files.length} files`, expected: `at most ${FILES_MAX}` });
}

/** The first file of a set has all metadata; each says which it is. A single file says nothing of sets. */
export function splitMetadata(all: GgufMetadata, index: number, count: number, tensors: number): GgufMetadata {
  if (count === 1) return all;
  const split: readonly (readonly [string, GgufValue])[] = [
    ["split.no", { kind: "u16", value: index }],
    ["split.count", { kind: "u16", value: count }],
    ["split.tensors.count", { kind: "i32", value: tensors }],
  ];
  return new Map([...(index === 0 ? all : []), ...split]);
}

/** `stem.gguf`, or `stem-00001-of-00003.gguf` as llama.cpp numbers the files of a set. */
export function splitName(stem: string, index: number, count: number): string {
  const digits = (value: number) => String(value).padStart(5, "0");
  return count === 1 ? `${stem}.gguf` : `${stem}-${digits(index + 1)}-of-${digits(count)}.gguf`;
}
