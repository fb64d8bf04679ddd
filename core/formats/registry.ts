// Every checkpoint format that can be opened. Adding one: its folder and a line here.
import type { CheckpointFile } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { dcp } from "./dcp/dcp.ts";
import { deepspeed } from "./deepspeed/deepspeed.ts";
import { deepspeedUniversal } from "./deepspeed/universal.ts";
import type { CheckpointFormat, SingleFiles } from "./format.ts";
import { gguf } from "./gguf/checkpoint.ts";
import { megatron } from "./megatron/megatron.ts";
import { safetensors } from "./safetensors/folder.ts";
import { torch } from "./torch/torch.ts";
import { universal } from "./universal-folder.ts";
import { recogniseUnsupported } from "./unsupported.ts";

/** Most specific first: the first format that recognises a folder opens it. */
export const FORMATS: readonly CheckpointFormat[] = Object.freeze([
  universal,
  megatron,
  dcp,
  safetensors,
  deepspeed,
  deepspeedUniversal,
  torch,
  gguf,
]);

/**
 * The format of a folder, judged by its file names.
 * Throws: CheckpointEmpty, CheckpointFormatUnsupported (a known kind that cannot be read), CheckpointFormatUnknown.
 */
export function recogniseFormat(files: readonly CheckpointFile[]): CheckpointFormat {
  if (files.length === 0) throw new MergeyardError("CheckpointEmpty", { found: "no files" });
  return FORMATS.find((format) => format.recognise(files)) ?? refuse(files);
}

/**
 * The format of one file, judged by its name.
 * Throws: CheckpointFormatUnsupported, CheckpointFormatUnknown.
 */
export function recogniseFile(file: CheckpointFile): SingleFiles {
  return findSingle(file.name) ?? refuse([file]);
}

/** True when a file of that name is a checkpoint by itself. */
export function isSingleFile(name: string): boolean {
  return findSingle(name) !== undefined;
}

function findSingle(name: string): SingleFiles | undefined {
  return FORMATS.find(({ file }) => file?.extensions.some((extension) => name.endsWith(extension)))?.file;
}

function refuse(files: readonly CheckpointFile[]): never {
  const known = recogniseUnsupported(files);
  const expected = FORMATS.map(({ title }) => title).join(", or ");
  if (known !== undefined) {
    throw new MergeyardError("CheckpointFormatUnsupported", { found: known.title, expected, hint: known.hint });
  }
  const names = files.slice(0, 5).map(({ name }) => name);
  const found = `${names.join(", ")}${files.length > names.length ? ` and ${files.length - names.length} more` : ""}`;
  throw new MergeyardError("CheckpointFormatUnknown", { found, expected });
}
