// The folder that an argument means: a path or a URI or, with a yard, a name in it. For commands on whole models.
import { resolveModel } from "../steps/resolve-model.ts";
import { openYard } from "../steps/yard.ts";
import type { OpenStore } from "../stores/store.ts";
import { toUri } from "./arguments.ts";
import type { Terminal } from "./terminal.ts";

/**
 * URI of a model's folder. With `yard` a name is looked up there first, as in a recipe. Throws the codes of
 * `steps/resolve-model.ts` and YardMissing.
 */
export async function findModelUri(
  text: string,
  yard: string | undefined,
  openStore: OpenStore,
  terminal: Terminal,
): Promise<string> {
  if (yard === undefined) return toUri(text, terminal.cwd);
  const opened = await openYard(openStore, toUri(yard, terminal.cwd));
  const scope = { openStore, yard: opened, aliases: [], folders: [toUri(".", terminal.cwd)], signal: terminal.signal };
  const { store, prefix } = await resolveModel(scope, text);
  return prefix === "" ? store.uri : `${store.uri}/${prefix.replace(/\/$/, "")}`;
}
