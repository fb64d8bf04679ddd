// Mixtures of experts of DeepSpeed's own layer: data-parallel ranks share the experts out among groups of them, each
// names those that it has from 0, and their weights lie in a file for each. Here they get the numbers that the whole
// layer gives them. Called by the reader of training checkpoints; the writers ask which names are experts.
// Source: DeepSpeed's engine (_save_moe_checkpoint) and utils/groups.py.
import type { FolderReader } from "../../checkpoint.ts";
import { MergeyardError } from "../../error.ts";
import type { ExpertFile } from "./files.ts";
import { type ModelState, readTensors } from "./model.ts";

/** `moe.deepspeed_moe.experts.deepspeed_experts.3.fc1.weight` */
const EXPERT = /^((?:.*\.)?deepspeed_moe\.experts\.deepspeed_experts\.)(\d+)(\..+)$/;

export function isExpert(name: string): boolean {
  return EXPERT.test(name);
}

/**
 * Ranks of each expert-parallel group, from the first experts on. `partitions` are the ranks that share a group's
 * experts; `dataFirst` is DeepSpeed's use_data_before_expert_parallelism.
 */
export function expertRanks<Rank>(ranks: readonly Rank[], partitions: number, dataFirst: boolean): readonly Rank[][] {
  const groups = ranks.length / partitions;
  return Array.from({ length: groups }, (_, expert) =>
    ranks.filter((_rank, index) => expert === (dataFirst ? Math.floor(index / partitions) : index % groups)),
  );
}

/** Gives the experts among `names` of the expert-parallel rank `rank` their numbers in the whole layer. */
export function numberExperts(names: readonly string[], rank: number): ReadonlyMap<string, string> {
  const matches = names.flatMap((name) => {
    const [, prefix, own, rest] = EXPERT.exec(name) ?? [];
    return prefix === undefined || rest === undefined ? [] : [{ name, prefix, own: Number(own), rest }];
  });
  const byLayer = Map.groupBy(matches, ({ prefix }) => prefix);
  return new Map(
    matches.map(({ name, prefix, own, rest }) => {
      const count = new Set(byLayer.get(prefix)?.map((each) => each.own)).size;
      return [name, `${prefix}${rank * count + own}${rest}`];
    }),
  );
}

/**
 * True where tensor-parallel ranks share experts out, each of them whole, instead of cutting every one
 * (enable_expert_tensor_parallelism off): every rank has files of experts, and no two of a stage one of the same.
 */
export function areSharedOut(files: readonly ExpertFile[], tp: number): boolean {
  const stageOf = (mp: number) => Math.floor(mp / tp);
  const stages = new Set(files.map(({ mp }) => stageOf(mp)));
  const holders = new Set(files.map(({ mp }) => mp));
  const experts = new Set(files.map(({ layer, expert, mp }) => `${stageOf(mp)} ${layer} ${expert}`));
  return tp > 1 && files.length > 0 && holders.size === tp * stages.size && experts.size === files.length;
}

/**
 * Models with the experts' weights among their own: on each model-parallel rank its part of every expert of its layers,
 * or all of them on the first rank of a pipeline stage whose ranks share them out.
 * Throws DeepspeedRankMissing where an expert's file is missing, and what reading and placing throw.
 */
export async function withExperts(
  folder: FolderReader,
  files: readonly ExpertFile[],
  models: readonly ModelState[],
  tp: number,
): Promise<readonly ModelState[]> {
  const isSharedOut = areSharedOut(files, tp);
  const held: ModelState[] = [];
  for (const [rank, model] of models.entries()) {
    const stage = Math.floor(rank / tp);
    const own = files.filter(({ mp }) =>
      isSharedOut ? Math.floor(mp / tp) === stage && rank % tp === 0 : mp === rank,
    );
    if (!isSharedOut || rank % tp === 0) checkExperts(own, model);
    const module = new Map(model.module);
    for (const { file } of own) {
      for (const [name, tensor] of await readTensors(folder, file)) module.set(name, tensor);
    }
    const others = isSharedOut ? withoutFrozenExperts(model) : model;
    held.push(own.length === 0 ? others : { ...others, module });
  }
  return held;
}

/** Ranks that share experts out name frozen ones alike; the files of experts hold those too. */
function withoutFrozenExperts(model: ModelState): ModelState {
  return {
    ...model,
    frozenShapes: model.frozenShapes.filter(({ name }) => !isExpert(name)),
    frozen: new Map([...model.frozen].filter(([name]) => !isExpert(name))),
  };
}

/** Every layer has all of its experts, as many as the model's state says. */
function checkExperts(files: readonly ExpertFile[], { file, client }: ModelState): void {
  const stated = Array.isArray(client.num_experts) ? client.num_experts : [];
  const layers = Map.groupBy(files, ({ layer }) => layer);
  const count = Math.max(stated.length, ...[...layers.keys()].map((layer) => layer + 1));
  for (let layer = 0; layer < count; layer += 1) {
    const own = layers.get(layer) ?? [];
    const experts = stated[layer] ?? Math.max(...own.map(({ expert }) => expert + 1));
    if (own.length === experts) continue;
    const found = `${own.length} experts of layer ${layer}`;
    throw expertError(own[0]?.file.name ?? file, found, `${experts} experts`);
  }
}

/** Every expert of the optimizer's groups has its file: else those of whole ranks are missing. */
export function checkTrainedExperts(trained: readonly { readonly name: string }[], model: ModelState): void {
  const missing = trained.find(({ name }) => isExpert(name) && model.module?.has(name) !== true);
  if (missing === undefined) return;
  throw expertError(model.file, `states of ${missing.name}, and no file of its expert`, "a file of every expert");
}

function expertError(file: string, found: string, expected: string): MergeyardError {
  return new MergeyardError("DeepspeedRankMissing", { where: { file }, found, expected });
}
