// What a person sees of a run while it goes on: one line for each thing that ended, and the progress of the stage that
// runs now. Made from the events of the local runner, its steps and its workers; an event it does not know is no line.
import * as z from "zod";
import { sumOf } from "../core/sum-of.ts";
import type { StepEvent } from "../steps/step.ts";
import type { Progress } from "./progress.ts";
import { countOf, formatBytes, formatCount } from "./text.ts";

const count = z.number();

/** The events that are shown, with what is read of them. */
const shownEventSchema = z.discriminatedUnion("event", [
  z.object({ event: z.literal("attempt-opened"), run: z.string(), attempt: count, resumed: z.boolean() }),
  z.object({ event: z.literal("state-entered"), state: z.string(), type: z.string() }),
  z.object({ event: z.literal("state-finished"), state: z.string(), caught: z.string().nullable() }),
  z.object({ event: z.literal("state-replayed"), state: z.string() }),
  z.object({ event: z.literal("state-retried"), state: z.string() }),
  z.object({ event: z.literal("jobs-submitted"), job: z.string(), jobs: count }),
  z.object({ event: z.literal("jobs-ended"), job: z.string(), failed: z.array(count) }),
  z.object({
    event: z.literal("job-attempt-failed"),
    job: z.string(),
    index: count,
    attempt: count,
    reason: z.string(),
  }),
  z.object({ event: z.literal("unit-progress"), unit: count, bytesRead: count, bytesWritten: count }),
  z.object({
    // Found: it was finished before this call, and is as it was.
    event: z.enum(["unit-finished", "unit-found"]),
    unit: count,
    cached: z.boolean(),
    bytesRead: count,
    bytesWritten: count,
  }),
  z.object({ event: z.literal("warning"), text: z.string() }),
]);
type ShownEvent = z.infer<typeof shownEventSchema>;

/** Bytes that each stage reads and writes, by its name; from the plan's header, once it is known. */
export type StageBytes = ReadonlyMap<string, number>;

export type RunReport = {
  handle(event: StepEvent): void;
  /** Gives the stages their sizes; until then progress has no total. */
  setStages(bytes: StageBytes): void;
  /** Units that ended during this call; none when there was nothing to do. */
  unitsEnded(): number;
};

/** States of the machine that do something besides running jobs; the others only choose the way. */
const TITLES: Readonly<Record<string, string>> = {
  Plan: "plan",
  Check: "check",
  Publish: "publish",
  Notify: "notify",
  RecordFailure: "record the failure",
};

type DoneUnit = {
  readonly read: number;
  readonly written: number;
  readonly cached: boolean;
  /** Before this call. */
  readonly found: boolean;
};

type Stage = {
  readonly name: string;
  readonly done: Map<number, DoneUnit>;
  readonly running: Map<number, number>;
};

export function createRunReport(progress: Progress): RunReport {
  let stages: StageBytes = new Map();
  let stage: Stage = { name: "", done: new Map(), running: new Map() };
  let unitsEnded = 0;
  const showBytes = () => {
    const finished = [...stage.done.values()].reduce((sum, { read, written }) => sum + read + written, 0);
    progress.update([...stage.running.values()].reduce((sum, bytes) => sum + bytes, finished));
  };
  const show = (event: ShownEvent): void => {
    if (event.event === "jobs-submitted") {
      stage = { name: stageOf(event.job), done: new Map(), running: new Map() };
      progress.begin(stage.name, stages.get(stage.name) ?? 0);
    } else if (event.event === "unit-progress") {
      stage.running.set(event.unit, event.bytesRead + event.bytesWritten);
      showBytes();
    } else if (event.event === "unit-finished" || event.event === "unit-found") {
      const found = event.event === "unit-found";
      if (!found) unitsEnded += 1;
      stage.running.delete(event.unit);
      stage.done.set(event.unit, { read: event.bytesRead, written: event.bytesWritten, cached: event.cached, found });
      showBytes();
    } else {
      const line = event.event === "jobs-ended" ? describeStage(stage, event.failed.length) : describeEvent(event);
      if (line !== undefined) progress.note(line);
    }
  };
  return {
    unitsEnded: () => unitsEnded,
    setStages: (bytes) => {
      stages = bytes;
    },
    handle(event) {
      const parsed = shownEventSchema.safeParse(event);
      if (parsed.success) show(parsed.data);
    },
  };
}

/** `adopt` of `mergeyard-adopt-5ec17975c6511f31`. */
function stageOf(job: string): string {
  return job.replace(/^mergeyard-/, "").replace(/-[^-]+$/, "");
}

function describeStage({ name, done }: Stage, failed: number): string {
  const units = [...done.values()].filter(({ found }) => !found);
  const before = done.size - units.length;
  const cached = units.filter((unit) => unit.cached).length;
  const parts = [
    countOf(done.size, "unit"),
    ...(before > 0 ? [before === done.size ? "done before" : `${formatCount(before)} done before`] : []),
    ...(cached > 0 ? [`${formatCount(cached)} from the cache`] : []),
    ...(units.length > 0
      ? [
          `${formatBytes(sumOf(units, (unit) => unit.read))} read`,
          `${formatBytes(sumOf(units, (unit) => unit.written))} written`,
        ]
      : []),
    ...(failed > 0 ? [`${countOf(failed, "job")} FAILED`] : []),
  ];
  return renderLine(name, parts.join(", "));
}

function describeEvent(event: ShownEvent): string | undefined {
  switch (event.event) {
    case "attempt-opened":
      return renderLine("run", `${event.run}${event.resumed ? ", goes on where it was stopped" : ""}`);
    case "state-finished":
      return TITLES[event.state] === undefined
        ? undefined
        : renderLine(TITLES[event.state] ?? "", event.caught === null ? "done" : "failed");
    case "state-replayed":
      return TITLES[event.state] === undefined ? undefined : renderLine(TITLES[event.state] ?? "", "was done before");
    case "state-retried":
      return renderLine(TITLES[event.state] ?? event.state, "is tried again");
    case "job-attempt-failed":
      return renderLine(stageOf(event.job), `job ${event.index}, attempt ${event.attempt}: ${event.reason}`);
    case "warning":
      return renderLine("warning", event.text);
    default:
      return undefined;
  }
}

function renderLine(title: string, text: string): string {
  return `${title.padEnd(10)} ${text}`;
}
