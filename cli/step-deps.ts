// What a step is given when the command line is its edge: stores, the clock, the signal of ^C, and a log.
import type { StepDeps, StepEvent } from "../steps/step.ts";
import type { OpenStore } from "../stores/store.ts";
import type { Terminal } from "./terminal.ts";

/** Events are dropped unless someone listens: a command prints its result, and warnings that are part of it. */
export function createStepDeps(
  terminal: Terminal,
  openStore: OpenStore,
  log: (event: StepEvent) => void = () => {},
): StepDeps {
  return { openStore, now: terminal.now, log, signal: terminal.signal };
}
