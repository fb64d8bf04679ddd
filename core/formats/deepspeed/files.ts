// Which files of a folder are which rank's in a DeepSpeed checkpoint, by name: the step that `latest` names, model
// states, optimizer states, and whether any rank is missing.
// Source: reference checkpoint-formats.md section 3.1.
import type { CheckpointFile, FolderReader } from "../../checkpoint.ts";
import { type ErrorCode, MergeyardError } from "../../error.ts";
import { RANK_LIMITS } from "../../limits.ts";

const MODEL = /^mp_rank_(\d+)_model_states\.pt$/;
const MODEL_ZERO3 = /^zero_pp_rank_(\d+)_mp_rank_(\d+)_model_states\.pt$/;
const OPTIMIZER = /^(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_?optim_states\.pt$/;
/** A pipeline without tensor parallelism leaves the rank out. */
const LAYER = /^layer_(\d+)(?:-model_(\d+))?-model_states\.pt$/;
const EXPERT = /^layer_(\d+)_expert_(\d+)_mp_rank_(\d+)_model_states\.pt$/;
/** Without ZeRO the states of experts; with it an empty file of older versions. */
const EXPERT_OPTIMIZER = /^expp_rank_\d+_mp_rank_\d+_optim_states\.pt$/;

/** True for a file of the model's state, of any stage, by its name without folders. */
export function isModelStateFile(name: string): boolean {
  return MODEL.test(name) || MODEL_ZERO3.test(name);
}

/** True for a file of the model's state of stage 3, whose dict has a placeholder of every weight. */
export function isStage3File(name: string): boolean {
  return MODEL_ZERO3.test(baseName(name));
}

/** What a file of a rank was saved as, if its own name is another's; `stem` is the name in the file, without ending. */
export function otherRank(file: string, stem: string): string | undefined {
  const saved = `${stem}.pt`;
  const isRank = [MODEL, MODEL_ZERO3, OPTIMIZER, LAYER, EXPERT].some((pattern) => pattern.test(saved));
  const plain = (name: string) => name.replace(/^bf16_/, "");
  return isRank && plain(saved) !== plain(baseName(file)) ? saved : undefined;
}

/** Ranks by number: model-parallel outside, data-parallel inside. */
export type RankGrid = readonly (readonly CheckpointFile[])[];

export type DeepspeedFiles = {
  /** Folder of the step, with its slash; "" when the folder is the step. */
  readonly prefix: string;
  /** One file per model-parallel rank; with stage 3 one per data-parallel rank of it. */
  readonly models: RankGrid;
  /** Empty when there are no optimizer states. */
  readonly optimizers: RankGrid;
  /** Files of pipeline layers. */
  readonly layers: readonly LayerFile[];
  /** Files of experts, in mixtures of them. */
  readonly experts: readonly ExpertFile[];
  /** Tensor-parallel ranks that layers' files name; undefined without such files. */
  readonly layerRanks: number | undefined;
};

/** The state_dict of one layer of a pipeline, on one tensor-parallel rank. */
export type LayerFile = { readonly file: CheckpointFile; readonly layer: number; readonly tp: number };

/** The weights of one expert on a model-parallel rank, which counts its layers of experts apart from others. */
export type ExpertFile = {
  readonly file: CheckpointFile;
  readonly layer: number;
  readonly expert: number;
  readonly mp: number;
};

/** True when the files, nested ones included, hold a rank of a training checkpoint. */
export function hasRankFiles(files: readonly CheckpointFile[]): boolean {
  const names = files.map(({ name }) => baseName(name));
  if (names.some((name) => OPTIMIZER.test(name) || LAYER.test(name) || EXPERT.test(name))) return true;
  const isUniversal = files.some(({ name }) => /(^|\/)zero\/.+\.pt$/.test(name));
  return !isUniversal && names.some((name) => MODEL.test(name) || MODEL_ZERO3.test(name));
}

/** What follows the last slash. */
export function baseName(name: string): string {
  return name.slice(name.lastIndexOf("/") + 1);
}

/**
 * The files of the step that `latest` names, or of the only step there is.
 * Throws: DeepspeedPathInvalid, DeepspeedStepMissing, CheckpointAmbiguous, DeepspeedRankMissing, DeepspeedUnsupported.
 */
export async function findDeepspeedFiles(folder: FolderReader): Promise<DeepspeedFiles> {
  const prefix = await findStep(folder);
  const files = folder.files.filter(({ name }) => name.startsWith(prefix) && !name.slice(prefix.length).includes("/"));
  const matches = (pattern: RegExp) => matchFiles(files, prefix, pattern);
  const optimizers = matches(OPTIMIZER).map(({ file, numbers: [dp = 0, mp = 0] }) => ({ file, mp, dp }));
  const [expert] = matches(EXPERT_OPTIMIZER);
  if (expert !== undefined && optimizers.length === 0) {
    throw fileError("DeepspeedUnsupported", expert.file.name, "states of experts without ZeRO", "ZeRO 1 or 2");
  }
  const models = modelGrid(files, prefix);
  if (models.length === 0) {
    throw fileError("DeepspeedRankMissing", prefix, "no model states", "mp_rank_00_model_states.pt or one of stage 3");
  }
  const experts = matches(EXPERT).map(({ file, numbers: [layer = 0, own = 0, mp = 0] }) => {
    return { file, layer, expert: own, mp };
  });
  const layers = matches(LAYER).map(({ file, numbers: [layer = 0, tp = 0] }) => ({ file, layer, tp }));
  return {
    prefix,
    models,
    optimizers: gridOf(optimizers, prefix, "optimizer states"),
    layers,
    experts,
    layerRanks: layers.length === 0 ? undefined : Math.max(...layers.map(({ tp }) => tp + 1)),
  };
}

/** The model-state files among `files`; empty for none. Throws DeepspeedRankMissing and CheckpointAmbiguous. */
export function modelGrid(files: readonly CheckpointFile[], prefix: string): RankGrid {
  const plain = matchFiles(files, prefix, MODEL).map(({ file, numbers: [mp = 0] }) => ({ file, mp, dp: 0 }));
  const zero3 = matchFiles(files, prefix, MODEL_ZERO3).map(({ file, numbers: [dp = 0, mp = 0] }) => ({ file, mp, dp }));
  const [first] = plain;
  if (first !== undefined && zero3.length > 0) {
    throw fileError(
      "CheckpointAmbiguous",
      first.file.name,
      `model states of stage 3 in ${zero3[0]?.file.name}`,
      "one stage",
    );
  }
  return gridOf(zero3.length > 0 ? zero3 : plain, prefix, "model states");
}

/** Files directly below `prefix` whose names match, with the numbers in them. */
function matchFiles(files: readonly CheckpointFile[], prefix: string, pattern: RegExp) {
  return files.flatMap((file) => {
    const match = file.name.startsWith(prefix) ? pattern.exec(file.name.slice(prefix.length)) : null;
    return match === null ? [] : [{ file, numbers: match.slice(1).map((digits = "0") => Number(digits)) }];
  });
}

function fileError(code: ErrorCode, file: string, found: string, expected: string): MergeyardError {
  return new MergeyardError(code, { where: { file }, found, expected });
}

async function findStep(folder: FolderReader): Promise<string> {
  const steps = new Set(
    folder.files
      .filter(({ name }) => hasRankFiles([{ name, bytes: 0 }]))
      .map(({ name }) => name.slice(0, name.lastIndexOf("/") + 1)),
  );
  const latest = folder.files.find(({ name }) => name === "latest");
  if (latest === undefined || steps.has("")) {
    if (steps.has("")) return "";
    const trained = [...steps].filter((step) => !folder.files.some(({ name }) => name.startsWith(`${step}zero/`)));
    const [only, ...others] = trained;
    if (only !== undefined && others.length === 0) return only;
    throw fileError(
      "CheckpointAmbiguous",
      "latest",
      `no such file, and ${trained.length} steps`,
      "one step, or latest",
    );
  }
  const bytes = await folder.read(latest.name, 0, Math.min(latest.bytes, RANK_LIMITS.textBytes));
  const step = new TextDecoder().decode(bytes).trim();
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(step)) {
    const found = JSON.stringify(step.slice(0, 100));
    throw fileError("DeepspeedPathInvalid", "latest", found, "the name of a folder beside it");
  }
  if (steps.has(`${step}/`)) return `${step}/`;
  const found = steps.size === 0 ? "no step" : [...steps].join(", ").slice(0, 500);
  throw fileError("DeepspeedStepMissing", "latest", found, `${step}/, which latest names`);
}

