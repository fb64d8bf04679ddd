// The note that gc leaves in the folder of an upload or a universal checkpoint before it removes it, so that nobody
// begins to use what is going. Whoever plans with a folder looks for the note when the plan is written, and gc looks
// for plans when the note is: whichever comes second sees the other. Nothing is deleted before that.
import * as z from "zod";
import { REMOVAL_NOTE } from "../core/artifact/upload.ts";
import { MergeyardError } from "../core/error.ts";
import type { ObjectStore } from "../stores/store.ts";

export const removalSchema = z.strictObject({
  removal: z.literal(1),
  /** asked: nothing is deleted yet, and perhaps nothing will be. decided: nobody reads the folder, its files go. */
  state: z.enum(["asked", "decided"]),
  /** Of an upload: key of the cache entry that leads from it to its universal checkpoint. */
  cache: z.string().nullable(),
  /** An upload of `push`: the note outlives it. */
  isPushed: z.boolean(),
});

export type Removal = z.infer<typeof removalSchema>;

/** Throws YardRemovalUnderWay when a folder of models is going. */
export async function refuseRemoved(yard: ObjectStore, prefix: string, signal: AbortSignal): Promise<void> {
  if ((await yard.head(`${prefix}${REMOVAL_NOTE}`, { signal })) === undefined) return;
  throw new MergeyardError("YardRemovalUnderWay", { where: { store: yard.uri, file: prefix } });
}
