// What a pickle holds, as data. Nothing here is an object of a runtime: a class is its name, a tensor is where its
// numbers lie. Made by pickle.ts and globals.ts, read by the formats that are made of pickles.
import type { Dtype } from "../../tensor.ts";

export type PickleList = { readonly kind: "list"; readonly items: PickleValue[] };
/** `torch.Size` is a tuple too. */
export type PickleTuple = { readonly kind: "tuple"; readonly items: readonly PickleValue[]; readonly isSize?: true };
export type PickleSet = { readonly kind: "set"; readonly items: PickleValue[] };
export type PickleBytes = { readonly kind: "bytes"; readonly bytes: Uint8Array };
/** By `keyOf`; every entry keeps its key. */
export type PickleDict = { readonly kind: "dict"; readonly entries: Map<PickleKey, PickleEntry> };
export type PickleEntry = { readonly key: PickleValue; readonly value: PickleValue };
/** A primitive with its type in front, or the very record that is the key. */
export type PickleKey = string | PickleRecord;
/** A class of the table, named but not called. */
export type PickleGlobal = { readonly kind: "global"; readonly name: string };
/** An instance of a plain class of the table: its fields as BUILD gave them. */
export type PickleRecord = {
  readonly kind: "record";
  readonly type: string;
  readonly fields: Map<string, PickleValue>;
  /** State that is no dict of fields. */
  readonly state: { value: PickleValue };
};
export type PickleEnum = { readonly kind: "enum"; readonly type: string; readonly member: string };
/** A dtype of torch; `dtype` is undefined when safetensors has no such one. */
export type PickleDtype = { readonly kind: "dtype"; readonly name: string } & TorchDtype;
export type TorchDtype = { readonly dtype: Dtype | undefined; readonly bytes: number };
/** `view`: the part of another storage that this one is (legacy files). `count` is in elements of `type`. */
export type PickleStorage = {
  readonly kind: "storage";
  readonly type: string;
  readonly element: TorchDtype;
  readonly key: string;
  readonly count: number;
  readonly view: { readonly offset: number; readonly count: number } | undefined;
};
/** Offset and strides in elements of `element`; not yet compared with the storage. */
export type PickleTensor = {
  readonly kind: "tensor";
  readonly storage: PickleStorage;
  readonly element: TorchDtype;
  readonly dtypeName: string;
  readonly offset: number;
  readonly size: readonly number[];
  readonly stride: readonly number[];
};
/** Something that is skipped: numpy's scalars and arrays, devices. */
export type PickleOpaque = { readonly kind: "opaque"; readonly what: string };

export type PickleObject =
  | PickleList
  | PickleTuple
  | PickleSet
  | PickleBytes
  | PickleDict
  | PickleGlobal
  | PickleRecord
  | PickleEnum
  | PickleDtype
  | PickleStorage
  | PickleTensor
  | PickleOpaque;

/** Integers beyond 2^53 are bigints; floats and other integers are numbers. */
export type PickleValue = null | boolean | number | bigint | string | PickleObject;

/** True for values that are objects here. */
export function isObject(value: PickleValue | undefined): value is PickleObject {
  return typeof value === "object" && value !== null;
}

/** The value as an object of one kind; undefined when it is something else. */
export function asKind<Kind extends PickleObject["kind"]>(
  value: PickleValue | undefined,
  kind: Kind,
): Extract<PickleObject, { kind: Kind }> | undefined {
  return isObject(value) && isKind(value, kind) ? value : undefined;
}

function isKind<Kind extends PickleObject["kind"]>(
  value: PickleObject,
  kind: Kind,
): value is Extract<PickleObject, { kind: Kind }> {
  return value.kind === kind;
}

/** Items of a list or tuple; undefined when it is neither. */
export function itemsOf(value: PickleValue | undefined): readonly PickleValue[] | undefined {
  return isObject(value) && (value.kind === "list" || value.kind === "tuple") ? value.items : undefined;
}

/** The value under a string key of a dict, or a field of a record; undefined when there is none. */
export function fieldOf(value: PickleValue | undefined, name: string): PickleValue | undefined {
  if (!isObject(value)) return undefined;
  if (value.kind === "record") return value.fields.get(name);
  return value.kind === "dict" ? value.entries.get(`s${name}`)?.value : undefined;
}

/** Non-negative integers of a list or tuple; undefined when it is anything else. */
export function countsOf(value: PickleValue | undefined): readonly number[] | undefined {
  const items = itemsOf(value);
  return items?.every((item) => isCount(item)) === true ? items.map(Number) : undefined;
}

/** True for an integer in [0, 2^53). */
export function isCount(value: PickleValue | undefined): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

/** What a value is, for an error text. */
export function describeValue(value: PickleValue | undefined): string {
  if (value === undefined) return "nothing";
  if (typeof value === "string") return JSON.stringify(value.slice(0, 100));
  if (!isObject(value)) return String(value);
  if (value.kind === "global") return value.name;
  return value.kind === "record" ? value.type : `a ${value.kind}`;
}
