// A discrete-event simulation of one stage on a fleet of Spot machines: children with fixed lists of units, as Batch
// runs an array, machines that are taken away and replaced, and what S3 is asked for each second.
// tools/simulate-fleet.ts feeds it the planner's units.
import assert from "node:assert/strict";
import { REQUEST_BYTES } from "../../core/cost/estimate.ts";
import { streamKey, uniformAt } from "../../core/random.ts";
import { sumOf } from "../../core/sum-of.ts";

/** Work that is done whole or again: a worker's receipt is the only thing that outlives its machine. */
export type SimulatedUnit = {
  readonly seconds: number;
  readonly bytesWritten: number;
  /** Bytes read under each prefix. */
  readonly reads: ReadonlyMap<string, number>;
};

export type FleetModel = {
  readonly seed: number;
  /** Children of the array that run at one time: all of them start at once. */
  readonly children: number;
  /** Children that share a machine, and its fate. */
  readonly childrenPerMachine: number;
  /** Interruptions an hour and machine, at most INTERRUPTIONS_MAX. */
  readonly interruptionsPerHour: number;
  /** From asking for a machine to the first byte, and machines that arrive each second after that. */
  readonly startSeconds: number;
  readonly machinesPerSecond: number;
  /** Attempts that the job definition gives a child. */
  readonly attempts: number;
  /** Prefix that outputs are written under. */
  readonly writePrefix: string;
};

export type StageOutcome = {
  readonly makespanSeconds: number;
  /** Of the units, once each. */
  readonly usefulSeconds: number;
  /** Of units that were cut short. */
  readonly wastedSeconds: number;
  /** Of containers and images before any unit, first starts included. */
  readonly startingSeconds: number;
  readonly unitsDone: number;
  readonly interruptions: number;
  /** Children that were interrupted as often as the job definition has attempts: on AWS the run fails, and goes on. */
  readonly exhausted: number;
  /** When each child ended. */
  readonly ends: readonly number[];
  /** Most requests in any second, by prefix. */
  readonly getPeaks: ReadonlyMap<string, number>;
  readonly putPeaks: ReadonlyMap<string, number>;
};

/**
 * Interruptions are drawn at this rate and kept with the probability of the wanted one: a higher rate only adds some,
 * at the same times, so that more of them never end anything earlier.
 */
export const INTERRUPTIONS_MAX = 10;

/** Runs a stage to its end. Child i of n does units i, i + n, ... in order. */
export function simulateStage(units: readonly SimulatedUnit[], model: FleetModel): StageOutcome {
  assert.ok(model.interruptionsPerHour >= 0 && model.interruptionsPerHour <= INTERRUPTIONS_MAX, "rate out of range");
  const children = Math.min(model.children, units.length);
  const requests = createRequests(model.writePrefix);
  const runs = Array.from({ length: children }, (_, child) => {
    const own = units.filter((_unit, index) => index % children === child);
    return runChild(own, child, model, requests);
  });
  return {
    makespanSeconds: runs.reduce((latest, { end }) => Math.max(latest, end), 0),
    usefulSeconds: sumOf(runs, ({ useful }) => useful),
    wastedSeconds: sumOf(runs, ({ wasted }) => wasted),
    startingSeconds: sumOf(runs, ({ starting }) => starting),
    unitsDone: sumOf(runs, ({ done }) => done),
    interruptions: sumOf(runs, ({ interruptions }) => interruptions),
    exhausted: runs.filter(({ interruptions }) => interruptions >= model.attempts).length,
    ends: runs.map(({ end }) => end),
    ...requests.peaks(),
  };
}

type ChildRun = {
  end: number;
  useful: number;
  wasted: number;
  starting: number;
  done: number;
  interruptions: number;
};

function runChild(
  units: readonly SimulatedUnit[],
  child: number,
  model: FleetModel,
  requests: ReturnType<typeof createRequests>,
): ChildRun {
  const machine = Math.floor(child / model.childrenPerMachine);
  const nextInterruption = interruptionsOf(machine, model);
  const run: ChildRun = {
    end: machine / model.machinesPerSecond,
    useful: 0,
    wasted: 0,
    starting: 0,
    done: 0,
    interruptions: 0,
  };
  let interruption = nextInterruption();
  /** Spends the time, or as much of it as the machine has left; false when it was taken. */
  const spend = (seconds: number, account: "starting" | "useful", unit?: SimulatedUnit): boolean => {
    while (interruption < run.end) interruption = nextInterruption();
    const isWhole = run.end + seconds <= interruption;
    const spent = isWhole ? seconds : interruption - run.end;
    if (unit !== undefined) requests.add(run.end, spent, unit);
    run[account === "useful" && !isWhole ? "wasted" : account] += spent;
    run.end += spent;
    if (isWhole) return true;
    run.interruptions += 1;
    interruption = nextInterruption();
    return false;
  };
  let isStarted = false;
  while (run.done < units.length) {
    const unit = units[run.done];
    if (unit === undefined) break;
    if (!isStarted) isStarted = spend(model.startSeconds, "starting");
    else if (spend(unit.seconds, "useful", unit)) run.done += 1;
    else isStarted = false;
  }
  return run;
}

/** Times at which a machine, or the one that replaced it, is taken: the same for all its children. */
function interruptionsOf(machine: number, { seed, interruptionsPerHour }: FleetModel): () => number {
  const key = streamKey(seed, "spot", String(machine));
  let draw = 0;
  let seconds = 0;
  const uniform = (): number => uniformAt(key, draw++);
  return () => {
    if (interruptionsPerHour === 0) return Number.POSITIVE_INFINITY;
    for (;;) {
      seconds += (-Math.log(1 - uniform()) / INTERRUPTIONS_MAX) * 3600;
      if (uniform() < interruptionsPerHour / INTERRUPTIONS_MAX) return seconds;
    }
  };
}

/** Requests by prefix and second, each unit's spread evenly over its time. */
function createRequests(writePrefix: string) {
  const gets = new Map<string, Map<number, number>>();
  const puts = new Map<string, Map<number, number>>();
  const spread = (into: typeof gets, prefix: string, start: number, seconds: number, perSecond: number): void => {
    const bins = into.get(prefix) ?? new Map<number, number>();
    into.set(prefix, bins);
    for (let second = Math.floor(start); second < start + seconds; second += 1) {
      const overlap = Math.min(second + 1, start + seconds) - Math.max(second, start);
      bins.set(second, (bins.get(second) ?? 0) + overlap * perSecond);
    }
  };
  const peaksOf = (bins: typeof gets) =>
    new Map([...bins].map(([prefix, counts]) => [prefix, [...counts.values()].reduce((a, b) => Math.max(a, b), 0)]));
  return {
    add(start: number, seconds: number, unit: SimulatedUnit): void {
      for (const [prefix, bytes] of unit.reads) {
        spread(gets, prefix, start, seconds, bytes / REQUEST_BYTES / unit.seconds);
      }
      if (unit.bytesWritten > 0) {
        spread(puts, writePrefix, start, seconds, unit.bytesWritten / REQUEST_BYTES / unit.seconds);
      }
    },
    peaks: () => ({ getPeaks: peaksOf(gets), putPeaks: peaksOf(puts) }),
  };
}
