// Groups of the optimizer in a distributed checkpoint: pickled objects, one for each hyper-parameter of a group
// (`optim.param_groups.0.lr`; `params` are the names of its parameters) or, where the trainer flattened them, of every
// parameter in the optimizer's order (`optim.param_groups.NAME.lr`). Called by the reader of such checkpoints.
// Source: torch.distributed.checkpoint.state_dict (_flatten_optim_state_dict).
import type { Json, JsonObject } from "../../json.ts";
import type { Dtype } from "../../tensor.ts";
import type { ConversionParameter } from "../../universal/conversion.ts";
import { placeTrained } from "../../universal/optimizer-groups.ts";
import type { TrainingState } from "../../universal/training-state.ts";

const ENTRY = /^((?:[A-Za-z_]\w*\.)*?)(?:optim|optimizer|optimizer_0)\.param_groups\.(.+)\.([^.]+)$/;
const NUMBER = /^\d+$/;

/** `owner`: the group's number, or a parameter's name. */
type GroupEntry<T> = { readonly object: T; readonly owner: string; readonly key: string };

export type OptimizerGroup = { readonly names: readonly string[]; readonly hyperparameters: JsonObject };

/** Those of `objects` that are of groups; `prefix` is what the names of the trainer's dicts begin with. */
export function groupEntries<T extends { readonly name: string }>(
  objects: readonly T[],
  prefix: string,
): readonly GroupEntry<T>[] {
  return objects.flatMap((object) => {
    const [, before, owner, key] = ENTRY.exec(object.name) ?? [];
    return before === prefix && owner !== undefined && key !== undefined ? [{ object, owner, key }] : [];
  });
}

/** Those of numbered groups, where there are such: a checkpoint may hold both forms. */
export function entriesToRead<T>(entries: readonly GroupEntry<T>[]): readonly GroupEntry<T>[] {
  const numbers = new Set(entries.flatMap(({ owner, key }) => (NUMBER.test(owner) && key === "params" ? [owner] : [])));
  return numbers.size === 0 ? entries : entries.filter(({ owner }) => numbers.has(owner));
}

/** The groups in the optimizer's order. `values` are those of the entries; what is no plain value is left out. */
export function collectGroups(
  entries: readonly GroupEntry<unknown>[],
  values: readonly (Json | undefined)[],
): readonly OptimizerGroup[] {
  const owners = new Map<string, Map<string, Json>>();
  entries.forEach(({ owner, key }, index) => {
    const own = owners.get(owner) ?? new Map<string, Json>();
    owners.set(owner, own);
    const value = values[index];
    if (value !== undefined) own.set(key, value);
  });
  const isNumbered = [...owners.values()].every((own) => own.has("params"));
  return isNumbered ? numberedGroups(owners) : joinNeighbours(owners);
}

type Owners = ReadonlyMap<string, ReadonlyMap<string, Json>>;

function numberedGroups(owners: Owners): readonly OptimizerGroup[] {
  return [...owners]
    .sort(([a], [b]) => Number(a) - Number(b))
    .map(([, own]) => {
      const { params, ...hyperparameters } = Object.fromEntries(own);
      const names = Array.isArray(params) ? params.filter((name) => typeof name === "string") : [];
      return { names, hyperparameters };
    });
}

/** Neighbours with the same hyper-parameters were one group, or may be: what they say is the same. */
function joinNeighbours(owners: Owners): readonly OptimizerGroup[] {
  const groups: { readonly text: string; readonly names: string[]; readonly hyperparameters: JsonObject }[] = [];
  for (const [name, own] of owners) {
    const hyperparameters = Object.fromEntries([...own].sort(([a], [b]) => (a < b ? -1 : 1)));
    const text = JSON.stringify(hyperparameters);
    const last = groups.at(-1);
    if (last?.text === text) last.names.push(name);
    else groups.push({ text, names: [name], hyperparameters });
  }
  return groups.map(({ names, hyperparameters }) => ({ names, hyperparameters }));
}

/** The parameters with their places in the groups, if the groups name every trained one. */
export function placeInGroups(
  parameters: readonly ConversionParameter[],
  groups: readonly OptimizerGroup[],
): readonly ConversionParameter[] {
  const places = new Map(
    groups.flatMap(({ names }, group) => names.map((name, position) => [name, { group, position }] as const)),
  );
  if (parameters.some(({ name, training }) => training !== undefined && !places.has(name))) return parameters;
  return placeTrained(parameters, places);
}

/** What is known beside the tensors: groups, and patterns that were added; undefined where there are neither. */
export function trainingOf(
  parameters: readonly ConversionParameter[],
  groups: readonly OptimizerGroup[],
  patterns: JsonObject | undefined,
): TrainingState | undefined {
  if (groups.length === 0 && patterns === undefined) return undefined;
  const halves: readonly Dtype[] = ["BF16", "F16"];
  const weights = parameters.find(({ training }) => training !== undefined)?.dtype ?? "F32";
  return {
    weights: halves.includes(weights) ? weights : "F32",
    groups: groups.map(({ hyperparameters }) => hyperparameters),
    optimizer: {},
    client: patterns === undefined ? {} : { universal_checkpoint_info: patterns },
  };
}
