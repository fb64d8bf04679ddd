// What the files around the weights are, by name: which travel with a merge and from which parent, which are rebuilt,
// and which are other weights or a trainer's leftovers that must never travel by themselves.
import type { Checkpoint, CheckpointFile, FolderReader } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { FOLDER_LIMITS } from "../limits.ts";
import { sortByName } from "../utf8-order.ts";
import type { CheckpointWarning } from "./format.ts";
import { parseJsonObject } from "./json-scan.ts";

/**
 * config: rewritten for the output. generation, processor: from the base. tokenizer: one whole set from one parent.
 * code: never run, copied only when allowed. card: rewritten. licence: of every parent. index: rebuilt. record: our own
 * documents and the upload's marker. adapter: a LoRA's config. trainer: a trainer's leftovers, partly pickles. weights:
 * tensors in any format.
 */
export type FileRole =
  | "config"
  | "generation"
  | "tokenizer"
  | "processor"
  | "code"
  | "card"
  | "licence"
  | "index"
  | "record"
  | "adapter"
  | "trainer"
  | "weights"
  | "other";

/** The first pattern that matches decides. */
const ROLES: readonly (readonly [FileRole, RegExp])[] = Object.freeze([
  ["config", /^config\.json$/],
  ["generation", /^generation_config\.json$/],
  ["tokenizer", /^(tokenizer|vocab|added_tokens|special_tokens_map|tokenizer_config|chat_template|tekken)\.json$/],
  ["tokenizer", /^(merges\.txt|vocab\.txt|chat_template\.jinja|tokenizer\.model.*|spiece\.model|.*\.bpe\.model)$/],
  ["tokenizer", /\.tiktoken$/],
  ["processor", /^(video_)?(pre)?processor_config\.json$/],
  ["trainer", /^(rng_state.*\.pth|random_states.*\.pkl|latest(_universal)?|zero_to_fp32\.py)$/],
  ["code", /\.py$/],
  ["card", /^README\.md$/i],
  ["licence", /^(LICEN[SC]E|NOTICE|COPYING|USE_POLICY)/i],
  ["index", /\.index(\.[^.]+)?\.json$/],
  ["record", /^((manifest|universal)\.json|manifest\.intoto\.jsonl|_COMPLETE|_PUSH(-\d+-of-\d+)?)$/],
  ["adapter", /^adapter_config\.json$/],
  ["trainer", /^(training_args\.bin|trainer_state\.json|scaler\.pt|recipe_state\.pt|custom_checkpoint_\d+\.pkl)$/],
  ["trainer", /^(optimizer|scheduler|sampler|dl_state_dict)(_\d+)?\.(pt|bin)$/],
  ["weights", /\.(safetensors|bin|pt|pth|ckpt|pkl|gguf|ggml|h5|msgpack|onnx|npz|npy|distcp|pdparams|mar|tar|zip)$/i],
]);

/** The role of a file by its name; "other" when nothing is known about it. */
export function fileRole(name: string): FileRole {
  return ROLES.find(([, pattern]) => pattern.test(name))?.[0] ?? "other";
}

/** True for a folder of a LoRA adapter, which is no model by itself: its config, tensors under PEFT's name alone. */
export function isAdapter({ tensorFiles, sideFiles }: Pick<Checkpoint, "tensorFiles" | "sideFiles">): boolean {
  const hasConfig = sideFiles.some(({ name }) => fileRole(name) === "adapter");
  return hasConfig && tensorFiles.every(({ name }) => /^adapter_model[.-]/.test(name));
}

export type SideFiles = {
  readonly sideFiles: readonly CheckpointFile[];
  readonly config: Readonly<Record<string, unknown>> | undefined;
  readonly warnings: readonly CheckpointWarning[];
};

/**
 * The files that travel with `tensorFiles` (every top-level file but weights, trainer leftovers and our own records),
 * in name order, and the parsed config.json. Weights that are left out are warned of.
 */
export async function readSideFiles(folder: FolderReader, tensorFiles: readonly CheckpointFile[]): Promise<SideFiles> {
  const taken = new Set(tensorFiles.map((file) => file.name));
  const sideFiles: CheckpointFile[] = [];
  const warnings: CheckpointWarning[] = [];
  for (const file of topLevelFiles(folder.files)) {
    if (taken.has(file.name)) continue;
    const role = fileRole(file.name);
    if (role === "weights" || role === "trainer") {
      warnings.push({ code: "FileIgnored", where: { file: file.name, bytes: file.bytes } });
    } else if (role !== "record") {
      sideFiles.push(file);
    }
  }
  const configFile = sideFiles.find((file) => fileRole(file.name) === "config");
  const config = configFile === undefined ? undefined : await readConfig(folder, configFile);
  return { sideFiles, config, warnings };
}

/** The files without directories in their names, in name order. */
export function topLevelFiles(files: readonly CheckpointFile[]): CheckpointFile[] {
  return sortByName(files.filter((file) => !file.name.includes("/")));
}

/** Numbers such as Infinity are taken, since Python writes them into real configs (`time_step_limit`). */
async function readConfig(folder: FolderReader, file: CheckpointFile): Promise<Readonly<Record<string, unknown>>> {
  if (file.bytes > FOLDER_LIMITS.configBytes) {
    const expected = `at most ${FOLDER_LIMITS.configBytes} bytes`;
    throw new MergeyardError("CheckpointConfigInvalid", {
      where: { file: file.name },
      found: `${file.bytes} bytes`,
      expected,
    });
  }
  return parseJsonObject(await folder.read(file.name, 0, file.bytes), {
    pythonNumbers: true,
    refuse: ({ offset, found, expected }) =>
      new MergeyardError("CheckpointConfigInvalid", { where: { file: file.name, offset }, found, expected }),
  });
}
