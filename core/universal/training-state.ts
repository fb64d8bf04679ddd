// What a trainer saved beside its tensors, as plain JSON: counters, hyper-parameters of the optimizer's groups, the
// loss scaler, its configuration. Kept in universal.json, so that a checkpoint for another topology can be written.
// Whatever is no plain value (random states, objects of the trainer's own) is not kept, and named in a warning.
import * as z from "zod";
import { jsonSchema } from "../schema-atoms.ts";
import { DTYPES } from "../tensor.ts";

const jsonObject = z.record(z.string(), jsonSchema);

const ranks = z.int().positive();

export const trainingStateSchema = z.strictObject({
  /** Dtype of the weights that the ranks compute with; the master weights are F32. */
  weights: z.enum(DTYPES),
  /** Ranks that saved it, and the stage of ZeRO by which they shared it, where the source tells. */
  topology: z.strictObject({ tp: ranks, pp: ranks, dp: ranks, zero: z.literal([1, 2, 3]).optional() }).optional(),
  /** Hyper-parameters of each optimizer group, in order. */
  groups: z.array(jsonObject),
  /** Of the optimizer as a whole: its loss scaler, for one. */
  optimizer: jsonObject,
  /** What the model's file says beside the weights, by its own names. */
  client: jsonObject,
});

export type TrainingState = z.infer<typeof trainingStateSchema>;
