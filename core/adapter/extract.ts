// Extracting a LoRA adapter from a fine-tuned model: which of its tensors become factors, which are kept whole, and the
// factors of one. Called by the step that extracts adapters.
// Source: mergekit-extract-lora at a6e40288, merge reference section 12.2.
import type { TensorEntry } from "../checkpoint.ts";
import { allocateMatrix, firstRows, type Matrix, onHeap, rowOf, transpose } from "../ops/linalg/matrix.ts";
import { svd } from "../ops/linalg/svd.ts";
import { tensorRole } from "../plan/architecture.ts";
import type { CombinedFactors } from "./combine.ts";

export type ExtractOptions = {
  readonly maxRank: number;
  /** Singular values at or below this are left out; 0 keeps all. */
  readonly svEpsilon: number;
  /** The square root of each singular value on both factors; false: all of it on A. */
  readonly distributeScale: boolean;
};

/**
 * factors: a low-rank update, an embedding's being transposed; bias: its difference; whole: the fine-tune's own values.
 */
export type ExtractKind = "factors" | "embedding" | "bias" | "whole";

/** Embeddings of anything but tokens. Source: parameter names of transformers' model classes. */
const POSITIONS = /(?:^|\.)(?:wpe|embed_positions|position_embeddings?|token_type_embeddings)\.weight$/;

/**
 * What becomes of a tensor that the fine-tune changed. `embeddings`: factors for these too, instead of whole; `weight`:
 * the weight beside a bias.
 */
export function extractKind(
  entry: TensorEntry,
  weight: TensorEntry | undefined,
  { vocabulary, embeddings }: { readonly vocabulary: number | undefined; readonly embeddings: boolean },
): ExtractKind {
  const role = tensorRole(entry, vocabulary) ?? (POSITIONS.test(entry.name) ? "embedding" : undefined);
  if (role !== undefined && !embeddings) return "whole";
  if (role === "embedding") return "embedding";
  if (isBias(entry)) return weight !== undefined && isFactored(weight) ? "bias" : "whole";
  return isFactored(entry) ? "factors" : "whole";
}

function isBias({ name, shape }: TensorEntry): boolean {
  return name.endsWith(".bias") && shape.length === 1;
}

function isFactored({ name, shape }: TensorEntry): boolean {
  return name.endsWith(".weight") && shape.length >= 2;
}

/** The best factors of a change [outputs, inputs] within the options; undefined when nothing of it is left. */
export function extractFactors(change: Matrix, options: ExtractOptions): CombinedFactors | undefined {
  const { left, values, right } = svd(change, onHeap);
  const largest = Math.min(options.maxRank, values.length);
  const above = options.svEpsilon > 0 ? values.filter((value) => value > options.svEpsilon).length : values.length;
  const rank = Math.min(largest, above);
  if (rank === 0 || (values[0] ?? 0) === 0) return undefined;
  const [a, vectors] = [firstRows(right, rank), firstRows(left, rank)];
  for (let i = 0; i < rank; i++) {
    const value = values[i] ?? 0;
    const root = options.distributeScale ? Math.sqrt(value) : value;
    const [row, column] = [rowOf(a, i), rowOf(vectors, i)];
    for (let j = 0; j < row.length; j++) row[j] = (row[j] ?? 0) * root;
    if (options.distributeScale) for (let j = 0; j < column.length; j++) column[j] = (column[j] ?? 0) * root;
  }
  const b = allocateMatrix(onHeap, left.columns, rank);
  transpose(b, vectors);
  return { a, b };
}
