// The shape of what a pickle gave: no cycles, a bounded depth, a bounded size when everything that is shared is counted
// each time it is reached. Readers may then walk the value by plain recursion.
import { MergeyardError } from "../../error.ts";
import { PICKLE_LIMITS } from "../../limits.ts";
import { isObject, type PickleObject, type PickleValue } from "./value.ts";

type Measure = { readonly depth: number; readonly nodes: number };

/**
 * Throws PickleCyclic, PickleTooDeep, PickleTooLarge. Iterative, and every object is measured once.
 */
export function checkResult(value: PickleValue, file: string): void {
  if (!isObject(value)) return;
  const measured = new Map<PickleObject, Measure | undefined>();
  const path: { readonly object: PickleObject; readonly children: readonly PickleObject[]; next: number }[] = [];
  const enter = (object: PickleObject): void => {
    measured.set(object, undefined);
    path.push({ object, children: childrenOf(object), next: 0 });
  };
  enter(value);
  for (let frame = path.at(-1); frame !== undefined; frame = path.at(-1)) {
    const child = frame.children[frame.next];
    if (child === undefined) {
      measured.set(frame.object, measure(frame.object, frame.children, measured, file));
      path.pop();
      continue;
    }
    frame.next += 1;
    if (!measured.has(child)) {
      if (path.length >= PICKLE_LIMITS.depth) throw tooDeep(file);
      enter(child);
    } else if (measured.get(child) === undefined) {
      throw new MergeyardError("PickleCyclic", { where: { file }, found: `a ${child.kind} that holds itself` });
    }
  }
}

function measure(
  object: PickleObject,
  children: readonly PickleObject[],
  measured: ReadonlyMap<PickleObject, Measure | undefined>,
  file: string,
): Measure {
  let [depth, nodes] = [0, ownNodes(object)];
  for (const child of children) {
    const inner = measured.get(child);
    depth = Math.max(depth, inner?.depth ?? 0);
    nodes += inner?.nodes ?? 0;
  }
  if (depth + 1 > PICKLE_LIMITS.depth) throw tooDeep(file);
  if (nodes <= PICKLE_LIMITS.nodes) return { depth: depth + 1, nodes };
  const expected = `at most ${PICKLE_LIMITS.nodes} values`;
  throw new MergeyardError("PickleTooLarge", { where: { file }, found: "more values, shared ones included", expected });
}

function tooDeep(file: string): MergeyardError {
  const expected = `at most ${PICKLE_LIMITS.depth} levels`;
  return new MergeyardError("PickleTooDeep", { where: { file }, found: "more levels of nesting", expected });
}

function childrenOf(object: PickleObject): readonly PickleObject[] {
  switch (object.kind) {
    case "list":
    case "tuple":
    case "set":
      return objectsOf(object.items);
    case "dict":
      return objectsOf([...object.entries.values()].flatMap(({ key, value }) => [key, value]));
    case "record":
      return objectsOf([...object.fields.values(), object.state.value]);
    default:
      return [];
  }
}

/** The object itself and what it holds that is no object. */
function ownNodes(object: PickleObject): number {
  if (object.kind === "dict") return 1 + object.entries.size;
  return "items" in object ? 1 + object.items.length : 1;
}

function objectsOf(values: readonly PickleValue[]): readonly PickleObject[] {
  return values.flatMap((value) => (isObject(value) ? [value] : []));
}
