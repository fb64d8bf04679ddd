// Files that a recipe's outputs name: importance matrices and Hessians. Where they lie is found here; open-imatrix.ts
// and open-hessians.ts read them.
import { MergeyardError } from "../core/error.ts";
import { resolveUri } from "./resolve-model.ts";
import type { StepDeps } from "./step.ts";

/** A file and the folder that has it. */
export type FilePlace = { readonly store: string; readonly key: string };

/**
 * A file that an output names: a URI, an absolute path, or a path that is tried in the folders.
 * Throws CheckpointFileMissing.
 */
export async function findNamedFile(
  path: string,
  folders: readonly string[],
  deps: Pick<StepDeps, "openStore" | "signal">,
): Promise<FilePlace> {
  const isInside = !/^\/|:\/\/|(^|\/)\.{1,2}\//.test(path);
  const places = isInside
    ? folders.map((store) => ({ store, key: path }))
    : folders.map((folder) => split(folder, path));
  for (const { store, key } of places) {
    if ((await deps.openStore(store).head(key, { signal: deps.signal })) !== undefined) return { store, key };
  }
  const expected = places.map(({ store, key }) => `${store}/${key}`).join(" or ");
  throw new MergeyardError("CheckpointFileMissing", { where: { file: path }, expected });
}

/** A URI, an absolute path or one that leads out of the folder. */
function split(folder: string, path: string): FilePlace {
  const uri = path.includes("://") ? path : resolveUri(folder, path);
  const slash = uri.lastIndexOf("/");
  return { store: uri.slice(0, slash), key: decodeURIComponent(uri.slice(slash + 1)) };
}
