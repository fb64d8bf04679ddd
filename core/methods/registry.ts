// Every merge method by its id, in sorted order. Tables in the documents, command-line help and parameter checks are
// made from this map.
import { linear } from "./linear.ts";
import type { MergeMethod } from "./method.ts";
import { passthrough } from "./passthrough.ts";
import { slerp } from "./slerp.ts";
import { task_arithmetic } from "./task_arithmetic.ts";

const METHODS: ReadonlyMap<string, MergeMethod> = new Map(
  Object.entries({ linear, passthrough, slerp, task_arithmetic } satisfies Record<string, MergeMethod>),
);

/** Ids in sorted order. */
export const METHOD_IDS: readonly string[] = Object.freeze([...METHODS.keys()]);

/** The method of that id, or undefined. */
export function findMethod(id: string): MergeMethod | undefined {
  return METHODS.get(id);
}
