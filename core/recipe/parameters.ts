// The value of every parameter for one tensor: which level of the recipe decides, and what the method's schemas say of
// the result. Global parameters are evaluated once per output tensor under its output name, model parameters for each
// input under its input name. Source: mergekit, reference sections 5.3 and 5.4.
import * as z from "zod";
import { MergeyardError } from "../error.ts";
import type { MergeMethod, ParameterValues } from "../methods/method.ts";
import { describeExpected } from "./issues.ts";
import { didYouMean, nearestName } from "./nearest.ts";
import type { Recipe } from "./normalise.ts";
import { describeField, describeValue, fieldPlace } from "./origin.ts";
import { MERGEKIT_PARAMETERS } from "./parse.ts";
import { evaluateSetting, filterMatches, type Setting, type SettingScalar, type SettingValue } from "./setting.ts";
import type { RecipeSlice, RecipeSource, SettingsLevel } from "./slices.ts";

/** `parameters` and `modelParameters` of a method: the only schemas of their names, types and defaults. */
export type ParameterSchemas = Pick<MergeMethod, "id" | "base" | "parameters" | "modelParameters">;

/**
 * Checks what needs no tensor: the names, and that no gradient is given to a parameter that is true or false. A name
 * that only another method of mergekit knows is a warning, as is any name under `mergekit_compat: strict`; so are a
 * global parameter given to a model, a parameter given to a base that is set apart, and a base that nothing sets apart
 * and that joins the models unasked. Throws RecipeParameterUnknown, RecipeParameterInvalid. Returns warnings.
 */
export function checkParameters(recipe: Recipe, method: ParameterSchemas): readonly string[] {
  const warnings = new Set<string>();
  for (const { level, ofModel, ofBase } of allLevels(recipe)) {
    for (const [name, setting] of Object.entries(level.settings)) {
      const where = fieldPlace(recipe.origin, [...level.field, name]);
      const schema = fieldSchema(method.modelParameters, name) ?? fieldSchema(method.parameters, name);
      if (schema === undefined) {
        warnings.add(unknownParameter(recipe, method, name, where));
      } else if (hasGradient(setting) && isFlag(schema)) {
        throw new MergeyardError("RecipeParameterInvalid", { where, found: "a gradient", expected: "true or false" });
      } else if (ofModel && fieldSchema(method.modelParameters, name) === undefined) {
        warnings.add(`${where.field}: ${name} is a parameter of the whole merge; given to a model it has no effect`);
      } else if (ofBase && method.base !== "none") {
        warnings.add(`${where.field}: ${method.id} gives its base no ${name}; it has no effect`);
      }
    }
  }
  const unlisted = recipe.slices.flatMap((slice) => slice.sources).find((source) => source.unlisted);
  if (method.base === "none" && unlisted !== undefined) {
    const place = describeField(recipe.origin, unlisted.field);
    warnings.add(`${place}: ${method.id} sets no base apart; ${unlisted.model} is merged like the other models`);
  }
  return [...warnings];
}

function unknownParameter(recipe: Recipe, method: ParameterSchemas, name: string, where: Place): string {
  const known = [...Object.keys(method.modelParameters.shape), ...Object.keys(method.parameters.shape)];
  if (recipe.strict || MERGEKIT_PARAMETERS.includes(name))
    return `${where.field}: ${method.id} has no ${name}; ignored`;
  const nearest = nearestName(name, known);
  throw new MergeyardError("RecipeParameterUnknown", {
    where,
    found: name,
    expected: nearest ?? (known.length === 0 ? "no parameters" : known.join(", ")),
    hint: didYouMean(nearest),
  });
}

type Place = ReturnType<typeof fieldPlace>;

function allLevels(recipe: Recipe): readonly { level: SettingsLevel; ofModel: boolean; ofBase: boolean }[] {
  const levels = recipe.slices.flatMap((slice) => [
    ...slice.sources.map(({ model, level }) => ({ level, ofModel: true, ofBase: model === slice.base })),
    ...slice.levels.map((level) => ({ level, ofModel: false, ofBase: false })),
  ]);
  const byField = new Map(levels.map((entry) => [entry.level.field.join("\0"), entry]));
  return [...byField.values()];
}

/** Filters that are part of no tensor name at all, as warnings. `names`: every input and output tensor of the plan. */
export function findIdleFilters(recipe: Recipe, names: ReadonlySet<string>): readonly string[] {
  const warnings = new Set<string>();
  for (const { level } of allLevels(recipe)) {
    for (const [name, setting] of Object.entries(level.settings)) {
      if (setting.kind !== "conditional") continue;
      setting.entries.forEach(({ filter }, index) => {
        if (filter === undefined || someName(names, filter)) return;
        const place = describeField(recipe.origin, [...level.field, name, index, "filter"]);
        warnings.add(`${place}: no tensor's name contains "${filter}"`);
      });
    }
  }
  return [...warnings];
}

function someName(names: ReadonlySet<string>, filter: string): boolean {
  for (const name of names) if (filterMatches(filter, name)) return true;
  return false;
}

/** A tensor to resolve for: its slice, its layer position in [0, 1], and its name (output name, or input name). */
export type ResolveFor = { readonly slice: RecipeSlice; readonly position: number; readonly tensor: string };

