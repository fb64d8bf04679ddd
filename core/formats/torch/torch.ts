// Files of torch.save as checkpoints: one file, or a folder as Hugging Face wrote them before safetensors, with
// `pytorch_model.bin` or shards and their index. Which files are the model is settled by name and never guessed.
import type { CheckpointFile, FolderReader, TensorEntry } from "../../checkpoint.ts";
import { MergeyardError } from "../../error.ts";
import { FOLDER_LIMITS } from "../../limits.ts";
import { parametersOf } from "../../universal/conversion.ts";
import type { CheckpointFormat, CheckpointWarning, OpenedCheckpoint } from "../format.ts";
import { compareIndex, fileError, readShardIndex } from "../safetensors/shard-index.ts";
import { isShardName } from "../shards.ts";
import { fileRole, readSideFiles, topLevelFiles } from "../side-files.ts";
import { readTorchFile } from "./file.ts";
import { chooseWeights, placeTensors } from "./tree.ts";

const EXTENSIONS = [".bin", ".pt", ".pth", ".ckpt"];
const INDEX = "pytorch_model.bin.index.json";
const SINGLE = "pytorch_model.bin";
const RANK_FILE = /(model|optim)_states\.pt$/;

export const torch = Object.freeze({
  id: "torch",
  title: "torch file or folder of pytorch_model.bin",
  recognise: (files) => weightFiles(files).length > 0 || topLevelFiles(files).some(({ name }) => name === INDEX),
  open: openTorchFolder,
  file: { extensions: EXTENSIONS, open: (folder) => openTorchFiles(folder, folder.files) },
} satisfies CheckpointFormat);

/** Files that may be the model: a trainer's leftovers and files of single ranks have the same endings. */
function weightFiles(files: readonly CheckpointFile[]): readonly CheckpointFile[] {
  return topLevelFiles(files).filter(
    ({ name }) =>
      fileRole(name) === "weights" && !RANK_FILE.test(name) && EXTENSIONS.some((extension) => name.endsWith(extension)),
  );
}

async function openTorchFolder(folder: FolderReader): Promise<OpenedCheckpoint> {
  const files = topLevelFiles(folder.files);
  const indexFile = files.find(({ name }) => name === INDEX);
  const single = files.find(({ name }) => name === SINGLE);
  if (indexFile !== undefined && single !== undefined) {
    throw fileError("CheckpointAmbiguous", SINGLE, `${SINGLE} and ${INDEX}`, "one of them");
  }
  if (indexFile === undefined) return openTorchFiles(folder, [single ?? chooseOnly(folder.files)]);
  const { index, shards } = await readShardIndex(folder, indexFile);
  return openTorchFiles(folder, shards, (tensors) => compareIndex(index, indexFile, tensors));
}

function chooseOnly(files: readonly CheckpointFile[]): CheckpointFile {
  const candidates = weightFiles(files);
  const shard = candidates.find(({ name }) => isShardName(name));
  if (shard !== undefined) throw fileError("CheckpointIndexMissing", shard.name, "a shard and no index", INDEX);
  const [only, ...others] = candidates;
  if (only !== undefined && others.length === 0) return only;
  const found = candidates.map(({ name }) => name).join(", ");
  throw fileError("CheckpointAmbiguous", only?.name, found.slice(0, 500), `${SINGLE}, or its index, or a single file`);
}

/** The tensors of these torch files, one after the other: pickles of shards are parsed one at a time. */
async function openTorchFiles(
  folder: FolderReader,
  files: readonly CheckpointFile[],
  check: (tensors: readonly TensorEntry[]) => CheckpointWarning[] = checkRepeated,
): Promise<OpenedCheckpoint> {
  const tensors: TensorEntry[] = [];
  const warnings: CheckpointWarning[] = [];
  for (const file of files) {
    const opened = await readTorchFile((offset, bytes) => folder.read(file.name, offset, bytes), file);
    const weights = chooseWeights(opened.value);
    if (weights.tensors.length === 0) {
      throw fileError("TorchNoTensors", file.name, "no tensors", "a state_dict, or one inside a dict");
    }
    for (const entry of placeTensors(opened, weights.tensors, file)) tensors.push(entry);
    if (weights.ignored > 0) {
      warnings.push({ code: "TensorsIgnored", where: { file: file.name }, found: `${weights.ignored} tensors` });
    }
    if (tensors.length > FOLDER_LIMITS.tensors) {
      const found = `${tensors.length} up to this file`;
      throw fileError("CheckpointTooManyTensors", file.name, found, `at most ${FOLDER_LIMITS.tensors}`);
    }
  }
  const { sideFiles, config, warnings: sideWarnings } = await readSideFiles(folder, files);
  return {
    checkpoint: { format: torch.id, tensorFiles: files, sideFiles, tensors, metadata: new Map(), config },
    warnings: [...warnings, ...check(tensors), ...sideWarnings],
    headers: new Map(),
    digest: undefined,
    conversion: parametersOf(tensors),
  };
}

/** Without an index nothing else compares the files with each other. */
function checkRepeated(tensors: readonly TensorEntry[]): CheckpointWarning[] {
  const names = new Set<string>();
  for (const { name, ranges } of tensors) {
    if (names.has(name)) {
      const where = { file: ranges[0]?.file, tensor: name };
      throw new MergeyardError("CheckpointTensorRepeated", { where, expected: "every name once" });
    }
    names.add(name);
  }
  return [];
}
