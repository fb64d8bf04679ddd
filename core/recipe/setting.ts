// Parameter settings of a recipe: a number, a gradient over the layers, or a list of values with filters on tensor
// names. This file says what may be written and how one setting is evaluated; precedence is in parameters.ts.
import * as z from "zod";
import { isJsonObject } from "../json.ts";
import { RECIPE_LIMITS } from "../limits.ts";
import { describeValue } from "./origin.ts";

/** A word is the name of a choice, such as a kind of rescaling; which words there are is the method's matter. */
export type SettingScalar = number | boolean | string;

/** One value for every layer, or control points that are interpolated over the layers. */
export type SettingValue =
  | { readonly kind: "scalar"; readonly value: SettingScalar }
  | { readonly kind: "gradient"; readonly values: readonly number[] };

/** An entry of a conditional list: the first whose filter is absent, `*` or part of the tensor's name decides. */
export type SettingEntry = { readonly filter: string | undefined; readonly value: SettingValue };

export type Setting = SettingValue | { readonly kind: "conditional"; readonly entries: readonly SettingEntry[] };

type Report = (path: readonly (string | number)[], found: string, expected: string, hint?: string) => void;

/**
 * A setting as recipes write it: number, boolean, numeric string, list of numbers, or list of `{filter, value}` maps;
 * and beyond mergekit a word. Source: mergekit `ParameterSetting`, reference section 5.3. A single `{filter, value}`
 * map outside a list passes mergekit's parser and fails when it is evaluated; it is refused here.
 */
export const settingSchema = z.unknown().transform((input, context): Setting => {
  let failed = false;
  const report: Report = (path, found, expected, hint) => {
    failed = true;
    context.addIssue({ code: "custom", path: [...path], message: expected, params: { found, hint } });
  };
  const unknownKeys = (path: readonly (string | number)[], keys: readonly string[]) => {
    failed = true;
    const known = ENTRY_KEYS.join(",");
    context.addIssue({ code: "unrecognized_keys", path: [...path], keys: [...keys], message: known });
  };
  const setting = readSetting(input, report, unknownKeys);
  if (failed || setting === undefined) return z.NEVER;
  return setting;
});

/** Parameter names to settings. */
export const settingsSchema = z.record(z.string(), settingSchema);
export type Settings = z.output<typeof settingsSchema>;

const ENTRY_KEYS = ["filter", "value"];

type UnknownKeys = (path: readonly (string | number)[], keys: readonly string[]) => void;

function readSetting(input: unknown, report: Report, unknownKeys: UnknownKeys): Setting | undefined {
  if (isJsonObject(input)) {
    report(
      [],
      describeValue(input),
      "a number or a list",
      "write a filtered value as an item of a list: `- filter: ...`",
    );
    return undefined;
  }
  if (!Array.isArray(input) || !input.some((item: unknown) => isJsonObject(item))) return readValue(input, [], report);
  if (input.length > RECIPE_LIMITS.settingItems) {
    report([], `${input.length} entries`, `at most ${RECIPE_LIMITS.settingItems} entries`);
    return undefined;
  }
  const entries = input.map((item: unknown, index) => readEntry(item, index, report, unknownKeys));
  return { kind: "conditional", entries: entries.filter((entry) => entry !== undefined) };
}

function readEntry(item: unknown, index: number, report: Report, unknownKeys: UnknownKeys): SettingEntry | undefined {
  if (!isJsonObject(item)) {
    report(
      [index],
      describeValue(item),
      "a map with `value` and perhaps `filter`",
      "a list holds numbers or filtered values, not both",
    );
    return undefined;
  }
  const unknown = Object.keys(item).filter((key) => !ENTRY_KEYS.includes(key));
  if (unknown.length > 0) unknownKeys([index], unknown);
  const filter = item.filter ?? undefined;
  if (filter !== undefined && typeof filter !== "string") {
    report([index, "filter"], describeValue(filter), "a part of tensor names, or `*`");
    return undefined;
  }
  if (!Object.hasOwn(item, "value")) {
    report([index], "no `value`", "a map with `value` and perhaps `filter`");
    return undefined;
  }
  const value = readValue(item.value, [index, "value"], report);
  return value === undefined ? undefined : { filter, value };
}

function readValue(input: unknown, path: readonly (string | number)[], report: Report): SettingValue | undefined {
  if (!Array.isArray(input)) {
    const value = readScalar(input);
    if (value === undefined) report(path, describeValue(input), "a number, true, false, a word or a list");
    return value === undefined ? undefined : { kind: "scalar", value };
  }
  if (input.length === 0 || input.length > RECIPE_LIMITS.settingItems) {
    report(path, `a list of ${input.length}`, `a list of 1 to ${RECIPE_LIMITS.settingItems} numbers`);
    return undefined;
  }
  const values = input.map((item: unknown, index) => {
    const value = readScalar(item);
    if (value === undefined || typeof value === "string") report([...path, index], describeValue(item), "a number");
    return Number(value);
  });
  return { kind: "gradient", values };
}

const WORD = /^[a-z][a-z0-9_-]{0,63}$/;
const NUMERIC = /^\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*$/;

function readScalar(input: unknown): SettingScalar | undefined {
  if (typeof input === "boolean") return input;
  if (typeof input === "number") return Number.isFinite(input) ? input : undefined;
  if (typeof input !== "string") return undefined;
  if (WORD.test(input)) return input;
  if (!NUMERIC.test(input)) return undefined;
  return Number.isFinite(Number(input)) ? Number(input) : undefined;
}

/** True when the entry applies to a tensor of that name: a plain, case-sensitive part of it. */
export function filterMatches(filter: string | undefined, tensor: string): boolean {
  return filter === undefined || filter === "*" || tensor.includes(filter);
}

/**
 * Value of a setting for tensor `tensor` at layer position `position` in [0, 1]; undefined when no entry of a
 * conditional list matches. Gradient g[0..m-1]: x = position * (m - 1), i = floor(x), f = x - i, value
 * (1 - f) g[i] + f g[min(i + 1, m - 1)]. Source: mergekit `evaluate_setting`, reference section 5.3.
 */
export function evaluateSetting(setting: Setting, tensor: string, position: number): SettingScalar | undefined {
  if (setting.kind !== "conditional") return evaluateValue(setting, position);
  const entry = setting.entries.find(({ filter }) => filterMatches(filter, tensor));
  return entry === undefined ? undefined : evaluateValue(entry.value, position);
}

function evaluateValue(value: SettingValue, position: number): SettingScalar {
  if (value.kind === "scalar") return value.value;
  const last = value.values.length - 1;
  const x = position * last;
  const index = Math.floor(x);
  const fraction = x - index;
  return (1 - fraction) * (value.values[index] ?? 0) + fraction * (value.values[Math.min(index + 1, last)] ?? 0);
}
