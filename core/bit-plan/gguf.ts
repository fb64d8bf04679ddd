// A model whose bits are planned for GGUF files: every matrix by itself, in blocks that fill its rows.
import assert from "node:assert/strict";
import type { Checkpoint } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { alignUp, GGUF_ALIGNMENT } from "../formats/gguf/gguf.ts";
import { checkImportance, type Importance } from "../formats/gguf/imatrix.ts";
import { type GgufModel, type GgufModelTensor, planGgufModel } from "../formats/gguf/model.ts";
import { type GgufMetadata, ggufTypeOf } from "../formats/gguf/type-codes.ts";
import { encodeGgufHeader } from "../formats/gguf/write.ts";
import { MIXES } from "../schemes/mixes.ts";
import { BLOCK_SCHEME_IDS, BLOCK_SCHEMES, type BlockSchemeId, isBlockSchemeId } from "../schemes/registry.ts";
import { rowBytes } from "../schemes/scheme.ts";
import { elementCount } from "../tensor.ts";
import type { PlannableMatrix, PlannableModel } from "./plannable.ts";

/** What a server is likely to run well; ternary and one-bit schemes only when they are named. */
const CANDIDATES_DEFAULT: readonly BlockSchemeId[] = BLOCK_SCHEME_IDS.filter(
  (id) => !["f32", "bf16", "tq1_0", "tq2_0", "q1_0"].includes(id),
);

/**
 * The model as GGUF names and orders its tensors; `wanted` are ids of block schemes, those of servers unless said.
 * Throws BitPlanInvalid: a candidate that GGUF does not have, a matrix that none fits; ImatrixInvalid, and what
 * planning a GGUF model throws.
 */
export function planGgufBits(
  checkpoint: Pick<Checkpoint, "tensors" | "config">,
  tokenizer: GgufMetadata,
  importance: Importance | undefined,
  wanted: readonly string[] = CANDIDATES_DEFAULT,
): PlannableModel & { readonly tensors: readonly GgufModelTensor[] } {
  const model = planGguf(checkpoint, tokenizer, importance);
  const ids = wanted.map(checkCandidate);
  const groups = model.tensors.flatMap(({ name, shape, source, place }) => {
    if (place === undefined) return [];
    const matrix = { name, source, place: { ...place, elements: elementCount(shape) } };
    const candidates = fittingSchemes(matrix, ids);
    return [{ matrices: [{ ...matrix, importance: importance?.get(name) }], candidates, kept: undefined }];
  });
  const vectors = model.tensors.filter(({ place }) => place === undefined);
  const overhead = headerBytes(model);
  return {
    tensors: model.tensors,
    groups,
    elements: model.tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0),
    keptBytes: vectors.reduce((sum, { source }) => sum + storedBytes(source.shape, "f32"), 0),
    bytesOf: ({ source }: PlannableMatrix, scheme: string) => storedBytes(source.shape, checkCandidate(scheme)),
    overheadBytes: () => overhead,
  };
}

/**
 * The model as GGUF names and orders its tensors, all of which an importance matrix knows; their schemes are of no
 * account. Throws ImatrixInvalid, and what planning a GGUF model throws.
 */
export function planGguf(
  checkpoint: Pick<Checkpoint, "tensors" | "config">,
  tokenizer: GgufMetadata,
  importance: Importance | undefined,
): GgufModel {
  const mix = MIXES.get("f16");
  assert.ok(mix !== undefined, "the mixes hold f16");
  const model = planGgufModel(checkpoint, mix, tokenizer, importance !== undefined);
  if (importance !== undefined) checkImportance(model.tensors, importance);
  return model;
}

function checkCandidate(id: string): BlockSchemeId {
  if (isBlockSchemeId(id)) return id;
  const expected = BLOCK_SCHEME_IDS.join(", ");
  throw new MergeyardError("BitPlanInvalid", { where: { field: "candidates" }, found: id, expected });
}

function fittingSchemes(
  { name, source: { shape } }: Pick<PlannableMatrix, "name" | "source">,
  wanted: readonly BlockSchemeId[],
): readonly BlockSchemeId[] {
  const columns = shape.at(-1) ?? 1;
  const fitting = wanted.filter((id) => columns % BLOCK_SCHEMES[id].blockElements === 0);
  if (fitting.length > 0) return fitting;
  const found = `rows of ${columns}, which no candidate's blocks fill`;
  throw new MergeyardError("BitPlanInvalid", { where: { tensor: name }, found, expected: wanted.join(", ") });
}

/** With the zeros up to the next tensor. */
function storedBytes(shape: readonly number[], scheme: BlockSchemeId): number {
  const columns = shape.at(-1) ?? 1;
  const bytes = (elementCount(shape) / columns) * rowBytes(BLOCK_SCHEMES[scheme], columns);
  return alignUp(bytes, GGUF_ALIGNMENT);
}

/** Of the file, whatever the schemes: a type is a number of 4 bytes. */
function headerBytes({ metadata, constants, tensors }: GgufModel): number {
  const listed = tensors.map(({ name, shape, scheme }) => ({ name, shape, type: ggufTypeOf(scheme) }));
  return encodeGgufHeader(metadata, listed, constants).header.length;
}
