// Converting into a format whose files are planned from parameters: torch, DeepSpeed, distributed checkpoints. Files
// are written side by side across a network; the one that makes the folder a checkpoint comes when all others are
// whole.
import { type CheckpointWarning, parametersIn, type WritableCheckpoint } from "../../core/formats/format.ts";
import type { PlannedFile } from "../../core/formats/planned-file.ts";
import type { TargetFormat, Topology } from "../../core/formats/target.ts";
import { mapBounded } from "../../core/map-bounded.ts";
import type { FloatDtype } from "../../core/ops/cast.ts";
import { SHARD_BYTES_DEFAULT } from "../../core/plan/defaults.ts";
import { checkSource } from "../../engine/checked-source.ts";
import type { ObjectStore } from "../../stores/store.ts";
import type { StepDeps } from "../step.ts";
import { writePlanned } from "./write-planned.ts";

/** Files written at one time where a network answers late; each holds a few windows. */
const FILES_IN_FLIGHT = 4;
const ONE_RANK: Topology = { tp: 1, pp: 1, dp: 1, zero: 1 };

export type WrittenFile = { readonly name: string; readonly bytes: number };
type Ends = { readonly source: ObjectStore; readonly target: ObjectStore; readonly deps: StepDeps };

/** What the caller chose of the target. */
export type TargetChoice = {
  readonly topology?: Topology | undefined;
  readonly vocabularyMultiple?: number | undefined;
  readonly computeDtype?: FloatDtype | undefined;
};

type WrittenTarget = {
  readonly files: readonly WrittenFile[];
  readonly warnings: readonly CheckpointWarning[];
  /** Writes the file that makes the folder a checkpoint. */
  finish(): Promise<void>;
};

/**
 * Writes every file but the last, and returns them with what writes the last: side files may come in between.
 * Throws what the format's plan throws, UniversalReplicasDisagree, YardFileCorrupt, and what the stores throw.
 */
export async function writeTarget(
  { source, target, deps }: Ends,
  opened: WritableCheckpoint,
  format: TargetFormat,
  { topology = ONE_RANK, vocabularyMultiple, computeDtype }: TargetChoice,
): Promise<WrittenTarget> {
  const {
    files,
    last,
    warnings = [],
  } = format.plan({
    source: opened.checkpoint,
    parameters: parametersIn(opened),
    training: opened.training,
    shardBytes: SHARD_BYTES_DEFAULT,
    topology,
    vocabularyMultiple,
    computeDtype,
  });
  const checked = checkSource(source, "", opened.listings ?? []);
  let bytesWritten = 0;
  const write = async (file: PlannedFile): Promise<void> => {
    const [from, to] = [
      { store: checked.store, prefix: "" },
      { store: target, key: file.name },
    ];
    await writePlanned(from, file, to, deps.signal, (bytes) => {
      bytesWritten += bytes;
      deps.progress?.({ bytesRead: bytesWritten, bytesWritten });
    });
  };
  // On one machine one after the other: ranks' pieces of a tensor then come in order, and none is read again for its
  // digest.
  await mapBounded(files, write, source.isLocal && target.isLocal ? 1 : FILES_IN_FLIGHT);
  await checked.finish({ signal: deps.signal });
  const all = last === undefined ? files : [...files, last];
  return {
    files: all.map(({ name, bytes }) => ({ name, bytes })),
    warnings,
    finish: async () => {
      if (last !== undefined) await write(last);
    },
  };
}
