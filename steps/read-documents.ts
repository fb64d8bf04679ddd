// Fetches the small documents beside a model's weights that a plan reads, such as its tokenizer.
import type { Checkpoint } from "../core/checkpoint.ts";
import { MergeyardError } from "../core/error.ts";
import { TOKENIZER_LIMITS } from "../core/limits.ts";
import { readAll } from "../stores/objects.ts";
import type { FolderPlace } from "../stores/store.ts";

/**
 * Those of `names` that the checkpoint in the folder has, as files or in other words. Throws PlanDocumentInvalid, and
 * what the store throws.
 */
export async function readDocuments(
  { store, prefix }: FolderPlace,
  checkpoint: Checkpoint,
  names: readonly string[],
  signal: AbortSignal,
): Promise<ReadonlyMap<string, Uint8Array>> {
  const documents = new Map<string, Uint8Array>();
  for (const { name, bytes } of checkpoint.sideFiles.filter((file) => names.includes(file.name))) {
    if (bytes > TOKENIZER_LIMITS.bytes) {
      const where = { store: store.uri, file: `${prefix}${name}` };
      const expected = `at most ${TOKENIZER_LIMITS.bytes} bytes`;
      throw new MergeyardError("PlanDocumentInvalid", { where, found: `${bytes} bytes`, expected });
    }
    documents.set(name, await readAll(store, `${prefix}${name}`, TOKENIZER_LIMITS.bytes, { signal }));
  }
  for (const [name, bytes] of checkpoint.documents ?? []) {
    if (names.includes(name) && !documents.has(name)) documents.set(name, bytes);
  }
  return documents;
}
