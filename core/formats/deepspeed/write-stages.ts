// Which parameters each pipeline stage of a target holds. Layers are numbered in names; they are spread evenly, what
// comes before the first goes to the first stage, what comes behind the last to the last one, a tied module to both.
// Names of DeepSpeed's pipeline modules (`3.mlp.weight`, `tied_modules.embed.weight`) ask for files of layers.
import type { TargetParameter } from "../../universal/conversion.ts";
import type { TrainedOne } from "../../universal/optimizer-groups.ts";
import { createStageRule, layerOf as layerNumberOf } from "../../universal/reshard.ts";

export type StageParameters = {
  /** By optimizer group, in its order. */
  readonly groups: readonly (readonly TrainedOne[])[];
  /** Buffers and frozen weights. */
  readonly others: readonly TargetParameter[];
  /** Aliases of the stage's parameters. */
  readonly shared: ReadonlyMap<string, string>;
  /** Layer and name inside of it; undefined where the model is no pipeline module. */
  readonly layerOf: ((name: string) => { readonly layer: number; readonly local: string }) | undefined;
};

const PIPELINE_NAME = /^(?:(\d+)|tied_modules\.[^.]+)\.(.+)$/;
const TIED = /^tied_modules\./;

export function planStages(
  parameters: readonly TargetParameter[],
  groups: readonly (readonly TrainedOne[])[],
  stages: number,
): readonly StageParameters[] {
  const others = parameters.filter(({ training }) => training === undefined);
  const isOnStage = createRule([...groups.flat(), ...others], stages);
  const isPipeline = groups.flat().every(({ name }) => PIPELINE_NAME.test(name));
  const layerOf = isPipeline ? createLayerOf(parameters) : undefined;
  return Array.from({ length: stages }, (_, stage) => {
    const isHere = ({ name }: TargetParameter): boolean => isOnStage(name, stage);
    const here = parameters.filter(isHere);
    return {
      groups: groups.map((group) => group.filter(isHere)),
      others: others.filter(isHere),
      shared: new Map(here.flatMap(({ name, aliases }) => aliases.map((alias) => [alias, name] as const))),
      layerOf,
    };
  });
}

/** Whether a stage holds a parameter of a name. What has no layer stands before the layers until one has been met. */
function createRule(parameters: readonly TargetParameter[], stages: number) {
  const layered = parameters.flatMap(({ name }) => (layerNumber(name) === undefined ? [] : [name]));
  const holdsLayer = createStageRule(layered, stages);
  const isBehind = new Set<string>();
  let hasMet = false;
  for (const { name } of parameters) {
    if (layerNumber(name) !== undefined) hasMet = true;
    else if (hasMet) isBehind.add(name);
  }
  return (name: string, stage: number): boolean => {
    if (TIED.test(name)) return stage === 0 || stage === stages - 1;
    if (layerNumber(name) === undefined) return stage === (isBehind.has(name) ? stages - 1 : 0);
    return holdsLayer(name, stage);
  };
}

function layerNumber(name: string): number | undefined {
  return TIED.test(name) ? undefined : layerNumberOf(name);
}

/** A tied module is saved with the layer before the first that is numbered. */
function createLayerOf(parameters: readonly TargetParameter[]) {
  const numbers = parameters.flatMap(({ name }) => layerNumber(name) ?? []);
  const tiedLayer = numbers.length === 0 ? 0 : Math.max(0, Math.min(...numbers) - 1);
  return (name: string): { readonly layer: number; readonly local: string } => {
    const [, layer, local = name] = PIPELINE_NAME.exec(name) ?? [];
    return { layer: layer === undefined ? tiedLayer : Number(layer), local };
  };
}
