// What the rank files of a DeepSpeed checkpoint say beside their tensors: the order of parameters in the optimizer's
// groups over all pipeline stages, and counters, hyper-parameters and configuration as plain values.
import type { JsonObject } from "../../json.ts";
import type { Dtype } from "../../tensor.ts";
import type { ConversionParameter } from "../../universal/conversion.ts";
import { type GroupPlace, placeTrained } from "../../universal/optimizer-groups.ts";
import type { TrainingState } from "../../universal/training-state.ts";
import type { CheckpointWarning } from "../format.ts";
import type { ModelState } from "./model.ts";
import type { OptimizerCommon, OptimizerRank } from "./optimizer.ts";
import { lostTensors } from "./weights.ts";

/**
 * The parameters with their places in the optimizer's groups: by pipeline stage, then as the stage's flat buffers have
 * them. `models` by model-parallel rank; `groupOf` is the optimizer's group of each of their groups.
 */
export function orderParameters(
  parameters: readonly ConversionParameter[],
  models: readonly ModelState[],
  groupOf: readonly number[],
): readonly ConversionParameter[] {
  const places = new Map<string, GroupPlace>();
  const counts = new Map<number, number>();
  for (const { groups } of models) {
    groups.forEach((members, index) => {
      const group = groupOf[index] ?? index;
      for (const { name } of members) {
        if (places.has(name)) continue;
        const position = counts.get(group) ?? 0;
        counts.set(group, position + 1);
        places.set(name, { group, position });
      }
    });
  }
  return placeTrained(parameters, places);
}

/** The state as the first rank tells it: ranks differ in their tensors, and stages in the names of their buffers. */
export function trainingStateOf(
  models: readonly ModelState[],
  optimizer: OptimizerCommon,
  topology?: TrainingState["topology"],
): TrainingState | undefined {
  const [model] = models;
  if (model === undefined) return undefined;
  // Where no rank names buffers there may be some all the same; an empty list would say that there are none.
  const names: JsonObject = models.some(({ client }) => "buffer_names" in client)
    ? { buffer_names: [...new Set(models.flatMap(({ buffers }) => buffers))] }
    : {};
  return {
    weights: weightsDtype(model),
    ...(topology === undefined ? {} : { topology }),
    groups: optimizer.hyperparameters.map((group) => ({ ...group })),
    optimizer: { ...optimizer.common },
    client: { ...model.client, ...names },
  };
}

/** As the configuration says; else that of the weights in the file. */
function weightsDtype({ module, client }: ModelState): Dtype {
  const isOn = (key: string): boolean => {
    const section = memberOf(client.ds_config, key);
    return memberOf(section, "enabled") === true;
  };
  if (isOn("bf16")) return "BF16";
  if (isOn("fp16")) return "F16";
  return [...(module?.values() ?? [])].find(({ dtype }) => dtype === "BF16" || dtype === "F16")?.dtype ?? "F32";
}

function memberOf(value: unknown, key: string): unknown {
  return typeof value === "object" && value !== null && Object.hasOwn(value, key) ? Reflect.get(value, key) : undefined;
}

/** Buffers and weights that no file holds under a name that can be known. */
export function warnOfLost(models: readonly ModelState[]): readonly CheckpointWarning[] {
  const lost = lostTensors(models);
  if (lost.length === 0) return [];
  return [{ code: "TensorsIgnored", where: { file: models[0]?.file }, found: lost.slice(0, 20).join(", ") }];
}

/** What is left out, by name. */
export function warnOfIgnored(
  models: readonly ModelState[],
  optimizers: readonly OptimizerRank[],
): readonly CheckpointWarning[] {
  const states = new Set(optimizers.flatMap(({ groups }) => groups.flatMap(({ ignored }) => ignored)));
  const [model] = models;
  return [
    ...warnOfLost(models),
    ...[...states].sort().map((found): CheckpointWarning => {
      return { code: "OptimizerStateIgnored", where: { file: optimizers[0]?.file }, found };
    }),
    ...(model === undefined || model.dropped.length === 0
      ? []
      : [
          {
            code: "TrainerStateIgnored" as const,
            where: { file: model.file },
            found: model.dropped.slice(0, 20).join(", "),
          },
        ]),
  ];
}
