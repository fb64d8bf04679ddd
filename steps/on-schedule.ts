// What to do when the clock ticks: start the pipelines whose schedule fell due since the tick before. Whether there is
// anything to merge is the plan's business; most nights it finds nothing changed and the execution ends.
import * as z from "zod";
import { parseSchedule } from "../core/recipe/schedule.ts";
import { uri } from "../core/schema-atoms.ts";
import { findStarts, type StartCause, type StoredPipeline, startsSchema } from "./pipeline-starts.ts";
import { defineStep } from "./step.ts";
import { openYard } from "./yard.ts";

const time = z.int().nonnegative();

export const onScheduleStep = defineStep({
  name: "on-schedule",
  input: z.strictObject({
    yard: uri,
    /** The time looked at: (afterMs, untilMs]. */
    afterMs: time,
    untilMs: time,
  }),
  output: startsSchema,
  async run({ yard: uri, afterMs, untilMs }, deps) {
    const yard = await openYard(deps.openStore, uri);
    return findStarts(yard, deps, (pipeline) => scheduleCauses(pipeline, { afterMs, untilMs }));
  },
});

/** The latest time in (afterMs, untilMs] at which a pipeline's schedule fell due. Throws RecipeScheduleInvalid. */
export function scheduleCauses(
  { key, recipe }: StoredPipeline,
  { afterMs, untilMs }: { readonly afterMs: number; readonly untilMs: number },
): readonly StartCause[] {
  const schedule = recipe.pipeline.on?.schedule;
  if (schedule == null) return [];
  const dueMs = parseSchedule(schedule, { file: key, field: "on.schedule" }).latestDue(afterMs, untilMs);
  if (dueMs === undefined) return [];
  const words = new Date(dueMs)
    .toISOString()
    .replace(/:\d\d\.\d+Z$/, "")
    .replace(/[-:]/g, "");
  return [{ cause: String(dueMs), words: `schedule-${words}` }];
}
