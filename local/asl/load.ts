// Loading a definition: parsed against the schema, every expression compiled, every name checked. What the interpreter
// does not support is refused here by name and place, never ignored and never found out half-way through a run.
import type * as z from "zod";
import { digestJson } from "../../core/artifact/digest.ts";
import { MergeyardError } from "../../core/error.ts";
import type { Json } from "../../core/json.ts";
import { jsonSchema } from "../../core/schema-atoms.ts";
import { compileTemplate, type Template } from "./expression.ts";
import { checkGraph, checkHandlers } from "./graph.ts";
import { jsonBytes } from "./json.ts";
import { DEFINITION_BYTES_MAX } from "./limits.ts";
import type { Assignment, Handlers, Machine, Results, State, StateTable } from "./machine.ts";
import {
  type CatcherDocument,
  machineSchema,
  type RetrierDocument,
  type StateDocument,
  type StateOfType,
  stateSchema,
} from "./schema.ts";

export type LoadOptions = {
  /** Resources that tasks may name. */
  readonly resources: ReadonlySet<string>;
};

/** What is true for all states of one table. */
type Place = LoadOptions & {
  /** Path of the machine in the definition: "" or ending in ".". */
  readonly prefix: string;
  /** Variables of the scopes around this one. */
  readonly outer: ReadonlySet<string>;
  /** Every state name of the definition met so far: they are unique across it. */
  readonly names: Set<string>;
};

/** Checks and compiles a definition. Throws FlowDefinitionInvalid with the field and what is wrong with it. */
export function loadMachine(definition: unknown, options: LoadOptions): Machine {
  const whole = parseAt(jsonSchema, definition, "");
  const bytes = jsonBytes(whole);
  if (bytes > DEFINITION_BYTES_MAX) throw refuse("", `${bytes} bytes`, `at most ${DEFINITION_BYTES_MAX} bytes`);
  const document = parseAt(machineSchema, whole, "");
  const place: Place = { ...options, prefix: "", outer: new Set(), names: new Set() };
  return {
    ...loadStates(document.StartAt, document.States, place),
    digest: digestJson(whole),
    timeoutSeconds: document.TimeoutSeconds,
  };
}

function loadStates(startAt: string, states: Readonly<Record<string, Json>>, place: Place): StateTable {
  const documents = Object.entries(states).map(([name, value]) => {
    const field = `${place.prefix}States.${name}`;
    if (place.names.has(name)) throw refuse(field, "a second state of this name", "names unique in the definition");
    place.names.add(name);
    return { name, field, document: parseAt(stateSchema, value, field) };
  });
  const own = new Set<string>();
  for (const { document, field } of documents) {
    for (const variable of assignedIn(document)) {
      if (place.outer.has(variable)) {
        throw refuse(`${field}.Assign.${variable}`, variable, "a name that no outer scope assigns");
      }
      own.add(variable);
    }
  }
  const visible = new Set([...place.outer, ...own]);
  const table = new Map(
    documents.map(({ name, field, document }) => [
      name,
      loadState(name, field, document, { ...place, outer: visible }),
    ]),
  );
  checkGraph(startAt, table, place.prefix);
  return { startAt, states: table };
}

/** Variables that a state assigns in its own scope. */
function assignedIn(document: StateDocument): string[] {
  const assigns = [
    "Assign" in document ? document.Assign : undefined,
    ...("Catch" in document ? document.Catch.map((catcher) => catcher.Assign) : []),
    ...("Choices" in document ? document.Choices.map((rule) => rule.Assign) : []),
  ];
  return assigns.flatMap((assign) => Object.keys(assign ?? {}));
}

/** Compiles the templates of one state and remembers which variables they read. */
type Reader = {
  readonly variables: Set<string>;
  template(value: Json, field: string): Template;
  optional(value: Json | undefined, field: string): Template | undefined;
};

function createReader(visible: ReadonlySet<string>): Reader {
  const variables = new Set<string>();
  const template = (value: Json, field: string): Template => {
    const compiled = compileTemplate(value, field);
    for (const variable of compiled.variables) {
      if (!visible.has(variable)) throw refuse(field, `$${variable}`, "a variable that a state assigns");
      variables.add(variable);
    }
    return compiled;
  };
  return {
    variables,
    template,
    optional: (value, field) => (value === undefined ? undefined : template(value, field)),
  };
}

function loadState(name: string, field: string, document: StateDocument, place: Place): State {
  const reader = createReader(place.outer);
  const named = { name, variables: reader.variables };
  switch (document.Type) {
    case "Pass":
      return { type: "Pass", ...named, ...results(document, field, reader), ...exit(document, field) };
    case "Succeed":
      return { type: "Succeed", ...named, ...results(document, field, reader) };
    case "Fail":
      return {
        type: "Fail",
        ...named,
        error: reader.optional(document.Error, `${field}.Error`),
        cause: reader.optional(document.Cause, `${field}.Cause`),
      };
    case "Wait":
      return { type: "Wait", ...named, ...exit(document, field), ...wait(document, field, reader) };
    case "Choice":
      return { type: "Choice", ...named, ...choice(document, field, reader) };
    case "Task":
      return { type: "Task", ...named, ...exit(document, field), ...task(document, field, reader, place) };
    case "Parallel":
      return { type: "Parallel", ...named, ...exit(document, field), ...parallel(document, field, reader, place) };
    case "Map":
      return { type: "Map", ...named, ...exit(document, field), ...map(document, field, reader, place) };
  }
}

type ResultFields = { Assign?: Readonly<Record<string, Json>> | undefined; Output?: Json | undefined };

