// Variables: a chain of scopes. Inner states read outer variables and never assign them (load.ts refuses that).
import type { Json } from "../../core/json.ts";
import { stateFailure } from "./failure.ts";
import { jsonBytes, limited } from "./json.ts";
import { VARIABLE_BYTES_MAX } from "./limits.ts";

export type Scope = { readonly own: Map<string, Json>; readonly outer: Scope | undefined };

export function createScope(outer: Scope | undefined): Scope {
  return { own: new Map(), outer };
}

/** Every variable that a state of this scope can read. */
export function visibleVariables(scope: Scope): Record<string, Json> {
  const outer = scope.outer === undefined ? {} : visibleVariables(scope.outer);
  return { ...outer, ...Object.fromEntries(scope.own) };
}

/** Those of the named variables that have a value yet. */
export function pickVariables(scope: Scope, names: ReadonlySet<string>): Record<string, Json> {
  return Object.fromEntries(Object.entries(visibleVariables(scope)).filter(([name]) => names.has(name)));
}

/** Fails with States.DataLimitExceeded when one Assign, or all variables together, grow beyond the limits. */
export function checkAssigned(scope: Scope, assigned: Readonly<Record<string, Json>>): void {
  limited(assigned, "what one Assign holds");
  const bytes = jsonBytes({ ...visibleVariables(scope), ...assigned });
  if (bytes <= VARIABLE_BYTES_MAX) return;
  throw stateFailure("States.DataLimitExceeded", `variables are ${bytes} bytes; the limit is ${VARIABLE_BYTES_MAX}`);
}

export function assignVariables(scope: Scope, assigned: Readonly<Record<string, Json>>): void {
  for (const [name, value] of Object.entries(assigned)) scope.own.set(name, value);
}
