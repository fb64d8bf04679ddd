// The conformance suite of the interpreter: tiny machines, each with the output, error, calls and times that Amazon
// States Language gives it.
import { test } from "node:test";
import { dataCases } from "./cases-data.ts";
import { fanOutCases } from "./cases-fan-out.ts";
import { limitCases } from "./cases-limits.ts";
import { taskCases } from "./cases-task.ts";
import { checkCase } from "./machine-case.ts";

for (const machine of [...dataCases, ...taskCases, ...fanOutCases, ...limitCases]) {
  test(machine.name, () => checkCase(machine));
}
