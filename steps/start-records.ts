// Which starts of pipelines were made, as a yard knows it that is served: a record for each under `starts/`, when its
// run has ended. On AWS Step Functions knows it by the names of executions.
import { layout } from "../core/artifact/layout.ts";
import type { ObjectStore } from "../stores/store.ts";
import type { Start } from "./pipeline-starts.ts";
import { encodeRecord } from "./records.ts";
import type { StepDeps } from "./step.ts";

/** How a start ended, as its record says it. */
export type StartEnd = {
  readonly status: "done" | "failed";
  /** The run; null when the pipeline failed before it had a name. */
  readonly run: string | null;
  /** Of the error; null when there was none. */
  readonly code: string | null;
};

export type StartRecords = {
  isMade(name: string): Promise<boolean>;
  /** Remembers that a start was made; another's record of the same start stands. */
  keep(start: Start, end: StartEnd): Promise<void>;
  /** Removes records as old as the names that Step Functions forgets; but not of starts that are still asked for. */
  forget(asked: readonly Start[]): Promise<void>;
};

const FORGET_AFTER_MS = 90 * 24 * 60 * 60 * 1000;

export function createStartRecords(yard: ObjectStore, { now, log, signal }: StepDeps): StartRecords {
  const made = new Set<string>();
  return {
    async isMade(name) {
      if (!made.has(name) && (await yard.head(layout.start(name), { signal })) === undefined) return false;
      made.add(name);
      return true;
    },
    async keep({ name, input }, end) {
      const record = encodeRecord({ start: 1, pipeline: input.pipeline.key, ...end, endedMs: now() });
      await yard.create(layout.start(name), record, { signal });
      log({ event: "start-kept", start: name, ...end });
      made.add(name);
    },
    async forget(asked) {
      const keys = new Set(asked.map(({ name }) => layout.start(name)));
      for await (const { key, modifiedMs } of yard.list(layout.starts, { signal })) {
        if (modifiedMs < now() - FORGET_AFTER_MS && !keys.has(key)) await yard.delete(key, { signal });
      }
    },
  };
}
