// From what zod found to what a user is told: one MergeyardError with field, line, found, expected and the nearest key.
import type * as z from "zod";
import { MergeyardError } from "../error.ts";
import { didYouMean, nearestName } from "./nearest.ts";
import { describeValue, type FieldPath, fieldPlace, type RecipeOrigin } from "./origin.ts";

type Issue = z.core.$ZodIssue;

/** A key that the schema at that place does not have, and the keys that it has. */
export type UnknownKey = { readonly path: FieldPath; readonly key: string; readonly known: readonly string[] };

/** Issues with unions resolved to the branch that was meant: the one whose issues lie inside the value. */
export function flattenIssues(issues: readonly Issue[], prefix: FieldPath = []): Issue[] {
  return issues.flatMap((issue) => {
    const path = [...prefix, ...issue.path];
    if (issue.code !== "invalid_union" || issue.errors.length === 0) return [{ ...issue, path }];
    const branches = issue.errors.map((errors) => flattenIssues(errors, path));
    const inside = branches.filter((branch) => !branch.some((found) => isTypeMismatch(found, path.length)));
    return inside.at(-1) ?? [mismatchOfUnion(branches, path)];
  });
}

/** Keys that no schema knows, in document order. */
export function unknownKeys(issues: readonly Issue[]): UnknownKey[] {
  return issues.flatMap((issue) =>
    issue.code === "unrecognized_keys"
      ? issue.keys.map((key) => ({ path: issue.path, key, known: issue.message.split(",") }))
      : [],
  );
}

/** The refusal of an unknown key. */
export function unknownKeyError({ path, key, known }: UnknownKey, origin: RecipeOrigin): MergeyardError {
  const nearest = nearestName(key, known);
  return new MergeyardError("RecipeUnknownKey", {
    where: fieldPlace(origin, [...path, key]),
    found: key,
    expected: nearest ?? known.join(", "),
    hint: didYouMean(nearest) ?? "remove the key",
  });
}

/** The refusal of the first field whose value the schema does not take. `document` is what was parsed. */
export function fieldError(issues: readonly Issue[], document: unknown, origin: RecipeOrigin): MergeyardError {
  const issue = issues[0] ?? { code: "custom", path: [], message: "a recipe", input: document };
  const where = fieldPlace(origin, issue.path);
  if (issue.code === "custom") {
    const { found, hint } = issue.params ?? {};
    return new MergeyardError("RecipeFieldInvalid", {
      where,
      found: typeof found === "string" ? found : describeValue(valueAt(document, issue.path)),
      expected: issue.message,
      hint: typeof hint === "string" ? hint : undefined,
    });
  }
  const value = valueAt(document, issue.path);
  const found = value === undefined ? "nothing" : describeValue(value);
  return new MergeyardError("RecipeFieldInvalid", { where, found, expected: expectation(issue) });
}

/** What a schema would have taken in place of a value, in words. */
export function describeExpected(issues: readonly Issue[]): string | undefined {
  const [first] = flattenIssues(issues);
  return first && wants(first);
}

function expectation(issue: Issue): string {
  switch (issue.code) {
    case "invalid_type":
      return TYPE_WORDS[issue.expected] ?? issue.expected;
    case "invalid_value":
      return issue.values.map(String).join(", ");
    case "too_small":
      return `${issue.inclusive === false ? "more than" : "at least"} ${issue.minimum} (${issue.origin})`;
    case "too_big":
      return `${issue.inclusive === false ? "less than" : "at most"} ${issue.maximum} (${issue.origin})`;
    case "invalid_format":
      return issue.pattern ?? issue.format;
    default:
      return issue.message;
  }
}

const TYPE_WORDS: Readonly<Record<string, string>> = {
  object: "a map",
  record: "a map",
  array: "a list",
  tuple: "a list",
  string: "text",
  number: "a number",
  int: "a whole number",
  boolean: "true or false",
};

function isTypeMismatch(issue: Issue, depth: number): boolean {
  return issue.path.length === depth && (issue.code === "invalid_type" || issue.code === "invalid_value");
}

/** The union took no branch: say what each would have taken. */
function mismatchOfUnion(branches: readonly (readonly Issue[])[], path: FieldPath): Issue {
  const wanted = branches.flatMap((branch) => branch.slice(0, 1).map(wants));
  return { code: "custom", path: [...path], message: [...new Set(wanted)].join(" or "), input: undefined };
}

function wants(issue: Issue): string {
  return issue.code === "custom" ? issue.message : expectation(issue);
}

/** The value at a path of a document; undefined when there is none. */
export function valueAt(document: unknown, path: FieldPath): unknown {
  return path.reduce<unknown>((value, part) => {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, part)) return undefined;
    return Reflect.get(value, part);
  }, document);
}
