// The simulated fleet: work is conserved, more interruptions never help, and the seed decides everything.
import assert from "node:assert/strict";
import test from "node:test";
import { type FleetModel, INTERRUPTIONS_MAX, type SimulatedUnit, simulateStage } from "../../tools/fleet/simulate.ts";
import { executionEvents, findLimits, simulateFleet } from "../../tools/simulate-fleet.ts";

const UNITS: readonly SimulatedUnit[] = Array.from({ length: 50 }, (_, index) => ({
  seconds: 200 + 37 * (index % 7),
  bytesWritten: 2 ** 30,
  reads: new Map([["checkpoints/a/", 3 * 2 ** 30]]),
}));
const FLEET: FleetModel = {
  seed: 7,
  children: 9,
  childrenPerMachine: 2,
  interruptionsPerHour: 0.5,
  startSeconds: 45,
  machinesPerSecond: 1,
  attempts: 5,
  writePrefix: "runs/R/",
};
const near = (found: number, expected: number) => Math.abs(found - expected) < 1e-6 * Math.max(1, expected);

test("every unit is done once whatever is interrupted, and time is work, lost work and starting", () => {
  const wanted = UNITS.reduce((sum, { seconds }) => sum + seconds, 0);
  for (const interruptionsPerHour of [0, 0.05, 1, INTERRUPTIONS_MAX]) {
    const outcome = simulateStage(UNITS, { ...FLEET, interruptionsPerHour });
    assert.equal(outcome.unitsDone, UNITS.length);
    assert.ok(near(outcome.usefulSeconds, wanted));
    const arrivals = outcome.ends.reduce((sum, _end, child) => sum + Math.floor(child / 2), 0);
    const busy = outcome.ends.reduce((sum, end) => sum + end, 0) - arrivals;
    assert.ok(near(outcome.usefulSeconds + outcome.wastedSeconds + outcome.startingSeconds, busy));
  }
});

test("without interruptions nothing is lost, and a child takes its start and its units", () => {
  const outcome = simulateStage(UNITS, { ...FLEET, interruptionsPerHour: 0, children: 1 });
  assert.deepEqual([outcome.wastedSeconds, outcome.interruptions, outcome.exhausted], [0, 0, 0]);
  assert.ok(near(outcome.makespanSeconds, 45 + outcome.usefulSeconds));
});

test("more interruptions never end a child earlier", () => {
  for (let seed = 0; seed < 20; seed += 1) {
    const rates = [0, 0.05, 0.3, 1, 3, INTERRUPTIONS_MAX];
    const ends = rates.map((rate) => simulateStage(UNITS, { ...FLEET, seed, interruptionsPerHour: rate }).ends);
    ends.slice(1).forEach((later, index) => {
      for (const [child, end] of later.entries()) assert.ok(end >= (ends[index]?.[child] ?? Number.NaN));
    });
  }
});

test("interruptions come as often as the rate says, and the same seed gives the same fleet", () => {
  const rated = { ...FLEET, children: 50, childrenPerMachine: 1, interruptionsPerHour: 2 };
  let [interruptions, hours] = [0, 0];
  for (let seed = 0; seed < 40; seed += 1) {
    const outcome = simulateStage(UNITS, { ...rated, seed });
    interruptions += outcome.interruptions;
    hours += (outcome.usefulSeconds + outcome.wastedSeconds + outcome.startingSeconds) / 3600;
  }
  assert.ok(Math.abs(interruptions / hours - 2) < 0.4, `${interruptions / hours} an hour`);
  assert.deepEqual(simulateStage(UNITS, rated), simulateStage(UNITS, rated));
  assert.notDeepEqual(simulateStage(UNITS, rated).ends, simulateStage(UNITS, { ...rated, seed: 8 }).ends);
});

test("requests are counted where their bytes are, and in the seconds in which they are made", () => {
  const unit = { seconds: 10, bytesWritten: 16 * 2 ** 20 * 20, reads: new Map([["a/", 16 * 2 ** 20 * 100]]) };
  const outcome = simulateStage([unit, unit], { ...FLEET, interruptionsPerHour: 0, children: 2 });
  assert.ok(near(outcome.getPeaks.get("a/") ?? 0, 20));
  assert.ok(near(outcome.putPeaks.get("runs/R/") ?? 0, 4));
});

test("a small merge by the planner's units: limits are in order, and an array is one state however many units", () => {
  const { seed, children, childrenPerMachine, interruptionsPerHour, machinesPerSecond } = FLEET;
  const fleet = { seed, children, childrenPerMachine, interruptionsPerHour, machinesPerSecond };
  const simulation = simulateFleet({ models: 2, layers: 2, shardBytes: 5e9, fleet });
  for (const { units, outcome } of simulation.stages) assert.equal(outcome.unitsDone, units.length);
  const shares = findLimits(simulation).map(({ found, limit }) => found / limit);
  assert.deepEqual(
    shares,
    shares.toSorted((a, b) => b - a),
  );
  assert.ok(shares.every((share) => share > 0 && share < 1));
  assert.equal(executionEvents(3) - executionEvents(2), 10);
});
