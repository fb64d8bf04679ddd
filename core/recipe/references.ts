// Every place of a merge part that names a model, in document order.
import type { FieldPath } from "./origin.ts";
import type { MergeConfig, ModelReference, MoeConfig } from "./schema.ts";

/**
 * merged: its weights take part; base: compared with, perhaps listed too; token: gives tokens; config: gives the
 * config; statistics: no model, but what was measured of one.
 */
export type ReferenceRole = "merged" | "base" | "token" | "config" | "statistics";

export type PlacedReference = {
  readonly reference: ModelReference;
  readonly path: FieldPath;
  readonly role: ReferenceRole;
};

/** References of models and slices first, then the bases, those that give tokens or the config, and statistics. */
export function listReferences(merge: MergeConfig | MoeConfig): readonly PlacedReference[] {
  if ("experts" in merge) return moeReferences(merge);
  const { base_model: base, config_source: config } = merge;
  const parts = [
    ...partReferences(merge, []),
    ...Object.entries(merge.modules ?? {}).flatMap(([name, part]) => partReferences(part, ["modules", name])),
  ];
  return [
    ...parts.filter(({ role }) => role === "merged"),
    ...parts.filter(({ role }) => role === "base"),
    ...(base == null ? [] : [placed(base, ["base_model"], "base")]),
    ...tokenizerReferences(merge),
    ...(config == null || config === "base" ? [] : [placed(config, ["config_source"], "config")]),
    ...parts.filter(({ role }) => role === "statistics"),
  ];
}

function moeReferences({ base_model: base, experts, shared_experts: shared }: MoeConfig): readonly PlacedReference[] {
  const expertsOf = (list: MoeConfig["experts"], field: string) =>
    list.map(({ source_model: model }, index) => placed(model, [field, index, "source_model"], "merged"));
  return [
    placed(base, ["base_model"], "base"),
    ...expertsOf(experts, "experts"),
    ...expertsOf(shared ?? [], "shared_experts"),
  ];
}

/** References of `models` and `slices`, at the top or in a module. */
function partReferences(
  { models, slices }: Pick<MergeConfig, "models" | "slices">,
  field: FieldPath,
): PlacedReference[] {
  const listed = (models ?? []).flatMap((entry, index) => entryReferences(entry, [...field, "models", index]));
  const sliced = (slices ?? []).flatMap(({ sources, base_model: base }, outer) => {
    const place = [...field, "slices", outer];
    return [
      ...sources.flatMap((source, index) => entryReferences(source, [...place, "sources", index])),
      ...(base == null ? [] : [placed(base, [...place, "base_model"], "base")]),
    ];
  });
  return [...listed, ...sliced];
}

/** A model, and its statistics where it has some. */
function entryReferences(
  { model, statistics }: Pick<NonNullable<MergeConfig["models"]>[number], "model" | "statistics">,
  field: FieldPath,
): readonly PlacedReference[] {
  const own = placed(model, [...field, "model"], "merged");
  return statistics == null ? [own] : [own, placed(statistics, [...field, "statistics"], "statistics")];
}

function tokenizerReferences({ tokenizer, tokenizer_source: legacy }: MergeConfig): readonly PlacedReference[] {
  const sources = [
    { source: legacy, path: ["tokenizer_source"] },
    { source: tokenizer?.source, path: ["tokenizer", "source"] },
  ].flatMap(({ source, path }) =>
    source == null || typeof source === "string" ? [] : [placed(source, path, "token")],
  );
  const tokens = Object.entries(tokenizer?.tokens ?? {}).flatMap(([token, { source }]) => {
    const path = ["tokenizer", "tokens", token, "source"];
    if (source == null || ("kind" in source && source.kind === "zero")) return [];
    return ["kind" in source ? placed(source.model, [...path, "model"], "token") : placed(source, path, "token")];
  });
  return [...sources, ...tokens];
}

function placed(reference: ModelReference, path: FieldPath, role: ReferenceRole): PlacedReference {
  return { reference, path, role };
}
