// Which axes of a model's tensors can be permuted together without changing what the model computes: derived from the
// tensors' names for known families, or given. Data, not code: a family is a list of names with their axes.
// Source: Git Re-Basin, arXiv:2209.04836; merge reference section 10.
import * as z from "zod";
import type { TensorEntry } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";

/** By tensor, the permutation of each axis; null where an axis stays. In the order of first mention. */
export type PermutationSpec = ReadonlyMap<string, readonly (string | null)[]>;

/** A spec as a file: `{"axes_to_perm": {"name": ["P_0", null]}}`, as Git Re-Basin's code calls it. */
export const permutationSpecSchema = z.looseObject({
  axes_to_perm: z.record(z.string(), z.array(z.string().min(1).nullable())),
});

/**
 * A family: patterns of names, `*` a layer's number, and the axes' permutations, where `*` is that number. `prefix`:
 * what the first pattern's name may have in front, the others must have too.
 */
type Family = {
  readonly id: string;
  readonly tensors: readonly (readonly [pattern: string, axes: readonly (string | null)[]])[];
};

const STREAM = "stream";
const INNER = "inner.*";

/** RMSNorm and LayerNorm commute with a permutation of the stream; heads stay as they are. */
const LLAMA: Family = {
  id: "llama",
  tensors: [
    ["embed_tokens.weight", [null, STREAM]],
    ["norm.weight", [STREAM]],
    ["lm_head.weight", [null, STREAM]],
    ["layers.*.input_layernorm.weight", [STREAM]],
    ["layers.*.post_attention_layernorm.weight", [STREAM]],
    ...["q_proj", "k_proj", "v_proj"].flatMap((name) => [
      [`layers.*.self_attn.${name}.weight`, [null, STREAM]] as const,
      [`layers.*.self_attn.${name}.bias`, [null]] as const,
    ]),
    ["layers.*.self_attn.q_norm.weight", [null]],
    ["layers.*.self_attn.k_norm.weight", [null]],
    ["layers.*.self_attn.rotary_emb.inv_freq", [null]],
    ["layers.*.self_attn.o_proj.weight", [STREAM, null]],
    ["layers.*.self_attn.o_proj.bias", [STREAM]],
    ...["gate_proj", "up_proj"].flatMap((name) => [
      [`layers.*.mlp.${name}.weight`, [INNER, STREAM]] as const,
      [`layers.*.mlp.${name}.bias`, [INNER]] as const,
    ]),
    ["layers.*.mlp.down_proj.weight", [STREAM, INNER]],
    ["layers.*.mlp.down_proj.bias", [STREAM]],
  ],
};

const VIT: Family = {
  id: "vit",
  tensors: [
    ["embeddings.cls_token", [null, null, STREAM]],
    ["embeddings.position_embeddings", [null, null, STREAM]],
    ["embeddings.patch_embeddings.projection.weight", [STREAM, null, null, null]],
    ["embeddings.patch_embeddings.projection.bias", [STREAM]],
    ["layernorm.weight", [STREAM]],
    ["layernorm.bias", [STREAM]],
    ["pooler.dense.weight", [null, STREAM]],
    ["pooler.dense.bias", [null]],
    ["classifier.weight", [null, STREAM]],
    ["classifier.bias", [null]],
    ...["layernorm_before", "layernorm_after"].flatMap((name) => [
      [`encoder.layer.*.${name}.weight`, [STREAM]] as const,
      [`encoder.layer.*.${name}.bias`, [STREAM]] as const,
    ]),
    ...["query", "key", "value"].flatMap((name) => [
      [`encoder.layer.*.attention.attention.${name}.weight`, [null, STREAM]] as const,
      [`encoder.layer.*.attention.attention.${name}.bias`, [null]] as const,
    ]),
    ["encoder.layer.*.attention.output.dense.weight", [STREAM, null]],
    ["encoder.layer.*.attention.output.dense.bias", [STREAM]],
    ["encoder.layer.*.intermediate.dense.weight", [INNER, STREAM]],
    ["encoder.layer.*.intermediate.dense.bias", [INNER]],
    ["encoder.layer.*.output.dense.weight", [STREAM, INNER]],
    ["encoder.layer.*.output.dense.bias", [STREAM]],
  ],
};

