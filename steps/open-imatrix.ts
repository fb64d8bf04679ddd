// Importance matrices that lie in stores: the one that a command names, and those that a pipeline's outputs name. They
// are read whole, and known by the digest of their bytes from then on.
import { digestBytes } from "../core/artifact/digest.ts";
import { MergeyardError } from "../core/error.ts";
import { type Importance, readImatrix } from "../core/formats/gguf/imatrix.ts";
import { IMATRIX_LIMITS } from "../core/limits.ts";
import type { PlannedImatrix } from "../core/plan/merge-task.ts";
import type { DerivedFile, MergeUnit } from "../core/plan/schema.ts";
import type { Outputs } from "../core/recipe/outputs.ts";
import { readAll } from "../stores/objects.ts";
import { type FilePlace, findNamedFile } from "./named-file.ts";
import type { StepDeps } from "./step.ts";

export type OpenedImatrix = { readonly importance: Importance; readonly digest: string };

type Deps = Pick<StepDeps, "openStore" | "signal">;

/** Throws CheckpointFileMissing, ImatrixInvalid, the Gguf codes, and what the store throws. */
export async function openImatrix({ store: uri, key }: FilePlace, deps: Deps): Promise<OpenedImatrix> {
  const [store, { signal }] = [deps.openStore(uri), deps];
  const size = (await store.head(key, { signal }))?.bytes;
  if (size === undefined) throw new MergeyardError("CheckpointFileMissing", { where: { store: uri, file: key } });
  if (size > IMATRIX_LIMITS.bytes) {
    const where = { store: uri, file: key };
    throw new MergeyardError("ImatrixInvalid", { where, found: `${size} bytes`, expected: `${IMATRIX_LIMITS.bytes}` });
  }
  const bytes = await readAll(store, key, IMATRIX_LIMITS.bytes, { signal });
  const read = async (offset: number, count: number) => bytes.slice(offset, offset + count);
  const importance = await readImatrix(read, { name: key, bytes: bytes.length });
  return { importance, digest: digestBytes(bytes) };
}

/**
 * The matrices that outputs name, by their names: URIs, absolute paths, or paths that are tried in the folders.
 * Throws what `openImatrix` throws.
 */
export async function openImatrices(
  { gguf }: Outputs,
  folders: readonly string[],
  deps: Deps,
): Promise<ReadonlyMap<string, PlannedImatrix>> {
  const opened = new Map<string, PlannedImatrix>();
  for (const { imatrix } of gguf) {
    if (imatrix === undefined || opened.has(imatrix)) continue;
    const place = await findNamedFile(imatrix, folders, deps);
    opened.set(imatrix, { ...place, ...(await openImatrix(place, deps)) });
  }
  return opened;
}

/**
 * By the unit's derived files, the importance of their tensors. Throws ImatrixInvalid for a file that is not what the
 * plan saw, and what `openImatrix` throws.
 */
export async function openUnitImportance(
  { derived }: MergeUnit,
  deps: Deps,
): Promise<readonly (Importance | undefined)[]> {
  const opened = new Map<string, Promise<Importance>>();
  return Promise.all(
    derived.map((file) => {
      const imatrix = imatrixOf(file);
      if (imatrix === undefined) return undefined;
      const own = opened.get(imatrix.digest) ?? openPlanned(imatrix, deps);
      opened.set(imatrix.digest, own);
      return own;
    }),
  );
}

function imatrixOf(file: DerivedFile) {
  return file.format === "gguf" ? file.imatrix : undefined;
}

async function openPlanned(planned: FilePlace & { readonly digest: string }, deps: Deps): Promise<Importance> {
  const { importance, digest } = await openImatrix(planned, deps);
  if (digest === planned.digest) return importance;
  const where = { store: planned.store, file: planned.key };
  throw new MergeyardError("ImatrixInvalid", { where, found: digest, expected: planned.digest });
}
