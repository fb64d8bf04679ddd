// Which vector of a tensor an element is part of, for methods that work on whole tensors, rows or columns.
import { elementCount } from "../../tensor.ts";
import type { MergeTensor } from "../method.ts";

/** From an element's flat index to its vector's, and how many vectors there are. */
export type Grouping = { readonly groups: number; of(element: number): number };

/** All elements are one vector. */
export const WHOLE: Grouping = Object.freeze({ groups: 1, of: () => 0 });

/** Every row of `columns` elements is one. */
export function byRow({ shape }: Pick<MergeTensor, "shape">, columns: number): Grouping {
  return { groups: Math.max(1, elementCount(shape) / columns), of: (element) => Math.floor(element / columns) };
}

/** Every column is one. */
export function byColumn(columns: number): Grouping {
  return { groups: columns, of: (element) => element % columns };
}
