// Lambda: ticks of the clock, as EventBridge Scheduler sends them → the step `on-schedule` → started executions.
import * as z from "zod";
import { onScheduleStep } from "../steps/on-schedule.ts";
import { runStep } from "../steps/step.ts";
import { createExecutionClient, type ExecutionClient, readTrigger } from "./executions.ts";
import { createQueueLambda } from "./queue.ts";

/** A tick looks at the minutes since the tick before it, whenever it arrives itself. */
const messageSchema = z.strictObject({ scheduledTime: z.iso.datetime(), minutes: z.int().positive() });

/** The handler of one deployment; `client` starts its executions. */
export function createOnSchedule(environment: Readonly<Record<string, string | undefined>>, client: ExecutionClient) {
  return createQueueLambda({
    name: "on-schedule",
    message: messageSchema,
    groupOf: ({ scheduledTime }) => scheduledTime,
    async work({ scheduledTime, minutes }, deps) {
      const { yard, startAll } = readTrigger(environment, client);
      const untilMs = Date.parse(scheduledTime);
      const { starts } = await runStep(onScheduleStep, { yard, afterMs: untilMs - minutes * 60_000, untilMs }, deps);
      await startAll(starts, deps);
    },
  });
}

export const handler = createOnSchedule(process.env, createExecutionClient());
