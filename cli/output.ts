// The folder that a command makes by one step: whole in its place, or not there.
import path from "node:path";
import type { StepDeps } from "../steps/step.ts";
import { toOutputUri } from "./arguments.ts";
import { createStepDeps } from "./step-deps.ts";
import type { Terminal } from "./terminal.ts";

/** Runs `work` with the URI of a folder that takes the place of `out` when it resolves. Throws CliOutputOccupied. */
export async function intoFolder<T>(
  { out }: { readonly out: string },
  terminal: Terminal,
  work: (target: string, deps: StepDeps) => Promise<T>,
): Promise<T> {
  const [{ createStoreOpener }, { beginOutputFolder }] = await Promise.all([
    import("../stores/open.ts"),
    import("../local/output-folder.ts"),
  ]);
  const output = await beginOutputFolder(path.resolve(terminal.cwd, out), { force: false });
  try {
    const openStore = createStoreOpener(terminal.env);
    const result = await work(toOutputUri(output.path, terminal.cwd), createStepDeps(terminal, openStore));
    await output.commit();
    return result;
  } catch (error) {
    await output.discard();
    throw error;
  }
}
