// The run that a person means, by its name or its beginning.
import { checkName } from "../../core/artifact/key.ts";
import { layout } from "../../core/artifact/layout.ts";
import { matchName } from "../../core/artifact/name-prefix.ts";
import { MergeyardError } from "../../core/error.ts";
import type { ObjectStore } from "../../stores/store.ts";

/**
 * The run's whole name. Throws StoreNameInvalid, YardRunMissing, YardNameAmbiguous. Cost: one listing of the runs that
 * begin so, where no run has the very name.
 */
export async function findRun(yard: ObjectStore, text: string, signal: AbortSignal): Promise<string> {
  const folder = layout.run(checkName(text));
  for await (const _ of yard.list(folder, { signal })) return text;
  const names = new Set<string>();
  for await (const { key } of yard.list(folder.slice(0, -1), { signal })) names.add(key.split("/")[1] ?? "");
  const run = matchName(text, names, yard.uri);
  if (run !== undefined) return run;
  throw new MergeyardError("YardRunMissing", { where: { store: yard.uri }, found: text });
}
