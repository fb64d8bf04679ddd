// Tensors of a checkpoint as tensors of a GGUF file: the name of each there, the shape that the config gives it, and
// what it is to the rules that choose schemes. Called by model.ts.
import type { TensorEntry } from "../../checkpoint.ts";
import { MergeyardError } from "../../error.ts";
import type { TensorKind } from "../../schemes/mixes.ts";
import type { Shape } from "../../tensor.ts";
import { GGUF_OUTSIDE, type GgufFamily } from "./names.ts";

/** Numbers of a model that shapes follow from. */
export type GgufSizes = {
  readonly layers: number;
  readonly hidden: number;
  readonly heads: number;
  readonly keyHeads: number;
  readonly headSize: number;
  /** Of one expert, where there are any. */
  readonly inner: number;
  /** Of the expert that sees every token; 0 without. */
  readonly shared: number;
  readonly experts: number;
  readonly vocabulary: number;
};

/** A part of a layer: its name in GGUF, and what a tensor of it has to be. */
type Part = {
  readonly inside: string;
  readonly shape: Shape;
  readonly kind: TensorKind;
  /** Heads whose rows may move. */
  readonly heads: number | undefined;
  /** Number among the experts. */
  readonly expert: number | undefined;
  readonly staysFloat: boolean;
};
export type GgufParts = ReadonlyMap<string, Part>;

export type Named = Omit<Part, "inside" | "shape"> & { readonly name: string; readonly layer: number };

/** Kinds that rules know, by the part. */
const KINDS: Readonly<Record<string, TensorKind>> = {
  attn_k: "attn_k",
  attn_v: "attn_v",
  attn_qkv: "attn_v",
  attn_output: "attn_output",
  ffn_down: "ffn_down",
  ffn_down_exps: "ffn_down",
  ffn_down_shexp: "ffn_down",
};
const ROUTER = "ffn_gate_inp";
/** A vector in GGUF, and a matrix of one row in the checkpoint. */
export const SHARED_ROUTER = "ffn_gate_inp_shexp";

const LAYER = /^model\.layers\.(\d{1,5})\.(.+)$/;

function shapesOf(family: GgufFamily, sizes: GgufSizes): Readonly<Record<string, Shape>> {
  const { hidden, heads, keyHeads, headSize, inner, shared, experts } = sizes;
  const norm = [hidden];
  return {
    attn_norm: norm,
    ffn_norm: norm,
    post_attention_norm: norm,
    post_ffw_norm: norm,
    attn_q: [heads * headSize, hidden],
    attn_k: [keyHeads * headSize, hidden],
    attn_v: [keyHeads * headSize, hidden],
    attn_qkv: [(heads + 2 * keyHeads) * headSize, hidden],
    attn_output: [hidden, heads * headSize],
    attn_q_norm: [family.normsAcross === true ? heads * headSize : headSize],
    attn_k_norm: [family.normsAcross === true ? keyHeads * headSize : headSize],
    ffn_gate: [inner, hidden],
    ffn_up: [family.fusesGate === true ? 2 * inner : inner, hidden],
    ffn_down: [hidden, inner],
    ffn_gate_shexp: [shared, hidden],
    ffn_up_shexp: [shared, hidden],
    ffn_down_shexp: [hidden, shared],
    [ROUTER]: [experts, hidden],
    [SHARED_ROUTER]: [1, hidden],
  };
}

/** Every part of a layer of this model, by its name in the checkpoint. */
export function partsOf(family: GgufFamily, sizes: GgufSizes): GgufParts {
  const shapes = shapesOf(family, sizes);
  const part = (inside: string, expert?: number): Part => ({
    inside,
    shape: shapes[inside.replace("_exps", "")] ?? [],
    kind: KINDS[inside] ?? "other",
    heads: inside === "attn_q" ? sizes.heads : inside === "attn_k" ? sizes.keyHeads : undefined,
    expert,
    staysFloat: inside === ROUTER || inside === SHARED_ROUTER,
  });
  const own = family.experts;
  const plain = Object.entries(family.parts)
    .filter(([, inside]) => own === undefined || !DENSE.has(inside))
    .map(([name, inside]) => [name, part(inside)] as const);
  if (own === undefined) return new Map(plain);
  const stacked = Object.entries(own.parts).flatMap(([inside, name]) =>
    Array.from({ length: sizes.experts }, (_, expert) => {
      return [name.replace("E", String(expert)), part(`ffn_${inside}_exps`, expert)] as const;
    }),
  );
  return new Map([...plain, [own.router, part(ROUTER)], ...stacked]);
}

/** What experts stand in the place of. */
const DENSE: ReadonlySet<string> = new Set(["ffn_gate", "ffn_up", "ffn_down"]);

/** The name in GGUF and what the tensor is to the rules. Throws QuantizeModelUnsupported. */
export function nameTensor(
  { name, shape, dtype }: Pick<TensorEntry, "name" | "shape" | "dtype">,
  family: GgufFamily,
  sizes: GgufSizes,
  parts: GgufParts,
): Named {
  const refuse = (expected: string) =>
    new MergeyardError("QuantizeModelUnsupported", { where: { tensor: name }, found: `${dtype} [${shape}]`, expected });
  const check = (expected: Shape) => {
    if (shape.join() !== expected.join()) throw refuse(`[${expected}]`);
  };
  const mayHave = (inside: string, suffix: string) => suffix !== "bias" || family.biases?.includes(inside) === true;
  const outside = GGUF_OUTSIDE[name];
  if (outside !== undefined && mayHave(...splitSuffix(outside))) {
    check(outside.startsWith("output_norm.") ? [sizes.hidden] : [sizes.vocabulary, sizes.hidden]);
    const kind = outside === "output.weight" ? "output" : outside === "token_embd.weight" ? "embedding" : "other";
    return { name: outside, kind, layer: -1, heads: undefined, expert: undefined, staysFloat: false };
  }
  const [, layer = "", rest = ""] = LAYER.exec(name) ?? [];
  const [path, suffix] = splitSuffix(rest);
  const part = parts.get(path);
  if (part === undefined || !mayHave(part.inside, suffix) || Number(layer) >= sizes.layers) {
    throw refuse(`a tensor of ${family.modelType} with ${sizes.layers} layers`);
  }
  const { inside, shape: expected, kind, ...own } = part;
  const isBias = suffix === "bias";
  check(isBias ? expected.slice(0, 1) : expected);
  return { ...own, name: `blk.${layer}.${inside}.${suffix}`, kind: isBias ? "other" : kind, layer: Number(layer) };
}

function splitSuffix(name: string): [path: string, suffix: string] {
  const [, path = "", suffix = ""] = /^(.+)\.(weight|bias)$/.exec(name) ?? [];
  return [path, suffix];
}

/** Names that a file of this model has to have. */
export function namesOf(family: GgufFamily, sizes: GgufSizes, parts: GgufParts, isTied: boolean): readonly string[] {
  const insides = new Set([...parts.values()].map(({ inside }) => inside));
  const biased = family.needsBiases === true ? (family.biases ?? []) : [];
  const inLayer = [
    ...[...insides].map((inside) => `${inside}.weight`),
    ...biased.filter((inside) => insides.has(inside)).map((inside) => `${inside}.bias`),
  ];
  const layers = Array.from({ length: sizes.layers }, (_, layer) => inLayer.map((name) => `blk.${layer}.${name}`));
  const outside = ["token_embd.weight", "output_norm.weight", ...(isTied ? [] : ["output.weight"])];
  const last = biased.includes("output_norm") ? ["output_norm.bias"] : [];
  return [...outside, ...last, ...layers.flat()];
}
