// What planning a merge starts from: the recipe, the models it names as their headers tell them, and how the output is
// cut. Everything under core/plan reads it; plan-merge.ts makes the plan of it.
import type { Checkpoint, TensorEntry } from "../checkpoint.ts";
import type { Importance } from "../formats/gguf/imatrix.ts";
import type { MergeMethod } from "../methods/method.ts";
import type { Recipe } from "../recipe/normalise.ts";
import type { Outputs } from "../recipe/outputs.ts";
import type { ReadTokenizer } from "../tokenizer/tokenizer.ts";
import type { PlanSource } from "./schema.ts";

/** What is merged: the recipe, its text and the output's name for the model card, and the models it names. */
export type MergeTask = {
  readonly name: string;
  readonly recipe: Recipe;
  /** As the user wrote it. */
  readonly text: string;
  /** Every model, adapter and statistics of `recipe.sources`, in that order; a plan's source index counts in it. */
  readonly models: readonly MergeModel[];
  /** What the model card lists, with the digest of each; the models unless said otherwise. */
  readonly inputs?: readonly string[] | undefined;
};

/** A model of the recipe: where its files are, and what their headers say. `source.model` spells its reference. */
export type MergeModel = {
  readonly source: PlanSource;
  readonly checkpoint: Checkpoint;
  /** Small files beside the weights, by name: those of `documentNames(recipe)` that the model has. */
  readonly documents?: ReadonlyMap<string, Uint8Array> | undefined;
};

/** An importance matrix: where the file lies, what it holds, and the digest of its bytes. */
export type PlannedImatrix = {
  readonly store: string;
  readonly key: string;
  readonly digest: string;
  readonly importance: Importance;
};

/** A file of Hessians (hessians.ts), known by its header. */
export type HessianFile = {
  /** The folder that has it: a store's URI and a prefix in it. */
  readonly store: string;
  readonly prefix: string;
  readonly file: string;
  /** Of the file's name, size and ETag. */
  readonly fingerprint: string;
  /** By the names of the matrices. */
  readonly entries: ReadonlyMap<string, TensorEntry>;
};

/** How the output is cut, what is made beside it and what a worker may use; nothing here changes a merged weight. */
export type MergeOptions = {
  /** Bytes of tensors in one output file, 5e9 unless said otherwise; a larger tensor gets a file of its own. */
  readonly shardBytes?: number | undefined;
  /** Bound on a worker process, 512 MiB unless said otherwise. */
  readonly memoryBytes?: number | undefined;
  /** Bound on the largest worker there is, for units that cannot do with the usual one; none larger unless said. */
  readonly memoryBytesMax?: number | undefined;
  /** Measure how the models agree and disagree, on the way; false unless said otherwise. */
  readonly statistics?: boolean | undefined;
  /** Threads of a worker process. */
  readonly threads?: number | undefined;
  /** An input is read over a network; false unless said otherwise. */
  readonly isRemote?: boolean | undefined;
  /** What is made beside the merged checkpoint; nothing unless said otherwise. */
  readonly outputs?: Outputs | undefined;
  /** Importance matrices by the names that outputs have for them. */
  readonly imatrices?: ReadonlyMap<string, PlannedImatrix> | undefined;
  /** Files of Hessians by the names that outputs have for them. */
  readonly hessians?: ReadonlyMap<string, HessianFile> | undefined;
  /** Index in the plan of the first stage of the merge: its own, or the first that prepares it. */
  readonly stage?: number | undefined;
  /** How tokenizer.json is read; the form of the tokenizers library unless said otherwise. */
  readonly readTokenizer?: ReadTokenizer | undefined;
  /** Where methods are looked up; the registry unless said otherwise. */
  readonly findMethod?: ((id: string) => MergeMethod | undefined) | undefined;
};
