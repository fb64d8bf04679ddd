// What a golden merge case expects, compared: tensors of a file under a tolerance, and keys of the config.
import { basename, dirname, join } from "node:path";
import * as z from "zod";
import { openCheckpointFile } from "../../steps/open-checkpoint.ts";
import { createDirectoryStore } from "../../stores/directory.ts";
import { failed, PASSED, type Verdict } from "./case.ts";
import type { MergedTensors, MergeOutcome } from "./run-merge.ts";
import { difference, readTensor, readTensors, type Tolerance } from "./tensors.ts";

const toleranceSchema = z.discriminatedUnion("mode", [
  z.object({ mode: z.literal("exact") }),
  z.object({ mode: z.literal("close"), rtol: z.number(), atol: z.number(), allow_fraction: z.number().optional() }),
]);

/** Why a config does not say what is expected; undefined when it does. */
export function compareConfig(config: MergeOutcome["config"], expected: Record<string, unknown>): string | undefined {
  const differing = Object.entries(expected).find(
    ([key, value]) => JSON.stringify(config?.[key]) !== JSON.stringify(value),
  );
  if (differing === undefined) return undefined;
  const [key, value] = differing;
  return `config ${key} is ${JSON.stringify(config?.[key])}, expected ${JSON.stringify(value)}`;
}

/** Names of the tensors of an expected file. */
export async function listTensors(folder: string, expectedFile: string): Promise<readonly string[]> {
  const { checkpoint } = await openExpected(folder, expectedFile);
  return checkpoint.tensors.map(({ name }) => name);
}

/** Every tensor of a file of the set, by name. */
export async function readFileTensors(folder: string, file: string): Promise<MergedTensors> {
  const { store, checkpoint } = await openExpected(folder, file);
  return readTensors(store, checkpoint);
}

/** An expected file of a set. */
export async function openExpected(folder: string, expectedFile: string) {
  const file = join(folder, expectedFile);
  const store = createDirectoryStore(dirname(file), { durable: false });
  const { checkpoint } = await openCheckpointFile(store, basename(file));
  return { store, checkpoint };
}

/** Every named tensor against the one of that name in the expected file. */
export async function compareAll(
  folder: string,
  got: MergedTensors,
  names: readonly string[],
  expectedFile: string,
  toleranceValue: unknown,
): Promise<Verdict> {
  const tolerance: Tolerance = toleranceSchema.parse(toleranceValue);
  const { store, checkpoint } = await openExpected(folder, expectedFile);
  const entries = new Map(checkpoint.tensors.map((tensor) => [tensor.name, tensor]));
  for (const name of names) {
    const [tensor, entry] = [got.get(name), entries.get(name)];
    if (tensor === undefined) return failed(`no tensor ${name}`);
    if (entry === undefined) return failed(`the expected file has no tensor ${name}`);
    const why = difference(tensor, await readTensor(store, entry), tolerance);
    if (why !== undefined) return failed(`${name}: ${why}`);
  }
  return PASSED;
}
