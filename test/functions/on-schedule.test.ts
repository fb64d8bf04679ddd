import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createOnSchedule } from "../../functions/on-schedule.ts";
import { newYard, putText } from "../steps/deps.ts";
import { recipe } from "../steps/pipeline.ts";
import { fakeExecutions, STATE_MACHINE } from "./fake-executions.ts";
import { lambdaContext } from "./lambda-context.ts";

const TICK_MINUTES = 5;
const DAY = Date.parse("2026-11-24T00:00:00Z");

async function watchedYard(schedules: Readonly<Record<string, string>>) {
  const yard = await newYard();
  for (const [name, schedule] of Object.entries(schedules)) {
    const on = schedule === "" ? "" : `\non: { schedule: "${schedule}" }`;
    await putText(yard, `pipelines/${name}.yaml`, recipe(0.5).replace("name: small", `name: small${on}`));
  }
  const executions = fakeExecutions();
  const handler = createOnSchedule({ MERGEYARD_YARD: yard.uri, MERGEYARD_STATE_MACHINE: STATE_MACHINE }, executions);
  /** Delivers ticks as one batch. */
  const tick = async (...ticks: readonly number[]) => {
    const Records = ticks.map((timeMs, index) => ({ messageId: String(index), body: tickBody(timeMs) }));
    return handler({ Records }, lambdaContext());
  };
  return { yard, executions, handler, tick };
}

/** As EventBridge Scheduler fills in its context attribute: no milliseconds. */
function tickBody(timeMs: number): string {
  const scheduledTime = new Date(timeMs).toISOString().replace(".000Z", "Z");
  return JSON.stringify({ scheduledTime, minutes: TICK_MINUTES });
}

const nameOf = (name: string) => name.replace(/-[0-9a-f]{16}$/, "");

test("a day of ticks starts each pipeline at its times, in whatever order and however often they come", async () => {
  const schedules = { nightly: "cron(0 2 * * ? *)", shifts: "cron(3 0/8 * * ? *)", weekly: "cron(0 2 ? * MON *)" };
  const ticks = Array.from({ length: 288 }, (_, index) => DAY + (index + 1) * TICK_MINUTES * 60_000);
  await fc.assert(
    fc.asyncProperty(fc.shuffledSubarray(ticks, { minLength: ticks.length }), fc.boolean(), async (order, ended) => {
      const { executions, tick } = await watchedYard({ ...schedules, uploads: "" });
      await tick(...order);
      if (ended) executions.endAll();
      await tick(...order.slice(0, 100));
      assert.deepEqual([...executions.started.keys()].map(nameOf).sort(), [
        "schedule-20261124T0003-shifts",
        "schedule-20261124T0200-nightly",
        "schedule-20261124T0803-shifts",
        "schedule-20261124T1603-shifts",
      ]);
    }),
    { numRuns: 2 },
  );
});

test("a schedule that is finer than the ticks starts once a tick", async () => {
  const { executions, tick } = await watchedYard({ often: "rate(1 minute)" });
  await tick(DAY + 5 * 60_000, DAY + 10 * 60_000);
  const names = [...executions.started.keys()].map(nameOf);
  assert.deepEqual(names, ["schedule-20261124T0005-often", "schedule-20261124T0010-often"]);
});

test("a pipeline whose schedule is wrong does not keep the others from starting", async () => {
  const { executions, tick } = await watchedYard({ wrong: "daily(2)", right: "cron(0 2 * * ? *)" });
  const { batchItemFailures } = await tick(DAY + 2 * 3_600_000);
  assert.deepEqual(batchItemFailures, []);
  assert.deepEqual([...executions.started.keys()].map(nameOf), ["schedule-20261124T0200-right"]);
});

test("a yard that is no yard fails the tick, which comes again", async () => {
  const { yard, executions, tick } = await watchedYard({ right: "cron(0 2 * * ? *)" });
  await yard.delete("yard.json");
  assert.deepEqual(await tick(DAY + 2 * 3_600_000), { batchItemFailures: [{ itemIdentifier: "0" }] });
  await initYardAgain(yard);
  assert.deepEqual(await tick(DAY + 2 * 3_600_000), { batchItemFailures: [] });
  assert.equal(executions.started.size, 1);
});

async function initYardAgain(yard: Parameters<typeof putText>[0]): Promise<void> {
  await putText(yard, "yard.json", '{"yard": 1}');
}

test("names stay within the service's 80 characters", async () => {
  const { executions, tick } = await watchedYard({ [`${"long".repeat(30)}.v1`]: "cron(0 2 * * ? *)" });
  await tick(DAY + 2 * 3_600_000);
  assert.equal([...executions.started.keys()][0]?.length, 80);
});