type Ranked = { readonly file: CheckpointFile; readonly mp: number; readonly dp: number };

/** Every rank from 0 on, none missing; every model-parallel rank has as many data-parallel ones. */
function gridOf(ranked: readonly Ranked[], prefix: string, what: string): RankGrid {
  if (ranked.length === 0) return [];
  const mpCount = Math.max(...ranked.map(({ mp }) => mp)) + 1;
  const dpCount = Math.max(...ranked.map(({ dp }) => dp)) + 1;
  const byRank = new Map(ranked.map(({ file, mp, dp }) => [mp * dpCount + dp, file]));
  const other = ranked.find(({ file, mp, dp }) => byRank.get(mp * dpCount + dp) !== file);
  if (other !== undefined) {
    const twin = byRank.get(other.mp * dpCount + other.dp);
    throw fileError("CheckpointAmbiguous", other.file.name, `${what} of the same rank in ${twin?.name}`, "one file");
  }
  return Array.from({ length: mpCount }, (_, mp) =>
    Array.from({ length: dpCount }, (_rank, dp) => {
      const file = byRank.get(mp * dpCount + dp);
      if (file !== undefined) return file;
      const found = `no ${what} of data-parallel rank ${dp} of model-parallel rank ${mp}`;
      throw fileError("DeepspeedRankMissing", prefix, found, `${mpCount} x ${dpCount} files, one for every rank`);
    }),
  );
}
