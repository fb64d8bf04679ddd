// Every merge method by its id, in sorted order. Tables in the documents, command-line help and parameter checks are
// made from this map.
import { linear } from "./linear.ts";
import type { MergeMethod } from "./method.ts";

const METHODS = { linear } as const satisfies Record<string, MergeMethod>;

/** Ids in sorted order. */
export const METHOD_IDS: readonly string[] = Object.freeze(Object.keys(METHODS).sort());

/** The method of that id, or undefined. */
export function findMethod(id: string): MergeMethod | undefined {
  return Object.hasOwn(METHODS, id) ? METHODS[id as keyof typeof METHODS] : undefined;
}
