// Which tensors of a distributed checkpoint are the model, where no whole training state says it: those of the only
// dict that trainers keep a model's state_dict in, by the paths of `.metadata`'s planner_data. Called by dcp.ts.
// Source: torch.distributed.checkpoint._nested_dict; a state_dict has dots in its names and no dicts inside.
import type { ConversionParameter } from "../../universal/conversion.ts";
import { asKind, fieldOf, itemsOf, type PickleValue } from "../pickle/value.ts";
import { WRAPPERS } from "../torch/tree.ts";

export type ChosenModel = {
  readonly parameters: readonly ConversionParameter[];
  /** Names of the others. */
  readonly left: readonly string[];
};

/**
 * The model's tensors under its own names; all tensors as they are where no dict or more than one is a model's, where
 * it holds dicts, or where a tensor lies outside of every dict.
 */
export function chooseModel(tensors: readonly ConversionParameter[], metadata: PickleValue): ChosenModel {
  const paths = pathsOf(metadata);
  const names = new Map<string, string>();
  const models = new Set<string>();
  for (const name of tensors.flatMap((tensor) => [tensor.name, ...tensor.aliases])) {
    const path = paths.get(name) ?? [];
    const at = path.findIndex((part) => WRAPPERS.includes(part));
    if (path.length < 2 || (at !== -1 && at !== path.length - 2)) return { parameters: tensors, left: [] };
    if (at === -1) continue;
    models.add(JSON.stringify(path.slice(0, -1)));
    names.set(name, path.at(-1) ?? name);
  }
  if (models.size !== 1) return { parameters: tensors, left: [] };
  const own = (tensor: ConversionParameter) =>
    [tensor.name, ...tensor.aliases].flatMap((name) => names.get(name) ?? []);
  return {
    parameters: tensors.flatMap((tensor) => {
      const [name, ...aliases] = own(tensor);
      return name === undefined ? [] : [{ ...tensor, name, aliases }];
    }),
    left: tensors.filter((tensor) => own(tensor).length === 0).map(({ name }) => name),
  };
}

/** By the name of an entry, the keys of the trainer's nested dicts that lead to it. */
function pathsOf(metadata: PickleValue): ReadonlyMap<string, readonly string[]> {
  const entries = asKind(fieldOf(metadata, "planner_data"), "dict")?.entries.values() ?? [];
  return new Map(
    [...entries].flatMap(({ key, value }) => {
      const path = itemsOf(value)?.map(String);
      return typeof key === "string" && path !== undefined ? [[key, path] as const] : [];
    }),
  );
}
