// The journal of a run, kept in the run's folder as one small object per entry, created if absent: a crash loses at
// most the state that was running. Entries are grouped by attempt; an attempt goes on only under the definition that it
// began with, and only as long as it neither ended nor met an error. docs/flow.md tells the rules in words.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import * as z from "zod";
import type { Digest } from "../core/artifact/digest.ts";
import { layout } from "../core/artifact/layout.ts";
import { MergeyardError } from "../core/error.ts";
import { jsonSchema } from "../core/schema-atoms.ts";
import { encodeRecord, readRecord, readRecords } from "../steps/records.ts";
import type { ObjectStore } from "../stores/store.ts";
import type { ExecutionResult } from "./asl/execute.ts";
import type { Finished, Journal, JournalKey } from "./asl/journal.ts";

const common = { journal: z.literal(1), runner: z.string(), atMs: z.number() };
const entrySchema = z.discriminatedUnion("kind", [
  z.strictObject({ ...common, kind: z.literal("attempt"), definition: z.string() }),
  z.strictObject({
    ...common,
    kind: z.literal("state"),
    path: z.string(),
    digest: z.string(),
    output: jsonSchema,
    assigned: z.record(z.string(), jsonSchema),
    next: z.string().nullable(),
    caught: z.string().nullable(),
  }),
  z.strictObject({ ...common, kind: z.literal("end"), status: z.enum(["SUCCEEDED", "FAILED", "TIMED_OUT"]) }),
]);
type Entry = z.infer<typeof entrySchema>;
/** An entry before it is written. */
type Draft = Entry extends infer One ? (One extends Entry ? Omit<One, keyof typeof common> : never) : never;

export type RunJournal = Journal & {
  /** Finds the run's attempt to go on with, or begins the next one. Until then nothing is found and nothing is kept. */
  open(run: string): Promise<{ readonly attempt: number; readonly resumed: boolean }>;
  /** Closes the attempt; a cancelled execution stays open, so that the next one goes on. */
  end(status: ExecutionResult["status"]): Promise<void>;
};

export type RunJournalOptions = {
  readonly store: ObjectStore;
  /** Digest of the definition. */
  readonly definition: Digest;
  readonly now: () => number;
};

/** Where the next entry goes. */
type Position = { readonly run: string; readonly attempt: number; next: number };

/** Throws StoreJsonInvalid for a damaged entry, FlowRunBusy when another process writes to the same attempt. */
export function createRunJournal(options: RunJournalOptions): RunJournal {
  const runner = randomUUID();
  const known = new Map<string, Finished>();
  let position: Position | undefined;
  let last: Promise<void> = Promise.resolve();
  const append = (draft: Draft): Promise<void> => {
    if (position === undefined) return Promise.resolve();
    const place = position;
    // One after the other; after a failed write the next ones fail as well.
    last = last.then(() => write(options.store, place, { journal: 1, runner, atMs: options.now(), ...draft }));
    return last;
  };
  return {
    find: (key) => known.get(nameOf(key)),
    async record(key, finished) {
      if (position === undefined || known.has(nameOf(key))) return;
      await append({ kind: "state", ...key, ...finished });
      known.set(nameOf(key), finished);
    },
    async open(run) {
      assert.ok(position === undefined, `the journal of ${position?.run} is open`);
      const { attempt, entries } = await readLastAttempt(options.store, run);
      const resumed = canResume(entries, options.definition);
      position = { run, attempt: resumed ? attempt : attempt + 1, next: resumed ? entries.length : 0 };
      if (resumed) for (const entry of entries) if (entry.kind === "state") known.set(nameOf(entry), entry);
      if (!resumed) await append({ kind: "attempt", definition: options.definition });
      return { attempt: position.attempt, resumed };
    },
    end: async (status) => (status === "ABORTED" ? undefined : append({ kind: "end", status })),
  };
}

function nameOf({ path, digest }: JournalKey): string {
  return `${digest} ${path}`;
}

function canResume(entries: readonly Entry[], definition: Digest): boolean {
  const [head] = entries;
  const begun = head?.kind === "attempt" && head.definition === definition;
  return begun && !entries.some((entry) => entry.kind === "end" || (entry.kind === "state" && entry.caught !== null));
}

async function readLastAttempt(
  store: ObjectStore,
  run: string,
): Promise<{ attempt: number; entries: readonly Entry[] }> {
  let attempt = 0;
  let keys: string[] = [];
  for await (const { key } of store.list(layout.journals(run))) {
    const of = Number(/\/(\d+)-\d+\.json$/.exec(key)?.[1] ?? 0);
    if (of > attempt) keys = [];
    attempt = Math.max(attempt, of);
    if (of === attempt) keys.push(key);
  }
  // Keys come in order and nothing deletes single entries: the n-th is entry n.
  return { attempt, entries: await readRecords(store, keys, entrySchema) };
}

/**
 * Creates the next entry. That it exists is fine only when it is this very entry (its first try did succeed, but the
 * answer was lost); another process's entry means that both run the same work, and this one gives way.
 */
async function write(store: ObjectStore, position: Position, entry: Entry): Promise<void> {
  const key = layout.journal(position.run, position.attempt, position.next);
  position.next += 1;
  if ((await store.create(key, encodeRecord(entry))).created) return;
  const there = await readRecord(store, key, entrySchema);
  if (there?.value.runner === entry.runner) return;
  throw new MergeyardError("FlowRunBusy", {
    where: { store: store.uri, file: key },
    found: `an entry of another process (${there?.value.runner ?? "gone again"})`,
  });
}
