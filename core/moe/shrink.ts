// A model with one expert for each group, as any loader reads it: which tensors stay, which rows of its routers, and
// what its config then says. Routing changes: a token that another row of the group would have drawn may go elsewhere.
import type { Checkpoint } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import type { ExpertLayer } from "./experts.ts";

export type ShrunkModel = {
  /** Names of tensors of experts that are no more; expert i of a layer holds its group i. */
  readonly dropped: ReadonlySet<string>;
  /** By name of a router's tensor: the rows that stay, in order. */
  readonly rows: ReadonlyMap<string, readonly number[]>;
  readonly config: Readonly<Record<string, unknown>>;
};

/** Experts that one token is sent to. */
const ACTIVE = "num_experts_per_tok";
/** Routers that choose among groups of neighbouring experts first. Source: DeepSeek-V3's config. */
const ROUTER_GROUPS = "n_group";

/**
 * `cores[i]`: the experts of layer i whose rows stay, the same number for all layers.
 * Throws MoeModelUnknown where the config does not count the experts or has routers of groups, MoeGroupsImpossible
 * where a token goes to more experts than there are.
 */
export function shrinkModel(
  layers: readonly ExpertLayer[],
  cores: readonly (readonly number[])[],
  { tensors, config = {} }: Pick<Checkpoint, "tensors" | "config">,
): ShrunkModel {
  const groups = cores[0]?.length ?? 0;
  const dropped = layers.flatMap(({ experts }) =>
    experts.slice(groups).flatMap(({ first, last }) => [...first, last].map(({ name }) => name)),
  );
  const rows = layers.flatMap(({ experts, router }, index) => {
    const folder = router?.name.replace(/[^.]+$/, "") ?? "";
    const own = tensors.filter(({ name, shape }) => name.startsWith(folder) && shape[0] === experts.length);
    if (router === undefined || !own.includes(router)) throw unknown("a layer without a router's row for each expert");
    return own.map(({ name }) => [name, cores[index] ?? []] as const);
  });
  return { dropped: new Set(dropped), rows: new Map(rows), config: shrinkConfig(layers, groups, config) };
}

function shrinkConfig(
  layers: readonly ExpertLayer[],
  groups: number,
  config: Readonly<Record<string, unknown>>,
): Readonly<Record<string, unknown>> {
  const key = layers[0]?.counts.find((name) => layers.every(({ experts }) => config[name] === experts.length));
  if (key === undefined)
    throw unknown(`a config.json whose ${layers[0]?.counts.join(" or ")} is not that of its layers`);
  const [active, routerGroups] = [config[ACTIVE], config[ROUTER_GROUPS]];
  if (typeof routerGroups === "number" && routerGroups > 1) throw unknown(`${ROUTER_GROUPS}: ${routerGroups}`);
  if (typeof active === "number" && active > groups) {
    const found = `${groups} experts a layer, of which a token goes to ${active}`;
    throw new MergeyardError("MoeGroupsImpossible", { found, expected: `at least ${active} groups` });
  }
  return { ...config, [key]: groups };
}

function unknown(found: string): MergeyardError {
  const expected = "one number of experts in config.json, and routers with a row for each";
  return new MergeyardError("MoeModelUnknown", { found, expected, hint: "leave out --shrink" });
}