const FAMILIES: readonly Family[] = [LLAMA, VIT];

/** Names of the families that are recognised, for messages. */
const FAMILY_IDS: readonly string[] = [...FAMILIES.map(({ id }) => id), "mlp"];

/**
 * The spec of a model by its tensors' names. Every tensor must be one of the family's: one that is not known could
 * depend on the order of units.
 * Throws AlignModelUnknown.
 */
export function derivePermutations(tensors: readonly TensorEntry[]): PermutationSpec {
  const chain = deriveChain(tensors);
  if (chain !== undefined) return chain;
  const found = FAMILIES.map((family) => matchFamily(family, tensors)).sort(
    (a, b) => a.unknown.length - b.unknown.length,
  );
  const [best] = found;
  if (best?.unknown.length === 0) return best.spec;
  throw new MergeyardError("AlignModelUnknown", {
    where: { tensor: best?.unknown[0] },
    found: "a tensor of no known family",
    expected: `a model of the families ${FAMILY_IDS.join(", ")}`,
  });
}

function matchFamily({ tensors: patterns }: Family, tensors: readonly TensorEntry[]) {
  const spec = new Map<string, readonly (string | null)[]>();
  const unknown: string[] = [];
  const compiled = patterns.map(([pattern, axes]) => {
    const text = pattern.replaceAll(".", "\\.").replaceAll("*", "(\\d+)");
    return { pattern: new RegExp(`^(?:.+\\.)?${text}$`), axes };
  });
  for (const { name, shape } of tensors) {
    // A shorter pattern may be the end of a longer name: the longest match decides.
    const matches = compiled.flatMap(({ pattern, axes }) => {
      const match = pattern.exec(name);
      return match === null ? [] : [{ axes, layer: match[1] ?? "", length: pattern.source.length }];
    });
    const best = matches.sort((a, b) => b.length - a.length)[0];
    if (best === undefined || best.axes.length !== shape.length) unknown.push(name);
    else
      spec.set(
        name,
        best.axes.map((axis) => axis?.replace("*", best.layer) ?? null),
      );
  }
  return { spec, unknown };
}

/** Layers one after the other: `PREFIX.N.weight` [outputs, inputs], perhaps `PREFIX.N.bias`, and nothing else. */
function deriveChain(tensors: readonly TensorEntry[]): PermutationSpec | undefined {
  const layers = tensors.map(({ name, shape }) => {
    const [, prefix = "", number = "", kind = ""] = /^(.*?)(\d+)\.(weight|bias)$/.exec(name) ?? [];
    return { name, prefix, number: Number(number), kind, shape };
  });
  const weights = layers.filter(({ kind }) => kind === "weight").sort((a, b) => a.number - b.number);
  const isChain =
    weights.length > 1 &&
    weights.every(({ shape }, i) => shape.length === 2 && (i === 0 || shape[1] === weights[i - 1]?.shape[0])) &&
    layers.every(({ kind, prefix, number, shape }) => {
      const own = weights.find((weight) => weight.number === number);
      if (own === undefined || prefix !== own.prefix || prefix !== weights[0]?.prefix) return false;
      return kind === "weight" || (shape.length === 1 && shape[0] === own.shape[0]);
    });
  if (!isChain) return undefined;
  const place = (number: number) => weights.findIndex((weight) => weight.number === number);
  const after = (index: number) =>
    index < 0 || index === weights.length - 1 ? null : `hidden.${weights[index]?.number}`;
  return new Map(
    layers.map(({ name, number, kind }) => {
      const index = place(number);
      return [name, kind === "bias" ? [after(index)] : [after(index), after(index - 1)]];
    }),
  );
}
