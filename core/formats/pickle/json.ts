// Plain values of a pickle as JSON, and JSON as what a pickle is written from.
import { isJsonObject, type Json, type JsonObject } from "../../json.ts";
import { isObject, type PickleValue } from "./value.ts";
import { type Picklable, pyDict, pyList, pyTuple } from "./write.ts";

/**
 * The value as JSON; undefined when it is none: a tensor, an object of some class, a number that is not finite.
 * Members that are none are left out of dicts and named to `dropped`. Tuples and sets become lists.
 */
export function jsonOf(value: PickleValue, dropped?: (name: string) => void, path = ""): Json | undefined {
  if (!isObject(value)) {
    if (typeof value === "bigint" || (typeof value === "number" && !Number.isFinite(value))) return undefined;
    return value;
  }
  if (value.kind === "list" || value.kind === "tuple" || value.kind === "set") {
    const items = value.items.map((item) => jsonOf(item));
    return items.every((item) => item !== undefined) ? items : undefined;
  }
  if (value.kind !== "dict") return undefined;
  const members: [string, Json][] = [];
  for (const { key, value: item } of value.entries.values()) {
    if (isObject(key) || key === null) return undefined;
    const name = path === "" ? String(key) : `${path}.${key}`;
    const member = jsonOf(item, dropped, name);
    if (member === undefined) dropped?.(name);
    else members.push([String(key), member]);
  }
  return Object.fromEntries(members);
}

/** The plain members of a dict; none of anything else. */
export function jsonObjectOf(value: PickleValue | undefined, dropped?: (name: string) => void): JsonObject {
  const json = value === undefined ? undefined : jsonOf(value, dropped);
  return isJsonObject(json) ? json : {};
}

/** Lists stay lists, objects become dicts. */
export function picklableOf(value: Json): Picklable {
  if (value === null || typeof value !== "object") return value;
  if (isJsonArray(value)) return pyList(value.map(picklableOf));
  return pyDict(Object.entries(value).map(([name, member]) => [name, picklableOf(member)] as const));
}

/** The same with tuples for lists, at every depth. */
export function tuplesOf(value: Json): Picklable {
  if (value === null || typeof value !== "object") return value;
  return isJsonArray(value) ? pyTuple(value.map(tuplesOf)) : picklableOf(value);
}

function isJsonArray(value: Json): value is Json[] {
  return Array.isArray(value);
}
