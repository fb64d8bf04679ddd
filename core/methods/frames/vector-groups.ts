// Which vector of a tensor an element is part of, for methods that work on whole tensors, rows or columns.
import { elementCount, type Shape } from "../../tensor.ts";

/** From an element's flat index to its vector's, and how many vectors there are. */
export type Grouping = { readonly groups: number; of(element: number): number };

/** All elements are one vector. */
export const WHOLE: Grouping = Object.freeze({ groups: 1, of: () => 0 });

/** Every row of the last axis is one. */
export function byRow(shape: Shape): Grouping {
  const length = rowLength(shape);
  return { groups: Math.max(1, elementCount(shape) / length), of: (element) => Math.floor(element / length) };
}

/** Every column, along the first axis, is one; a tensor of one axis is one column. */
export function byColumn(shape: Shape): Grouping {
  const columns = shape.length < 2 ? 1 : elementCount(shape.slice(1));
  return { groups: columns, of: (element) => element % columns };
}

/** Elements of a row; a tensor of one axis is one row. */
export function rowLength(shape: Shape): number {
  return Math.max(1, shape.at(-1) ?? 1);
}