export type ParameterResolver = {
  /** Global parameters; `tensor` is the output name. Throws RecipeParameterMissing, RecipeParameterInvalid. */
  global(target: ResolveFor): ParameterValues;
  /** A model's parameters; `tensor` is its input name. Required ones are not required of a base that is set apart. */
  model(target: ResolveFor & { readonly source: RecipeSource }): ParameterValues;
};

/** Resolves parameters of one recipe with one method. Equal values are checked once. */
export function createResolver(recipe: Recipe, method: ParameterSchemas): ParameterResolver {
  const globals = createChecker(method.parameters);
  const models = createChecker(method.modelParameters);
  return {
    global({ slice, position, tensor }) {
      const found = findValues(method.parameters, slice.levels, tensor, position);
      return globals(found, (name, entry, expected) => refuse(recipe, { name, entry, expected, tensor }));
    },
    model({ slice, source, position, tensor }) {
      const found = findValues(method.modelParameters, [source.level, ...slice.levels], tensor, position);
      const optional = method.base !== "none" && source.model === slice.base;
      const { model } = source;
      return models(found, (name, entry, expected) => {
        if (!(entry === undefined && optional)) refuse(recipe, { name, entry, expected, tensor, source, model });
      });
    },
  };
}

type Found = { readonly value: SettingScalar; readonly level: SettingsLevel };

/** Of every parameter, the value of the nearest level that has one for this tensor. */
function findValues(
  schema: z.ZodObject,
  levels: readonly SettingsLevel[],
  tensor: string,
  position: number,
): ReadonlyMap<string, Found> {
  const found = new Map<string, Found>();
  for (const name of Object.keys(schema.shape)) {
    for (const level of levels) {
      const setting = Object.hasOwn(level.settings, name) ? level.settings[name] : undefined;
      const value = setting === undefined ? undefined : evaluateSetting(setting, tensor, position);
      if (value === undefined) continue;
      found.set(name, { value, level });
      break;
    }
  }
  return found;
}

type OnRefusal = (name: string, entry: Found | undefined, expected: string) => void;

/** Checks values against the method's schema, adds defaults, and remembers results by value. */
function createChecker(schema: z.ZodObject): (found: ReadonlyMap<string, Found>, refuse: OnRefusal) => ParameterValues {
  const seen = new Map<string, ParameterValues>();
  return (found, onRefusal) => {
    const key = [...found].map(([name, { value }]) => `${name}=${value}`).join(" ");
    const known = seen.get(key);
    if (known !== undefined) return known;
    const values: Record<string, SettingScalar | undefined> = {};
    let complete = true;
    for (const [name, field] of Object.entries(schema.shape)) {
      const entry = found.get(name);
      const checked = checkValue(field, entry?.value);
      if (checked.ok && checked.value !== undefined) values[name] = checked.value;
      if (checked.ok) continue;
      complete = false;
      onRefusal(name, entry, checked.expected);
    }
    if (complete) seen.set(key, values);
    return values;
  };
}

function refuse(
  recipe: Recipe,
  at: {
    name: string;
    entry: Found | undefined;
    expected: string;
    tensor: string;
    source?: RecipeSource;
    model?: string;
  },
): never {
  const { name, entry, expected, tensor, source, model } = at;
  if (entry === undefined) {
    const place = source === undefined ? fieldPlace(recipe.origin, []) : fieldPlace(recipe.origin, source.field);
    throw new MergeyardError("RecipeParameterMissing", {
      where: { ...place, model, tensor },
      found: "nothing",
      expected: name,
    });
  }
  const place = fieldPlace(recipe.origin, [...entry.level.field, name]);
  throw new MergeyardError("RecipeParameterInvalid", {
    where: { ...place, model, tensor },
    found: describeValue(entry.value),
    expected,
  });
}

type Checked =
  | { readonly ok: true; readonly value: SettingScalar | undefined }
  | { readonly ok: false; readonly expected: string };

/**
 * The value that a parameter's schema makes of what the recipe says, defaults included. True and 1, false and 0 are the
 * same: mergekit turns booleans into numbers, and recipes write both.
 */
function checkValue(schema: z.core.$ZodType, value: SettingScalar | undefined): Checked {
  let expected = "";
  for (const candidate of candidatesOf(value)) {
    const result = z.safeParse(schema, candidate);
    const { data } = result;
    if (result.success && isScalar(data)) return { ok: true, value: data };
    expected ||= describeExpected(result.error?.issues ?? []) ?? "a number, true or false";
  }
  return { ok: false, expected };
}

function isScalar(data: unknown): data is SettingScalar | undefined {
  return data === undefined || typeof data === "number" || typeof data === "boolean" || typeof data === "string";
}

function candidatesOf(value: SettingScalar | undefined): readonly (SettingScalar | undefined)[] {
  if (typeof value === "boolean") return [value, value ? 1 : 0];
  return value === 0 || value === 1 ? [value, value === 1] : [value];
}

function fieldSchema(schema: z.ZodObject, name: string): z.core.$ZodType | undefined {
  return Object.hasOwn(schema.shape, name) ? schema.shape[name] : undefined;
}

/** True for a parameter that is true or false. */
function isFlag(schema: z.core.$ZodType): boolean {
  return z.safeParse(schema, true).success && !z.safeParse(schema, 0.5).success;
}

function hasGradient(setting: Setting): boolean {
  const isGradient = (value: SettingValue) => value.kind === "gradient";
  return setting.kind === "conditional" ? setting.entries.some(({ value }) => isGradient(value)) : isGradient(setting);
}