function results(document: ResultFields, field: string, reader: Reader): Results {
  const assign: Assignment = new Map(
    Object.entries(document.Assign ?? {}).map(([name, value]) => [
      name,
      reader.template(value, `${field}.Assign.${name}`),
    ]),
  );
  return { output: reader.optional(document.Output, `${field}.Output`), assign };
}

function exit(document: { Next?: string | undefined; End?: true | undefined }, field: string): { next: string | null } {
  if ((document.Next === undefined) === (document.End === undefined)) {
    throw refuse(field, document.Next === undefined ? "neither" : "both", "either Next or End");
  }
  return { next: document.Next ?? null };
}

function wait(document: StateOfType<"Wait">, field: string, reader: Reader) {
  if ((document.Seconds === undefined) === (document.Timestamp === undefined)) {
    throw refuse(field, document.Seconds === undefined ? "neither" : "both", "either Seconds or Timestamp");
  }
  return {
    ...results(document, field, reader),
    seconds: reader.optional(document.Seconds, `${field}.Seconds`),
    timestamp: reader.optional(document.Timestamp, `${field}.Timestamp`),
  };
}

function choice(document: StateOfType<"Choice">, field: string, reader: Reader) {
  const rules = document.Choices.map((rule, index) => ({
    ...results(rule, `${field}.Choices[${index}]`, reader),
    condition: reader.template(rule.Condition, `${field}.Choices[${index}].Condition`),
    next: rule.Next,
  }));
  return { ...results(document, field, reader), rules, default: document.Default };
}

function task(document: StateOfType<"Task">, field: string, reader: Reader, place: Place) {
  if (!place.resources.has(document.Resource)) {
    throw refuse(`${field}.Resource`, document.Resource, `one of ${[...place.resources].join(", ")}`);
  }
  const { TimeoutSeconds: timeout, HeartbeatSeconds: heartbeat } = document;
  if (typeof timeout === "number" && typeof heartbeat === "number" && heartbeat >= timeout) {
    throw refuse(`${field}.HeartbeatSeconds`, heartbeat, `less than TimeoutSeconds (${timeout})`);
  }
  return {
    ...results(document, field, reader),
    ...handlers(document, field, reader),
    resource: document.Resource,
    arguments: reader.optional(document.Arguments, `${field}.Arguments`),
    timeoutSeconds: reader.optional(timeout, `${field}.TimeoutSeconds`),
    heartbeatSeconds: reader.optional(heartbeat, `${field}.HeartbeatSeconds`),
  };
}

function parallel(document: StateOfType<"Parallel">, field: string, reader: Reader, place: Place) {
  const branches = document.Branches.map((branch, index) =>
    loadStates(branch.StartAt, branch.States, { ...place, prefix: `${field}.Branches[${index}].` }),
  );
  for (const branch of branches) noteInner(branch, reader, place.outer);
  return {
    ...results(document, field, reader),
    ...handlers(document, field, reader),
    arguments: reader.optional(document.Arguments, `${field}.Arguments`),
    branches,
  };
}

function map(document: StateOfType<"Map">, field: string, reader: Reader, place: Place) {
  const { ItemProcessor: inner } = document;
  const distributed = inner.ProcessorConfig.Mode === "DISTRIBUTED";
  if (!distributed && (inner.ProcessorConfig.ExecutionType !== undefined || document.Label !== undefined)) {
    throw refuse(field, "ExecutionType or Label", "neither, unless the mode is DISTRIBUTED");
  }
  // A distributed map's iterations are executions of their own on the service: they see no variable of this one.
  const outer = distributed ? new Set<string>() : place.outer;
  const processor = loadStates(inner.StartAt, inner.States, { ...place, outer, prefix: `${field}.ItemProcessor.` });
  noteInner(processor, reader, outer);
  return {
    ...results(document, field, reader),
    ...handlers(document, field, reader),
    items: reader.optional(document.Items, `${field}.Items`),
    itemSelector: reader.optional(document.ItemSelector, `${field}.ItemSelector`),
    maxConcurrency: reader.template(document.MaxConcurrency, `${field}.MaxConcurrency`),
    distributed,
    processor,
  };
}

/** Adds the outer variables that the states of an inner machine read. */
function noteInner(table: StateTable, reader: Reader, outer: ReadonlySet<string>): void {
  for (const state of table.states.values()) {
    for (const variable of state.variables) if (outer.has(variable)) reader.variables.add(variable);
  }
}

type HandlerFields = { Retry: readonly RetrierDocument[]; Catch: readonly CatcherDocument[] };

function handlers(document: HandlerFields, field: string, reader: Reader): Handlers {
  checkHandlers(document.Retry, `${field}.Retry`);
  checkHandlers(document.Catch, `${field}.Catch`);
  return {
    retry: document.Retry,
    catch: document.Catch.map((catcher, index) => ({
      ...results(catcher, `${field}.Catch[${index}]`, reader),
      errorEquals: catcher.ErrorEquals,
      next: catcher.Next,
    })),
  };
}

function parseAt<Schema extends z.ZodType>(schema: Schema, value: unknown, field: string): z.output<Schema> {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const path = [
    field,
    ...(issue?.path ?? []).map((part) => (typeof part === "number" ? `[${part}]` : `.${String(part)}`)),
  ];
  const unknown = issue?.code === "unrecognized_keys" ? issue.keys.join(", ") : undefined;
  throw refuse(
    path.join("").replace(/^\./, ""),
    unknown ?? issue?.message ?? "something else",
    unknown === undefined ? "the form in docs/flow.md" : "only fields that docs/flow.md lists for this place",
  );
}

function refuse(field: string, found: string | number, expected: string): MergeyardError {
  return new MergeyardError("FlowDefinitionInvalid", { where: { field }, found, expected });
}
