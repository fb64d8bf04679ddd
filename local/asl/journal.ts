// The journal of an execution, as the interpreter sees it: what finished, by place and by everything that decided it.
// Where entries are kept is the caller's matter (local/run-journal.ts keeps them in the run's folder).
import { type Digest, digestJson } from "../../core/artifact/digest.ts";
import type { Json } from "../../core/json.ts";

/** What a finished state leaves to the states after it. */
export type Finished = {
  readonly output: Json;
  /** Variables that it assigned. */
  readonly assigned: Readonly<Record<string, Json>>;
  /** The state after it; null when the machine or branch ends here. */
  readonly next: string | null;
  /** Name of the error that a Catch handled; null when the state succeeded. */
  readonly caught: string | null;
};

export type JournalKey = {
  /** Steps from the start: `2:RunStage`, inside a map `3:Each/7/0:Work`, in its second try `3:Each~1/7/0:Work`. */
  readonly path: string;
  /** Digest of the definition, the state's input and the variables that it reads. */
  readonly digest: Digest;
};

export type Journal = {
  find(key: JournalKey): Finished | undefined;
  /** Resolves when the entry is durable. A rejection ends the execution; no Catch sees it. */
  record(key: JournalKey, finished: Finished): Promise<void>;
};

/** Remembers nothing: every state runs. */
export const noJournal: Journal = Object.freeze({ find: () => undefined, record: () => Promise.resolve() });

/** The key of a state: equal only when it would do the same thing again. */
export function journalKey(
  path: string,
  definition: Digest,
  input: Json,
  variables: Readonly<Record<string, Json>>,
): JournalKey {
  return { path, digest: digestJson({ definition, path, input, variables }) };
}
