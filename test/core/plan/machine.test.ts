// The choice of machine: which queue, how many vCPU and how much memory the jobs of a stage get.
import assert from "node:assert/strict";
import test from "node:test";
import { chooseMachine, engineBytes, type Fleet, fleetSchema, heaviest } from "../../../core/plan/machine.ts";

const MIB = 2 ** 20;
const gpu = { vcpus: 4, memoryMiB: 14_336 };
const fleet: Fleet = { cpu: { vcpus: 2, memoryMiB: 3584, memoryMiBMax: 65_536 }, gpu };
const stage = { work: "element", peakBytes: 300 * MIB, bytesRead: 10, bytesWritten: 10 } as const;

test("a stage that fits gets the usual job, one that does not the memory whose engine share holds its bound", () => {
  assert.deepEqual([chooseMachine(stage, fleet).memoryMiB, chooseMachine(stage, fleet).vcpus], [3584, 2]);
  for (const gibibytes of [2.2, 7, 15.3, 37]) {
    const peakBytes = Math.floor(gibibytes * 2 ** 30);
    const { memoryMiB } = chooseMachine({ ...stage, work: "tensor", peakBytes }, fleet);
    assert.ok(engineBytes(memoryMiB) >= peakBytes, `${gibibytes} GiB: ${memoryMiB} MiB`);
    assert.ok(memoryMiB * 0.6 * MIB - peakBytes < 1024 * MIB, "no more than a step too much");
  }
});

test("whatever fits the largest engine's bound fits the largest job", () => {
  const { memoryMiBMax } = fleet.cpu;
  const { memoryMiB } = chooseMachine({ ...stage, peakBytes: engineBytes(memoryMiBMax) }, fleet);
  assert.ok(memoryMiB <= memoryMiBMax && engineBytes(memoryMiB) >= engineBytes(memoryMiBMax));
});

test("no work of this version goes to a GPU, and the reason is said", () => {
  for (const work of ["move", "element", "row", "slice", "tensor"] as const) {
    const { queue, reason } = chooseMachine({ ...stage, work }, fleet);
    assert.equal(queue, "cpu");
    assert.ok(reason.length > 20, work);
  }
});

test("work that has GPU kernels goes to the GPU queue where there is one that is large enough", () => {
  const kernels = new Set(["tensor"] as const);
  const tensor = { ...stage, work: "tensor" } as const;
  const chosen = chooseMachine(tensor, fleet, kernels);
  assert.deepEqual([chosen.queue, chosen.vcpus, chosen.memoryMiB], ["gpu", 4, 14_336]);
  assert.equal(chooseMachine(stage, fleet, kernels).queue, "cpu");
  assert.equal(chooseMachine(tensor, { ...fleet, gpu: null }, kernels).queue, "cpu");
  assert.equal(chooseMachine({ ...tensor, peakBytes: 40 * 2 ** 30 }, fleet, kernels).queue, "cpu");
});

test("a stage of which nothing passes the worker needs one vCPU", () => {
  assert.equal(chooseMachine({ ...stage, work: "move", bytesRead: 0, bytesWritten: 0 }, fleet).vcpus, 1);
});

test("the heaviest work decides, and a fleet whose largest job is smaller than the usual one is refused", () => {
  assert.equal(heaviest(["move", "row", "element"]), "row");
  assert.equal(heaviest([]), "move");
  assert.ok(!fleetSchema.safeParse({ cpu: { vcpus: 1, memoryMiB: 4096, memoryMiBMax: 2048 }, gpu: null }).success);
});
