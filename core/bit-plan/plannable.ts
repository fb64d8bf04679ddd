// A model as bit plans see it: the matrices that one container would quantize, which of them must have one scheme, and
// what the files hold besides. Made for each container by gguf.ts and folder.ts; solved by the step that plans bits.
import type { TensorEntry } from "../checkpoint.ts";
import type { SensitivityPlace } from "./sensitivity.ts";

export type PlannableMatrix = {
  /** As plans name it. */
  readonly name: string;
  readonly source: TensorEntry;
  readonly place: SensitivityPlace;
  /** One value >= 0 a column, for each matrix of a stack; undefined: no importance matrix knows it. */
  readonly importance: Float32Array | undefined;
};

export type PlannableGroup = {
  /** They get one scheme. */
  readonly matrices: readonly PlannableMatrix[];
  /** Ids of schemes that fit all of them. */
  readonly candidates: readonly string[];
  /** What a plan calls leaving them as they are; undefined: that is no choice. */
  readonly kept: string | undefined;
};

export type PlannableModel = {
  readonly groups: readonly PlannableGroup[];
  /** Of all tensors. */
  readonly elements: number;
  /** Of the tensors that no plan changes. */
  readonly keptBytes: number;
  /** What a matrix takes in the files, without what names it there. */
  bytesOf(matrix: PlannableMatrix, scheme: string): number;
  /** Bytes of the files beside their tensors, where matrices have these schemes, by name. */
  overheadBytes(schemes: ReadonlyMap<string, string>): number;
};
