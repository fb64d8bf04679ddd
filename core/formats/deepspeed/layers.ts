// Files of pipeline layers: a pipeline's model-state files hold no weights and buffers, those of its layers do, under
// local names. Here they get the names that the whole module gives them. Called by the reader of training checkpoints.
// Source: DeepSpeed's PipelineModule.save_state_dict.
import type { FolderReader } from "../../checkpoint.ts";
import type { LayerFile } from "./files.ts";
import { type ModelState, type PlacedByName, readTensors } from "./model.ts";

/** `tied_modules.embed.weight`, the weight `weight` of every layer that is tied under the key `embed`. */
const TIED = /^(tied_modules\.[^.]+\.)(.+)$/;
/** A name that PipelineModule gives. */
const NUMBERED = /^(\d+|tied_modules\.[^.]+)\./;

/**
 * Models whose modules are those of their layers' files, where they have none of their own. A layer that no stage names
 * goes to the first one. Throws what reading and placing throw.
 */
export async function withLayers(
  folder: FolderReader,
  layers: readonly LayerFile[],
  models: readonly ModelState[],
  tp: number,
): Promise<readonly ModelState[]> {
  const modules = models.map(({ module }) => new Map(module));
  for (const { file, layer, tp: own } of layers) {
    const ranks = models.flatMap((model, rank) =>
      model.module === undefined && rank % tp === own ? [{ rank, known: namesOf(model) }] : [],
    );
    const tensors = await readTensors(folder, file);
    const found = placeLayer(layer, tensors, ranks);
    for (const [local, tensor] of found === undefined ? [] : tensors) {
      modules[found?.rank ?? 0]?.set(`${found?.prefix}${local}`, tensor);
    }
  }
  return models.map((model, rank) => {
    const module = modules[rank];
    return module === undefined || module.size === 0 ? model : { ...model, module };
  });
}

function namesOf({ groups, buffers, frozenShapes }: ModelState): readonly string[] {
  return [...buffers, ...[...groups.flat(), ...frozenShapes].map(({ name }) => name)];
}

type Stage = { readonly rank: number; readonly known: readonly string[] };

/** The stage of a layer, and how its members' names begin; undefined where several ties fit, or names are others. */
function placeLayer(layer: number, tensors: PlacedByName, stages: readonly Stage[]) {
  const prefix = `${layer}.`;
  const owner = stages.find(({ known }) => known.some((name) => name.startsWith(prefix)));
  if (owner !== undefined) return { rank: owner.rank, prefix };
  const fitting = stages.flatMap(({ rank, known }) =>
    tiesOf(known)
      .filter(({ locals }) => locals.every((local) => tensors.has(local)))
      .map(({ prefix: tied, locals }) => ({ rank, prefix: tied, isWhole: locals.length === tensors.size })),
  );
  const whole = fitting.filter(({ isWhole }) => isWhole);
  const ties = whole.length > 0 ? whole : fitting;
  if (new Set(ties.map((tie) => tie.prefix)).size > 1) return undefined;
  const isNumbered = stages.every(({ known }) => known.every((name) => NUMBERED.test(name)));
  return ties[0] ?? (isNumbered ? { rank: stages[0]?.rank ?? 0, prefix } : undefined);
}

function tiesOf(known: readonly string[]) {
  const members = known.flatMap((name) => {
    const [, prefix, local] = TIED.exec(name) ?? [];
    return prefix === undefined || local === undefined ? [] : [{ prefix, local }];
  });
  const byPrefix = Map.groupBy(members, ({ prefix }) => prefix);
  return [...byPrefix].map(([prefix, own]) => ({ prefix, locals: own.map(({ local }) => local) }));
}
