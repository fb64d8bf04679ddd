// Which tensors belong to which module of a recipe. A module is a part of the model under one prefix of names: mergekit
// takes the prefixes from its architecture files, here they are found in the names themselves.
// Source: reference sections 5.5 and 5.9.
import type { TensorEntry } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import type { Recipe } from "../recipe/normalise.ts";
import { fieldPlace } from "../recipe/origin.ts";
import type { RecipeModule } from "../recipe/slices.ts";
import { type Architecture, type ModelsByName, narrowArchitecture, tensorRole } from "./architecture.ts";

/** A module, and of every model the part that belongs to it. */
export type ModuleScope = { readonly module: RecipeModule; readonly models: ModelsByName };

export type ModuleScopes = {
  readonly scopes: readonly ModuleScope[];
  /** Names that belong to no module, in the order of first mention; the recipe says what becomes of them. */
  readonly rest: readonly string[];
};

/** Names of modules in mergekit's architecture files, and what checkpoints call the same part. */
const OTHER_NAMES: Readonly<Record<string, readonly string[]>> = {
  text_decoder: ["language_model", "text_model", "llm", "decoder", "model"],
  vision_tower: ["vision_model", "visual", "vision_encoder"],
  multi_modal_projector: ["mm_projector", "connector", "merger"],
};

/** Parts that go with another of that name. Source: mergekit's architecture file of Qwen3-VL. */
const COMPANIONS: Readonly<Record<string, string>> = { merger: "deepstack_merger_list" };

/** The module that is the whole model: mergekit's name of the only module of most architectures. */
const WHOLE = "default";

/** Throws PlanModuleUnknown, PlanModulesIncomplete. */
export function scopeModules(recipe: Recipe, models: ModelsByName): ModuleScopes {
  const [first] = recipe.modules;
  if (first?.name === undefined) return { scopes: recipe.modules.map((module) => ({ module, models })), rest: [] };
  const prefixes = recipe.modules.map((module) => findPrefixes(recipe, module, models));
  const owners = new Map([...models].map(([model, { tensors }]) => [model, assign([...tensors.values()], prefixes)]));
  for (const [model, architecture] of models) assignHeads(architecture, owners.get(model) ?? new Map());
  const scopes = recipe.modules.map((module, index): ModuleScope => {
    const narrow = ([model, architecture]: readonly [string, Architecture]) => {
      const own = owners.get(model);
      return [model, narrowArchitecture(architecture, ({ name }) => own?.get(name) === index)] as const;
    };
    return { module, models: new Map([...models].map(narrow)) };
  });
  const names = [...models.values()].flatMap(({ tensors }) => [...tensors.keys()]);
  const rest = [...new Set(names)].filter((name) => ![...owners.values()].some((own) => own.has(name)));
  if (rest.length > 0 && recipe.allowUnlisted === undefined) throw incomplete(recipe, rest);
  return { scopes, rest };
}

/** The prefixes of a module's tensors: one, unless models differ or the part has a companion. */
function findPrefixes(recipe: Recipe, { name, field, slices }: RecipeModule, models: ModelsByName): readonly string[] {
  const prefixes = new Set<string>();
  for (const { model } of slices.flatMap(({ sources }) => sources)) {
    const names = [...(models.get(model)?.tensors.keys() ?? [])];
    const words = [name ?? WHOLE, ...(OTHER_NAMES[name ?? ""] ?? [])];
    const word = words.find((own) => shallowest(names, own).length > 0) ?? WHOLE;
    const found = shallowest(names, word);
    const [prefix, second] = name === WHOLE ? [""] : found;
    if (prefix === undefined || second !== undefined) {
      const parts = [...new Set(names.map((tensor) => tensor.split(".").slice(0, 2).join(".")))];
      throw new MergeyardError("PlanModuleUnknown", {
        where: { ...fieldPlace(recipe.origin, field), model },
        found: second === undefined ? `names such as ${parts.slice(0, 8).join(", ")}` : found.join(" and "),
        expected: `tensors under one prefix that ends in ${name}`,
      });
    }
    const companion = COMPANIONS[word];
    for (const own of [prefix, ...(companion === undefined ? [] : shallowest(names, companion))]) prefixes.add(own);
  }
  return [...prefixes];
}

/** Prefixes that end in `word`, those with the fewest parts. */
function shallowest(names: readonly string[], word: string): readonly string[] {
  const found = new Set<string>();
  for (const name of names) {
    const at = `.${name}`.indexOf(`.${word}.`);
    if (at >= 0) found.add(name.slice(0, at + word.length + 1));
  }
  const depth = (prefix: string) => prefix.split(".").length;
  const least = Math.min(...[...found].map(depth));
  return [...found].filter((prefix) => depth(prefix) === least);
}

/** Module of each tensor: that of the longest prefix. */
function assign(tensors: readonly TensorEntry[], prefixes: readonly (readonly string[])[]): Map<string, number> {
  const owners = new Map<string, number>();
  for (const { name } of tensors) {
    let longest = -1;
    prefixes.forEach((own, index) => {
      const length = Math.max(-1, ...own.filter((prefix) => name.startsWith(prefix)).map((prefix) => prefix.length));
      if (length <= longest) return;
      longest = length;
      owners.set(name, index);
    });
  }
  return owners;
}

/** A head beside the modules belongs to the one that holds the embedding of its tokens. */
function assignHeads({ tensors, vocabulary }: Architecture, owners: Map<string, number>): void {
  const embedding = [...tensors.values()].find((entry) => tensorRole(entry, vocabulary) === "embedding");
  const owner = embedding === undefined ? undefined : owners.get(embedding.name);
  if (owner === undefined) return;
  for (const entry of tensors.values()) {
    if (!owners.has(entry.name) && tensorRole(entry, vocabulary) === "head") owners.set(entry.name, owner);
  }
}

function incomplete(recipe: Recipe, rest: readonly string[]): MergeyardError {
  return new MergeyardError("PlanModulesIncomplete", {
    where: { ...fieldPlace(recipe.origin, ["modules"]), tensor: rest[0] },
    found: `${rest.length} tensors under no module: ${rest.slice(0, 4).join(", ")}${rest.length > 4 ? ", ..." : ""}`,
    expected: "a module for every tensor",
    hint:
      "add a module for them, or write `allow_unlisted: copy` to take them from the base (else from the first model " +
      "that has them), or `allow_unlisted: drop` to leave them out",
  });
}
