// The folder that a command makes by one step: whole in its place, or not there.
import path from "node:path";
import { MergeyardError } from "../core/error.ts";
import { beginOutputFolder } from "../local/output-folder.ts";
import type { StepDeps } from "../steps/step.ts";
import { createStoreOpener } from "../stores/open.ts";
import { isUri, toOutputUri } from "./arguments.ts";
import { findModelUri } from "./model-uri.ts";
import { createStepDeps } from "./step-deps.ts";
import type { Terminal } from "./terminal.ts";

/** What `intoFolder` tells its work: where to write, and how the models of the command's arguments are found. */
export type FolderWork = {
  readonly target: string;
  readonly deps: StepDeps;
  readonly find: (model: string) => Promise<string>;
};

/**
 * Runs `work` with the URI of a folder that takes the place of `out` when it resolves; models are looked up in `yard`
 * too. An object store has no rename: there the step itself writes last what makes the target a checkpoint, and nothing
 * is replaced. Throws CliOutputOccupied, CliUsage.
 */
export async function intoFolder<T>(
  { out, yard, force }: { readonly out: string; readonly yard?: string; readonly force: boolean },
  terminal: Terminal,
  work: (making: FolderWork) => Promise<T>,
): Promise<T> {
  if (force && isUri(out)) throw notReplaced(out);
  const folder = isUri(out) ? undefined : await beginOutputFolder(path.resolve(terminal.cwd, out), { force });
  try {
    const openStore = createStoreOpener(terminal.env);
    const result = await work({
      target: toOutputUri(folder?.path ?? out, terminal.cwd),
      deps: createStepDeps(terminal, openStore),
      find: (model) => findModelUri(model, yard, openStore, terminal),
    });
    await folder?.commit();
    return result;
  } catch (error) {
    throw folder === undefined ? error : await folder.discard(error);
  }
}

/** A former output goes when the new one is whole, which takes a rename. */
function notReplaced(out: string): MergeyardError {
  const expected = "a folder of this machine; remove what an object store holds by its own tools";
  return new MergeyardError("CliUsage", { where: { field: "--force" }, found: out, expected });
}
