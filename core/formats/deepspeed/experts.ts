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
 * Models with the experts' weights among their own, on each model-parallel rank its part of every expert of its layers.
 * Throws DeepspeedUnsupported where tensor-parallel ranks share experts out instead of cutting them,
 * DeepspeedRankMissing where an expert's file is missing, and what reading and placing throw.
 */
export async function withExperts(
  folder: FolderReader,
  files: readonly ExpertFile[],
  models: readonly ModelState[],
): Promise<readonly ModelState[]> {
  const held: ModelState[] = [];
  for (const [rank, model] of models.entries()) {
    const own = files.filter(({ mp }) => mp === rank);
    const others = files.filter(({ mp }) => mp !== rank);
    checkExperts(own, others, model);
    const module = new Map(model.module);
    for (const { file } of own) {
      for (const [name, tensor] of await readTensors(folder, file)) module.set(name, tensor);
    }
    held.push(own.length === 0 ? model : { ...model, module });
  }
  return held;
}

/** Every layer has all of its experts, as many as the model's state says. */
function checkExperts(files: readonly ExpertFile[], others: readonly ExpertFile[], { file, client }: ModelState): void {
  const stated = Array.isArray(client.num_experts) ? client.num_experts : [];
  const layers = Map.groupBy(files, ({ layer }) => layer);
  const count = Math.max(stated.length, ...[...layers.keys()].map((layer) => layer + 1));
  for (let layer = 0; layer < count; layer += 1) {
    const own = layers.get(layer) ?? [];
    const experts = stated[layer] ?? Math.max(...own.map(({ expert }) => expert + 1));
    if (own.length === experts) continue;
    const numbers = new Set(own.map(({ expert }) => expert));
    const elsewhere = others.filter((each) => each.layer === layer);
    const isSharedOut = elsewhere.length > 0 && !elsewhere.some(({ expert }) => numbers.has(expert));
    if (isSharedOut) {
      const expected = "enable_expert_tensor_parallelism, a part of every expert on each";
      throw expertError("DeepspeedUnsupported", file, "experts shared out among tensor-parallel ranks", expected);
    }
    const found = `${own.length} experts of layer ${layer}`;
    throw expertError("DeepspeedRankMissing", own[0]?.file.name ?? file, found, `${experts} experts`);
  }
}

function expertError(
  code: "DeepspeedUnsupported" | "DeepspeedRankMissing",
  file: string,
  found: string,
  expected: string,
): MergeyardError {
  return new MergeyardError(code, { where: { file }, found, expected });
}
