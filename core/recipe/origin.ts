// Where a recipe's fields stand in the file its user wrote, so that every refusal names file, field and line.
import type { ErrorPlace } from "../error.ts";

/** A path inside a document: keys and list indexes. */
export type FieldPath = readonly PropertyKey[];

/** A document, or a part of one: fields are named from `prefix` on. */
export type RecipeOrigin = {
  readonly file: string | undefined;
  readonly prefix: FieldPath;
  /** Line, from 1, of a field by its whole path; of the nearest enclosing field when it has none itself. */
  readonly line: (path: FieldPath) => number | undefined;
};

/** The origin of the part of the document under `key`. */
export function originWithin(origin: RecipeOrigin, key: PropertyKey): RecipeOrigin {
  return { ...origin, prefix: [...origin.prefix, key] };
}

/** The place of a field, as errors carry it: `path` starts at the origin's prefix. */
export function fieldPlace(origin: RecipeOrigin, path: FieldPath): ErrorPlace {
  const whole = [...origin.prefix, ...path];
  return { file: origin.file, field: formatFieldPath(whole), line: origin.line(whole) };
}

/** A field as warnings name it: `models[1].parameters.weight (line 4)`. */
export function describeField(origin: RecipeOrigin, path: FieldPath): string {
  const { field, line } = fieldPlace(origin, path);
  return line === undefined ? `${field}` : `${field} (line ${line})`;
}

/** `models[1].parameters.weight`; undefined for the document itself. */
function formatFieldPath(path: FieldPath): string | undefined {
  if (path.length === 0) return undefined;
  return path
    .map((part) => (typeof part === "number" ? `[${part}]` : `.${String(part)}`))
    .join("")
    .replace(/^\./, "");
}

/** A value as an error shows it: JSON, at most 60 characters. */
export function describeValue(value: unknown): string {
  const text = typeof value === "number" ? String(value) : (JSON.stringify(value) ?? String(value));
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}
