// The folder that a command makes by one step: whole in its place, or not there.
import path from "node:path";
import { beginOutputFolder } from "../local/output-folder.ts";
import type { StepDeps } from "../steps/step.ts";
import { createStoreOpener } from "../stores/open.ts";
import { isUri, toOutputUri } from "./arguments.ts";
import { findModelUri } from "./model-uri.ts";
import { createStepDeps } from "./step-deps.ts";
import type { Terminal } from "./terminal.ts";

/** A folder while it is made: the URI to write to, and what makes it stay or go. */
export type CommandOutput = {
  readonly target: string;
  commit(): Promise<void>;
  discard(): Promise<void>;
};

/**
 * A local folder takes the place of `out` when it is committed. An object store has no rename: there the step itself
 * writes last what makes the target a checkpoint. Throws CliOutputOccupied.
 */
export async function openOutput(out: string, terminal: Terminal): Promise<CommandOutput> {
  if (isUri(out)) {
    return { target: toOutputUri(out, terminal.cwd), commit: async () => {}, discard: async () => {} };
  }
  const output = await beginOutputFolder(path.resolve(terminal.cwd, out), { force: undefined });
  return { target: toOutputUri(output.path, terminal.cwd), commit: output.commit, discard: output.discard };
}

/** What `intoFolder` tells its work: where to write, and how the models of the command's arguments are found. */
export type FolderWork = {
  readonly target: string;
  readonly deps: StepDeps;
  readonly find: (model: string) => Promise<string>;
};

/**
 * Runs `work` with the URI of a folder that takes the place of `out` when it resolves; models are looked up in `yard`
 * too. Throws CliOutputOccupied.
 */
export async function intoFolder<T>(
  { out, yard }: { readonly out: string; readonly yard?: string },
  terminal: Terminal,
  work: (making: FolderWork) => Promise<T>,
): Promise<T> {
  const output = await openOutput(out, terminal);
  try {
    const openStore = createStoreOpener(terminal.env);
    const find = (model: string) => findModelUri(model, yard, openStore, terminal);
    const result = await work({ target: output.target, deps: createStepDeps(terminal, openStore), find });
    await output.commit();
    return result;
  } catch (error) {
    await output.discard();
    throw error;
  }
}
