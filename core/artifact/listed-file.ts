// Files as universal checkpoints and manifests list them: name, size and digest, and for tensor files the digests of
// the parts that the file's digest is made of.
import * as z from "zod";
import { blockFileSchema, tensorFileSchema } from "../plan/receipt.ts";
import { tensorBytes } from "../tensor.ts";
import { digestTensorFile } from "./digest.ts";
import { fileNameSchema, listedNameSchema } from "./file-name.ts";

export const digestSchema = z.string().regex(/^sha256:[0-9a-f]{64}$/, "sha256: and 64 hex digits");

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
  const names = new Set<string>();
  let position = file.blocks[0]?.offset ?? file.bytes;
  for (const [index, { name, offset, bytes }] of file.blocks.entries()) {
    const field = `blocks[${index}]`;
    if (names.has(name)) return { field, found: `${name} again`, expected: "every name once" };
    names.add(name);
    if (offset !== position) {
      return { field: `${field}.offset`, found: `offset ${offset}`, expected: `${position}, the end before it` };
    }
    position += bytes;
  }
  if (position !== file.bytes) {
    return { field: "bytes", found: `${file.bytes} bytes`, expected: `${position} by its blocks` };
  }
  const digests = file.blocks.map((block) => block.digest);
  const digest = digestTensorFile(file.headerDigest, digests);
  return file.digest === digest
    ? undefined
    : { field: "digest", found: file.digest, expected: `${digest} by its parts` };
}

/**
 * Why a tensor file's listing cannot be true, from itself alone: names once, sizes by dtype and shape, tensors one
 * after another up to the file's end, and the file's digest made of its parts'. Undefined when nothing is wrong.
 */
export function findListingProblem(file: TensorFileListing): ListingProblem | undefined {
  const names = new Set<string>();
  let position = file.tensors[0]?.offset ?? file.bytes;
  if (position < 8 || position > file.bytes) {
    return { field: "tensors[0].offset", found: `offset ${position}`, expected: "an offset after the header" };
  }
  for (const [index, tensor] of file.tensors.entries()) {
    const field = `tensors[${index}]`;
    if (names.has(tensor.name)) return { field, found: `${tensor.name} again`, expected: "every name once" };
    names.add(tensor.name);
    const bytes = tensorBytes(tensor.dtype, tensor.shape);
    if (tensor.bytes !== bytes) {
      return { field: `${field}.bytes`, found: `${tensor.bytes} bytes`, expected: `${bytes} by dtype and shape` };
    }
    if (tensor.offset !== position) {
      return { field: `${field}.offset`, found: `offset ${tensor.offset}`, expected: `${position}, the end before it` };
    }
    position += tensor.bytes;
  }
  if (position !== file.bytes) {
    return { field: "bytes", found: `${file.bytes} bytes`, expected: `${position} by its tensors` };
  }
  const digests = file.tensors.map((tensor) => tensor.digest);
  const digest = digestTensorFile(file.headerDigest, digests);
  return file.digest === digest
    ? undefined
    : { field: "digest", found: file.digest, expected: `${digest} by its parts` };
}
