// Small models in files, for tests of commands: F32 tensors given as numbers, and back.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { main } from "../../cli/main.ts";
import { encodeSafetensorsFile } from "../../core/formats/safetensors/safetensors.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { createDirectoryStore } from "../../stores/directory.ts";
import { readTensor, valuesOf } from "../../tools/golden/tensors.ts";
import { createRecorder } from "./recorder.ts";

export type PlainTensor = { readonly shape: readonly number[]; readonly values: readonly number[] };
export type PlainTensors = Readonly<Record<string, PlainTensor>>;

/** Writes one safetensors file, and documents beside it by name. */
export function writePlainModel(
  folder: string,
  file: string,
  tensors: PlainTensors,
  documents: Readonly<Record<string, unknown>> = {},
): void {
  const specs = Object.entries(tensors).map(([name, { shape }]) => ({ name, dtype: "F32" as const, shape }));
  mkdirSync(folder, { recursive: true });
  const bytes = encodeSafetensorsFile(specs, ({ name }) => Float32Array.from(tensors[name]?.values ?? []));
  writeFileSync(path.join(folder, file), bytes);
  for (const [name, document] of Object.entries(documents)) {
    writeFileSync(path.join(folder, name), JSON.stringify(document));
  }
}

/** Tensors of a folder. */
export async function readPlainModel(folder: string): Promise<Record<string, PlainTensor>> {
  const store = createDirectoryStore(folder, { durable: false });
  const { checkpoint } = await openCheckpoint(store, "");
  const entries = checkpoint.tensors.map(async (entry) => {
    const tensor = await readTensor(store, entry);
    return [entry.name, { shape: tensor.shape, values: [...valuesOf(tensor)] }] as const;
  });
  return Object.fromEntries(await Promise.all(entries));
}

/** Runs a command with `--json`: its document, or its error with the exit status. */
export async function runJson(cwd: string, ...args: readonly string[]): Promise<Record<string, unknown>> {
  const terminal = createRecorder({ cwd });
  const status = await main([...args, "--json"], terminal);
  return status === 0 ? JSON.parse(terminal.out()) : { status, ...JSON.parse(terminal.err()).error };
}

/** A folder of models of its own, for commands that run in it. */
export function createModelsFolder(prefix: string) {
  const cwd = mkdtempSync(path.join(tmpdir(), prefix));
  const at = (folder: string): string => path.join(cwd, folder);
  return {
    cwd,
    run: (...args: readonly string[]) => runJson(cwd, ...args),
    read: (folder: string) => readPlainModel(at(folder)),
    write: (folder: string, file: string, tensors: PlainTensors, documents: Readonly<Record<string, unknown>>) =>
      writePlainModel(at(folder), file, tensors, documents),
    remove: () => rmSync(cwd, { recursive: true }),
  };
}
