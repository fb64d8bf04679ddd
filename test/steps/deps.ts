// Dependencies of steps for tests: stores by URI, a clock that ticks, and what was logged.
import type { PartsDeps, StepEvent, UnitDeps } from "../../steps/step.ts";
import { initYard } from "../../steps/yard.ts";
import { createMemoryStore } from "../../stores/memory.ts";
import type { ObjectStore, OpenStore } from "../../stores/store.ts";
import { createConvert } from "../../workers/convert-executor.ts";
import { createPartsExecutor } from "../../workers/parts-executor.ts";
import { createPool } from "../../workers/pool.ts";
import { createInThreadMeasurer } from "./in-thread-executor.ts";

export type TestDeps = UnitDeps & PartsDeps & { readonly events: StepEvent[] };

let stores = 0;

/** A memory store of a name of its own. */
export function newStore(): ObjectStore {
  stores += 1;
  return createMemoryStore(`steps-${process.pid}-${stores}`);
}

/** A memory store that is a yard. */
export async function newYard(): Promise<ObjectStore> {
  const yard = newStore();
  await initYard(yard);
  return yard;
}

/** Opens the given stores by their URIs, and memory stores by name. */
export function openerOf(...known: readonly ObjectStore[]): OpenStore {
  return (uri) => known.find((store) => store.uri === uri) ?? createMemoryStore(uri.replace("memory://", ""));
}

/** Dependencies whose clock starts at `startMs` and moves a millisecond a look. */
export function testDeps(openStore: OpenStore, overrides: Partial<UnitDeps> = {}, startMs = 1_000_000): TestDeps {
  const events: StepEvent[] = [];
  let nowMs = startMs;
  return {
    openStore,
    now: () => (nowMs += 1),
    cpuMs: () => 0,
    log: (event) => void events.push(event),
    signal: new AbortController().signal,
    executeMeasure: createInThreadMeasurer(openStore),
    executeParts: createPartsExecutor(openStore).execute,
    executeConvert: createConvert(openStore, createPool(openStore)),
    executeMerge: () => Promise.reject(new Error("this test merges nothing")),
    threads: 1,
    memoryBytes: 256 * 1024 * 1024,
    events,
    ...overrides,
  };
}

/** Writes text under a key, whatever is there. */
export async function putText(store: ObjectStore, key: string, text: string): Promise<void> {
  await store.delete(key);
  await store.create(key, new TextEncoder().encode(text));
}
