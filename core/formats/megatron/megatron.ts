// Megatron-LM's torch_dist: a distributed checkpoint of torch with names of its own. Layers of a kind lie stacked on a
// leading axis and are taken apart; master weights and moments that the distributed optimizer saves for each parameter
// join it. Names stay Megatron's, the padding of the vocabulary stays, and what is no tensor is left out.
// Source: reference checkpoint-formats.md section 6.2; NVIDIA/Megatron-LM (August 2026), megatron/core:
// dist_checkpointing/strategies/torch.py, dist_checkpointing/core.py, optimizer/distrib_optimizer.py
// (sharded_param_state_fs_model_space).
import * as z from "zod";
import type { CheckpointFile, FolderReader } from "../../checkpoint.ts";
import { type ErrorCode, MergeyardError } from "../../error.ts";
import { FOLDER_LIMITS, RANK_LIMITS } from "../../limits.ts";
import type { ConversionParameter } from "../../universal/conversion.ts";
import { type DcpTensors, readDcp, warnOf } from "../dcp/dcp.ts";
import { trainingOf } from "../dcp/groups.ts";
import { type CheckpointFormat, type CheckpointWarning, type OpenedCheckpoint, openedInPieces } from "../format.ts";
import { parseJsonDocument } from "../json-scan.ts";
import { readSideFiles } from "../side-files.ts";
import { patternWhole } from "../whole-patterns.ts";
import { foldStates, joinHalves, splitStacks, undoFlattening } from "./tensors.ts";

const TRACKER = "latest_checkpointed_iteration.txt";
const CONFIG = "metadata.json";
const STEP_CONFIG = /^(?:(.*\/)?)metadata\.json$/;
const BACKEND = "torch_dist";
const FAMILY = "megatron-core";

const configSchema = z.object({ sharded_backend: z.string() });

export const megatron = Object.freeze({
  id: "megatron",
  title: "Megatron-LM checkpoint (torch_dist)",
  recognise: (files) => stepsOf(files).length > 0,
  open: openMegatron,
} satisfies CheckpointFormat);

/** Folders, "" or with their slash, that hold `metadata.json` beside `.metadata`. */
function stepsOf(files: readonly CheckpointFile[]): readonly string[] {
  const names = new Set(files.map(({ name }) => name));
  return files.flatMap(({ name }) => {
    const match = STEP_CONFIG.exec(name);
    const prefix = match?.[1] ?? "";
    return match !== null && names.has(`${prefix}.metadata`) ? [prefix] : [];
  });
}

async function openMegatron(folder: FolderReader): Promise<OpenedCheckpoint> {
  const prefix = await findStep(folder);
  await checkBackend(folder, `${prefix}${CONFIG}`);
  const dcp = await readDcp(folder, prefix);
  const iteration = /(?:^|\/)iter_(\d{1,15})\/$/.exec(prefix)?.[1];
  const { parameters, ignored } = foldStates(
    joinHalves(splitStacks(undoFlattening(dcp))),
    iteration === undefined ? undefined : Number(iteration),
  );
  const patterned = patternWhole(parameters, { given: folder.patterns, family: FAMILY, prefix });
  const opened = await assemble(folder, { prefix, dcp, parameters: patterned.parameters, ignored });
  const training = trainingOf(patterned.parameters, [], patterned.added);
  const warnings = [...opened.warnings, ...patterned.warnings];
  return { ...opened, training, family: patterned.family, warnings };
}

function megatronError(code: ErrorCode, file: string, found: string, expected: string): MergeyardError {
  return new MergeyardError(code, { where: { file }, found: found.slice(0, 200), expected });
}

/** The step that the tracker names, or the only one. */
async function findStep(folder: FolderReader): Promise<string> {
  const steps = stepsOf(folder.files);
  const tracker = folder.files.find(({ name }) => name === TRACKER);
  const [only = "", ...others] = steps;
  if (tracker === undefined || steps.includes("")) {
    if (others.length === 0) return only;
    throw megatronError("CheckpointAmbiguous", TRACKER, `no such file, and ${steps.length} steps`, "one step");
  }
  const bytes = await folder.read(tracker.name, 0, Math.min(tracker.bytes, RANK_LIMITS.textBytes));
  const text = new TextDecoder().decode(bytes).trim();
  if (!/^(\d{1,15}|release)$/.test(text)) {
    throw megatronError("DcpPathInvalid", TRACKER, JSON.stringify(text), "an iteration, or release");
  }
  const step = text === "release" ? "release/" : `iter_${text.padStart(7, "0")}/`;
  if (steps.includes(step)) return step;
  throw megatronError("DcpFileMissing", TRACKER, steps.join(", "), `${step}, which it names`);
}

async function checkBackend(folder: FolderReader, file: string): Promise<void> {
  const { bytes = 0 } = folder.files.find(({ name }) => name === file) ?? {};
  if (bytes > FOLDER_LIMITS.configBytes) {
    throw megatronError("DcpMetadataInvalid", file, `${bytes} bytes`, `at most ${FOLDER_LIMITS.configBytes}`);
  }
  const value = parseJsonDocument(await folder.read(file, 0, bytes), {
    refuse: ({ found, expected }) => megatronError("DcpMetadataInvalid", file, found, expected),
  });
  const parsed = configSchema.safeParse(value);
  if (!parsed.success) throw megatronError("DcpMetadataInvalid", file, "no sharded_backend", BACKEND);
  const { sharded_backend: backend } = parsed.data;
  if (backend !== BACKEND) throw megatronError("DcpUnsupported", file, `the backend ${backend}`, BACKEND);
}

type Parts = {
  readonly prefix: string;
  readonly dcp: DcpTensors;
  readonly parameters: readonly ConversionParameter[];
  /** Tensors of an optimizer that are left out. */
  readonly ignored: readonly string[];
};

async function assemble(folder: FolderReader, { prefix, dcp, parameters, ignored }: Parts): Promise<OpenedCheckpoint> {
  const { sideFiles, config, warnings } = await readSideFiles(folder, dcp.files);
  const own = new Set([TRACKER, `${prefix}${CONFIG}`]);
  const where = { file: prefix };
  const isTrained = parameters.some(({ training }) => training !== undefined);
  const left: CheckpointWarning[] = [
    ...(ignored.length === 0
      ? []
      : [{ code: "OptimizerStateIgnored" as const, where, found: ignored.slice(0, 5).join(", ") }]),
    ...(isTrained ? [] : [{ code: "OptimizerStatesMissing" as const, where }]),
    ...(parameters.some(({ name }) => name.endsWith("word_embeddings.weight"))
      ? [{ code: "VocabularyPaddingKept" as const, where, expected: "the tokenizer's own size" }]
      : []),
  ];
  const others = sideFiles.filter(({ name }) => !own.has(name));
  return openedInPieces({ format: megatron.id, tensorFiles: dcp.files, sideFiles: others, config }, parameters, [
    ...warnOf(
      "TrainerStateIgnored",
      dcp.objects.map(({ name }) => name),
    ),
    ...left,
    ...warnings,
  ]);
}
