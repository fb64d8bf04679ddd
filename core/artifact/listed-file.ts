// Files as universal checkpoints and manifests list them: name, size and digest, and for tensor files the digests of
// the parts that the file's digest is made of.
import * as z from "zod";
import { blockFileSchema, tensorFileSchema } from "../plan/receipt.ts";
import { tensorBytes } from "../tensor.ts";
import { digestTensorFile } from "./digest.ts";
import { digestSchema } from "./digest-schema.ts";
import { fileNameSchema, listedNameSchema } from "./file-name.ts";

/** A file without parts: its digest covers its bytes. */
export const plainFileSchema = z.strictObject({
  name: fileNameSchema,
  bytes: z.int().nonnegative(),
  digest: digestSchema,
});

/** A file without parts, as a version lists it. */
export const smallFileListingSchema = plainFileSchema.extend({ name: listedNameSchema });

/** A safetensors file: its digest covers the digests of its header and tensors (digest.ts). */
export const tensorFileListingSchema = tensorFileSchema.extend({ name: listedNameSchema });

/** A file of quantized tensors, such as GGUF: its digest covers those of its header and of its blocks. */
export const blockFileListingSchema = blockFileSchema.extend({ name: listedNameSchema });

export type BlockFileListing = z.infer<typeof blockFileListingSchema>;
export type PlainFile = z.infer<typeof plainFileSchema>;
export type TensorFileListing = z.infer<typeof tensorFileListingSchema>;

/** What is wrong with a listing, and where in it. */
export type ListingProblem = { readonly field: string; readonly found: string; readonly expected: string };

/**
 * Why the listing of a file of quantized tensors cannot be true: names once, blocks one after another up to the file's
 * end, and the file's digest made of its parts'. Undefined when nothing is wrong.
 */
export function findBlockProblem(file: BlockFileListing): ListingProblem | undefined {
  return findPartProblem(file, "blocks", file.blocks);
}

/** Why a tensor file's listing cannot be true, from itself alone: sizes by dtype and shape, and as above. */
export function findListingProblem(file: TensorFileListing): ListingProblem | undefined {
  const start = file.tensors[0]?.offset ?? file.bytes;
  if (start < 8 || start > file.bytes) {
    return { field: "tensors[0].offset", found: `offset ${start}`, expected: "an offset after the header" };
  }
  for (const [index, tensor] of file.tensors.entries()) {
    const bytes = tensorBytes(tensor.dtype, tensor.shape);
    if (tensor.bytes === bytes) continue;
    const [found, expected] = [`${tensor.bytes} bytes`, `${bytes} by dtype and shape`];
    return { field: `tensors[${index}].bytes`, found, expected };
  }
  return findPartProblem(file, "tensors", file.tensors);
}

type ListedPart = { readonly name: string; readonly offset: number; readonly bytes: number; readonly digest: string };

function findPartProblem(
  file: Pick<TensorFileListing, "bytes" | "digest" | "headerDigest">,
  list: "tensors" | "blocks",
  parts: readonly ListedPart[],
): ListingProblem | undefined {
  const names = new Set<string>();
  let position = parts[0]?.offset ?? file.bytes;
  for (const [index, { name, offset, bytes }] of parts.entries()) {
    const field = `${list}[${index}]`;
    if (names.has(name)) return { field, found: `${name} again`, expected: "every name once" };
    names.add(name);
    if (offset !== position) {
      return { field: `${field}.offset`, found: `offset ${offset}`, expected: `${position}, the end before it` };
    }
    position += bytes;
  }
  if (position !== file.bytes) {
    return { field: "bytes", found: `${file.bytes} bytes`, expected: `${position} by its ${list}` };
  }
  const digest = digestTensorFile(
    file.headerDigest,
    parts.map((part) => part.digest),
  );
  if (file.digest === digest) return undefined;
  return { field: "digest", found: file.digest, expected: `${digest} by its parts` };
}
