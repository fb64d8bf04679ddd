// Which tensors of a model have a row for each token, and what each is for.
import type { Checkpoint, TensorEntry } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { isFloatDtype } from "../ops/cast.ts";
import { configSections, describeArchitecture, parseLayerName, tensorRole } from "../plan/architecture.ts";

/** On the way in, or out; a bias of a head goes with it. */
export type VocabularySide = "embedding" | "head";

export type VocabularyTensors = {
  readonly sides: ReadonlyMap<string, VocabularySide>;
  readonly embedding: TensorEntry;
  /** The head, or the embedding where that is the head too. */
  readonly head: TensorEntry;
  /** True where one matrix is both. */
  readonly tied: boolean;
  readonly rows: number;
};

/**
 * The tensors of a model by their names, shapes and the config; `store` is its place in errors.
 * Throws TransplantMatrixMissing: no embedding, or no head where the config says that it is another; PlanShapeMismatch:
 * several of different sizes, or a matrix with a row for each token that no name tells; PlanDtypeNotMergeable.
 */
export function findVocabularyTensors(checkpoint: Checkpoint, store: string): VocabularyTensors {
  const { vocabulary } = describeArchitecture(checkpoint);
  const { tensors } = checkpoint;
  const ofRole = (role: VocabularySide) => tensors.filter((entry) => tensorRole(entry, vocabulary) === role);
  const [embeddings, heads] = [ofRole("embedding"), ofRole("head")];
  const [embedding, ...others] = embeddings;
  if (embedding === undefined) throw missing("embedding", store);
  const said = configSections(checkpoint.config).map((section) => section.tie_word_embeddings);
  const tied = said.includes(true) || (heads.length === 0 && !said.includes(false));
  const head = tied ? embedding : heads[0];
  if (head === undefined) throw missing("head", store);
  const rows = embedding.shape[0] ?? 0;
  for (const entry of [embedding, ...others, ...heads]) checkMatrix(entry, rows, store);
  const sides = new Map<string, VocabularySide>(embeddings.map(({ name }) => [name, "embedding"]));
  for (const { name } of heads) sides.set(name, "head");
  for (const { name, shape } of tensors) {
    if (sides.has(name) || shape[0] !== rows || parseLayerName(name) !== undefined) continue;
    const isBias =
      heads.some((entry) => name === entry.name.replace(/weight$/, "bias")) || /(?:^|\.)lm_head\.bias$/.test(name);
    if (isBias && shape.length === 1) sides.set(name, "head");
    else if (shape.length > 1) throw mismatch(name, shape, "a matrix that is no embedding or head", store);
  }
  return { sides, embedding, head, tied, rows };
}

function checkMatrix({ name, dtype, shape }: TensorEntry, rows: number, store: string): void {
  if (shape[0] !== rows) throw mismatch(name, shape, `${rows} rows, as the embedding has`, store);
  if (isFloatDtype(dtype)) return;
  const where = { store, tensor: name };
  throw new MergeyardError("PlanDtypeNotMergeable", { where, found: dtype, expected: "F32, F16, BF16 or F64" });
}

function missing(side: VocabularySide, store: string): MergeyardError {
  const expected = "a matrix with a row for each token, under a name that models give it";
  return new MergeyardError("TransplantMatrixMissing", { where: { store }, found: `no ${side}`, expected });
}

function mismatch(tensor: string, shape: readonly number[], expected: string, store: string): MergeyardError {
  return new MergeyardError("PlanShapeMismatch", {
    where: { store, tensor },
    found: `[${shape.join(", ")}]`,
    expected,
  });
}
