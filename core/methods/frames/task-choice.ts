// Methods that keep what each task needs apart: a recipe says with `task: true` which model's own form the output has,
// and with `emit` whether that is a model, or a part that others put together.
import * as z from "zod";
import type { MergeTensor, Refusal } from "../method.ts";

/** Of each model: the output is for this one's task. */
export const TASK_PARAMETER = { task: z.boolean().default(false) };

/** The chosen model's place among the models beside the base; undefined when none is chosen. */
export function chosenTask({ inputs }: Pick<MergeTensor, "inputs">): number | undefined {
  const place = inputs.filter(({ isBase }) => !isBase).findIndex(({ parameters }) => parameters.task === true);
  return place < 0 ? undefined : place;
}

/** A choice of several models, or of none where one is needed. */
export function refuseChoice({ inputs }: Pick<MergeTensor, "inputs">, isNeeded: boolean): Refusal | undefined {
  const chosen = inputs.filter(({ isBase, parameters }) => !isBase && parameters.task === true);
  const [, second] = chosen;
  if (second !== undefined) {
    return { model: second.model, parameter: "task", found: `${chosen.length} models`, expected: "one model" };
  }
  if (chosen.length === 1 || !isNeeded) return undefined;
  return {
    found: "no model with `task: true`",
    expected: "one model, for whose task the output is",
    hint: "write `task: true` among the parameters of the model",
  };
}
