// Checks of a definition that look at several states at once: transitions lead somewhere, nothing is unreachable, and
// wildcard errors stand where the language allows them.
import { MergeyardError } from "../../core/error.ts";
import type { State } from "./machine.ts";

/** Throws FlowDefinitionInvalid for a transition to nowhere, an unreachable state, or a machine that cannot end. */
export function checkGraph(startAt: string, states: ReadonlyMap<string, State>, prefix: string): void {
  const reached = new Set<string>();
  const waiting: { name: string; from: string }[] = [{ name: startAt, from: `${prefix}StartAt` }];
  for (let step = waiting.pop(); step !== undefined; step = waiting.pop()) {
    const state = states.get(step.name);
    if (state === undefined) throw refuse(step.from, step.name, "the name of a state of the same machine");
    if (reached.has(step.name)) continue;
    reached.add(step.name);
    for (const name of transitions(state)) waiting.push({ name, from: `${prefix}States.${state.name}` });
  }
  for (const name of states.keys()) {
    if (!reached.has(name))
      throw refuse(`${prefix}States.${name}`, "a state that nothing leads to", "reachable states");
  }
  if (![...states.values()].some(ends)) throw refuse(`${prefix}States`, "no end", "a state with End, Succeed or Fail");
}

function transitions(state: State): string[] {
  const next = "next" in state && state.next !== null ? [state.next] : [];
  const rules = state.type === "Choice" ? [...state.rules.map((rule) => rule.next), ...optional(state.default)] : [];
  return [...next, ...rules, ...("catch" in state ? state.catch.map((catcher) => catcher.next) : [])];
}

function optional(name: string | undefined): string[] {
  return name === undefined ? [] : [name];
}

function ends(state: State): boolean {
  return state.type === "Succeed" || state.type === "Fail" || ("next" in state && state.next === null);
}

/** States.ALL and States.TaskFailed stand alone in their list; States.ALL only in the last entry. */
export function checkHandlers(entries: readonly { readonly ErrorEquals: readonly string[] }[], field: string): void {
  for (const [index, { ErrorEquals: names }] of entries.entries()) {
    const place = `${field}[${index}].ErrorEquals`;
    const alone = names.includes("States.ALL") || names.includes("States.TaskFailed");
    if (alone && names.length > 1) throw refuse(place, names.join(", "), "a wildcard alone in its list");
    if (names.includes("States.ALL") && index < entries.length - 1) {
      throw refuse(place, "States.ALL before other entries", "States.ALL only in the last entry");
    }
  }
}

function refuse(field: string, found: string, expected: string): MergeyardError {
  return new MergeyardError("FlowDefinitionInvalid", { where: { field }, found, expected });
}
