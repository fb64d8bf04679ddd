// A model in several GGUF files: which tensors each has, and what each says of the set. Whoever quantizes a
// checkpoint cuts by size or count (steps/quantize/quantize.ts); a merge has a file for every unit
// (core/plan/gguf-outputs.ts).
// Source: llama.cpp, gguf-split and the reader of split models; quantization reference section 2.
import { MergeyardError } from "../../error.ts";
import { type FileLimits, fillFiles } from "../shards.ts";
import type { GgufMetadata, GgufValue } from "./type-codes.ts";

/** Numbers of files are 16 bits, and names have five digits. */
const FILES_MAX = 65_535;

/**
 * Consecutive tensors for each file, each file as full as the limits let it be. `bytesOf`: padded to the alignment.
 * Throws GgufTensorInvalid: more files than a set may have.
 */
export function splitTensors<Tensor>(
  tensors: readonly Tensor[],
  bytesOf: (tensor: Tensor) => number,
  limits: FileLimits,
): readonly (readonly Tensor[])[] {
  const files = fillFiles(tensors, bytesOf, limits);
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
