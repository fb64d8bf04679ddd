// JSONata in a definition: any string `{% … %}` inside a template is an expression, every other value is itself.
// Compiled and checked when the definition is loaded; evaluated under bounds of time, depth and size.
import jsonata from "jsonata";
import { MergeyardError } from "../../core/error.ts";
import { isJsonObject, type Json } from "../../core/json.ts";
import { isStateFailure, stateFailure } from "./failure.ts";
import { FUNCTION_NAMES } from "./functions.ts";
import { toJson } from "./json.ts";
import { EXPRESSION_DEPTH_MAX, EXPRESSION_ITEMS_MAX, EXPRESSION_MS_MAX } from "./limits.ts";

/** Values by name, without `$`: `states`, the variables in scope and the service's functions. */
export type Bindings = Readonly<Record<string, unknown>>;

/** A JSON value with expressions in it, ready to be evaluated. */
export type Template = {
  /** Where it stands in the definition. */
  readonly field: string;
  /** Variables that it reads, without `$`; `states` is not one. */
  readonly variables: ReadonlySet<string>;
  /** Fails with States.QueryEvaluationError when an expression does, or gives nothing. */
  evaluate(bindings: Bindings): Promise<Json>;
};

const DELIMITED = /^\{%(.*)%\}$/s;
const OPTIONS = { timeout: EXPRESSION_MS_MAX, stack: EXPRESSION_DEPTH_MAX, sequence: EXPRESSION_ITEMS_MAX };

/** Throws FlowDefinitionInvalid, naming the field, for an expression that cannot be read or calls what there is not. */
export function compileTemplate(value: Json, field: string): Template {
  if (typeof value === "string") return compileText(value, field);
  if (Array.isArray(value)) return compileItems(value, field);
  if (isJsonObject(value)) return compileFields(value, field);
  return literal(value, field);
}

function literal(value: Json, field: string): Template {
  return { field, variables: new Set(), evaluate: () => Promise.resolve(value) };
}

function compileItems(items: readonly Json[], field: string): Template {
  const templates = items.map((item, index) => compileTemplate(item, `${field}[${index}]`));
  return {
    field,
    variables: new Set(templates.flatMap((template) => [...template.variables])),
    async evaluate(bindings) {
      const values: Json[] = [];
      for (const template of templates) values.push(await template.evaluate(bindings));
      return values;
    },
  };
}

function compileFields(value: Readonly<Record<string, Json>>, field: string): Template {
  const templates = Object.entries(value).map(
    ([name, item]) => [name, compileTemplate(item, `${field}.${name}`)] as const,
  );
  return {
    field,
    variables: new Set(templates.flatMap(([, template]) => [...template.variables])),
    async evaluate(bindings) {
      const fields: [string, Json][] = [];
      for (const [name, template] of templates) fields.push([name, await template.evaluate(bindings)]);
      return Object.fromEntries(fields);
    },
  };
}

function compileText(text: string, field: string): Template {
  const source = DELIMITED.exec(text)?.[1];
  if (source === undefined) {
    if (text.startsWith("{%") || text.endsWith("%}")) throw refuse(field, text, "an expression within {% and %}");
    return literal(text, field);
  }
  const expression = parseExpression(source, field);
  const names = readNames(expression.ast());
  for (const name of names.called) {
    if (!FUNCTION_NAMES.has(name) && !names.bound.has(name)) throw refuse(field, `$${name}(`, "a known function");
  }
  const variables = [...names.read].filter(
    (name) => !names.bound.has(name) && !FUNCTION_NAMES.has(name) && name !== "states" && name !== "" && name !== "$",
  );
  return {
    field,
    variables: new Set(variables),
    async evaluate(bindings) {
      const value = await evaluateExpression(expression, bindings, field);
      return toJson(value, "States.QueryEvaluationError", `the expression at ${field}`);
    },
  };
}

function parseExpression(source: string, field: string): jsonata.Expression {
  try {
    return jsonata(source, OPTIONS);
  } catch (error) {
    throw refuse(field, describe(error), "a JSONata expression");
  }
}

async function evaluateExpression(expression: jsonata.Expression, bindings: Bindings, field: string): Promise<unknown> {
  try {
    return await expression.evaluate(undefined, bindings);
  } catch (error) {
    if (isStateFailure(error)) throw error;
    throw stateFailure("States.QueryEvaluationError", `the expression at ${field} failed: ${describe(error)}`);
  }
}

/** Variable names in a parsed expression: read, called as functions, and bound inside it. */
type Names = { readonly read: Set<string>; readonly called: Set<string>; readonly bound: Set<string> };

function readNames(ast: unknown): Names {
  const names: Names = { read: new Set(), called: new Set(), bound: new Set() };
  const seen = new Set<object>();
  const visit = (node: unknown): void => {
    if (node === null || typeof node !== "object" || seen.has(node)) return;
    seen.add(node);
    noteName(node, names);
    for (const child of Object.values(node)) visit(child);
  };
  visit(ast);
  return names;
}

function noteName(node: object, names: Names): void {
  const type = "type" in node ? node.type : undefined;
  if (type === "variable") noteText("value" in node ? node.value : undefined, names.read);
  if (type === "bind" && "lhs" in node) noteText(nameOf(node.lhs), names.bound);
  if ((type === "function" || type === "partial") && "procedure" in node)
    noteText(nameOf(node.procedure), names.called);
  if (type === "lambda" && "arguments" in node && Array.isArray(node.arguments)) {
    for (const argument of node.arguments) noteText(nameOf(argument), names.bound);
  }
  // `@$name` and `#$name` bind a name on a path step.
  if ("focus" in node) noteText(node.focus, names.bound);
  if ("index" in node) noteText(node.index, names.bound);
}

function nameOf(node: unknown): unknown {
  if (node === null || typeof node !== "object" || !("type" in node) || node.type !== "variable") return undefined;
  return "value" in node ? node.value : undefined;
}

function noteText(value: unknown, into: Set<string>): void {
  if (typeof value === "string") into.add(value);
}

/** JSONata throws plain objects with a code and a message. */
function describe(error: unknown): string {
  if (error === null || typeof error !== "object") return String(error);
  const code = "code" in error && typeof error.code === "string" ? `${error.code}: ` : "";
  return `${code}${"message" in error ? String(error.message) : "unknown error"}`;
}

function refuse(field: string, found: string, expected: string): MergeyardError {
  return new MergeyardError("FlowDefinitionInvalid", { where: { field }, found, expected });
}
