// The formats of quantized checkpoints and the schemes that each holds: GGUF files, and the folders that servers load.
import { MIXES } from "./mixes.ts";
import { FOLDER_SCHEMES } from "./registry.ts";

/** Ids of schemes by the id of their format. */
export const FORMAT_SCHEMES: ReadonlyMap<string, readonly string[]> = new Map([
  ["gguf", [...MIXES.keys()]],
  ...[...Map.groupBy(FOLDER_SCHEMES.values(), ({ form }) => form.container)].map(
    ([container, schemes]) => [container, schemes.map(({ id }) => id)] as const,
  ),
]);
