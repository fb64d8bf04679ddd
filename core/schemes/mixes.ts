// Which scheme each tensor of a quantized file gets: a base for most of them, more bits for the ones that hurt most.
// The names are those of llama-quantize, whose files these reproduce.
// Source: llama.cpp c392e509, llama-quant.cpp; quantization reference section 3.4.
import { MergeyardError } from "../error.ts";
import { BLOCK_SCHEME_IDS, BLOCK_SCHEMES, type BlockSchemeId, isBlockSchemeId } from "./registry.ts";

/** What a tensor is to the rules; `other` is every further matrix. */
export type TensorKind = "output" | "embedding" | "attn_k" | "attn_v" | "attn_output" | "ffn_down" | "other";

/** Where a matrix stands: `index` is its number among those of its kind, of `count`. */
export type MixPlace = {
  /** Its name in the file. */
  readonly name: string;
  readonly kind: TensorKind;
  readonly index: number;
  readonly count: number;
  /** Query heads that share one key and value head. */
  readonly sharing: number;
  /** Experts of a layer; 0 without. */
  readonly experts: number;
  /** True of the embedding where there is no output matrix: it is one. */
  readonly isTied: boolean;
  /** An importance matrix is given. */
  readonly isWeighted: boolean;
};

type Rule = (place: MixPlace) => BlockSchemeId | undefined;

export type Mix = {
  readonly id: string;
  readonly base: BlockSchemeId;
  /** Value of `general.file_type`; absent where the format has none. */
  readonly fileType?: number;
  /** False: every matrix has the base, the output too. */
  readonly raisesOutput: boolean;
  readonly rules: Partial<Record<TensorKind, Rule>>;
  /** A bit plan: the scheme of every matrix by name. Rules have no say then. */
  readonly planned?: ReadonlyMap<string, BlockSchemeId>;
};

/** The layers that get more bits: the first and last eighth, and every third between. */
function takesMore({ index, count }: MixPlace): boolean {
  const eighth = Math.floor(count / 8);
  return index < eighth || index >= Math.floor((7 * count) / 8) || (index - eighth) % 3 === 2;
}

/** The first eighth of the layers, where there is an importance matrix. */
function isEarlyWeighted({ index, count, isWeighted }: MixPlace): boolean {
  return isWeighted && index < Math.floor(count / 8);
}

const always =
  (scheme: BlockSchemeId): Rule =>
  () =>
    scheme;
/** Mixtral and its like: most weights are experts', and attention gets more bits at little cost. */
const hasEight = ({ experts }: MixPlace): boolean => experts === 8;
const withEight: Rule = (place) => (hasEight(place) ? "q5_k" : undefined);
const whereMore: Rule = (place) => (takesMore(place) ? "q6_k" : undefined);

function mix(id: string, base: BlockSchemeId, fileType: number, rules: Mix["rules"] = {}): Mix {
  return Object.freeze({ id, base, fileType, raisesOutput: true, rules });
}

/** Every matrix in one scheme. */
function uniform(base: BlockSchemeId, fileType?: number): Mix {
  const known = fileType === undefined ? {} : { fileType };
  return Object.freeze({ id: base, base, raisesOutput: false, rules: {}, ...known });
}

const ALL: readonly Mix[] = [
  uniform("f32", 0),
  uniform("f16", 1),
  uniform("bf16", 32),
  uniform("q8_0", 7),
  mix("q4_0", "q4_0", 2, { ffn_down: (place) => (isEarlyWeighted(place) ? "q4_1" : undefined) }),
  mix("q4_1", "q4_1", 3),
  mix("q5_0", "q5_0", 8, { ffn_down: (place) => (isEarlyWeighted(place) ? "q5_1" : undefined) }),
  mix("q5_1", "q5_1", 9),
  mix("q2_k", "q2_k", 10, {
    attn_v: ({ sharing }) => (sharing >= 4 ? "q4_k" : "q3_k"),
    ffn_down: always("q3_k"),
    attn_output: (place) => withEight(place) ?? "q3_k",
  }),
  mix("q3_k_s", "q3_k", 11, { attn_output: withEight }),
  mix("q3_k_m", "q3_k", 12, {
    attn_v: ({ index }) => (index < 2 ? "q5_k" : "q4_k"),
    ffn_down: ({ index, count }) => (index < Math.floor(count / 16) ? "q5_k" : "q4_k"),
    attn_output: (place) => withEight(place) ?? "q4_k",
  }),
  mix("q3_k_l", "q3_k", 13, {
    attn_v: always("q5_k"),
    ffn_down: always("q5_k"),
    attn_output: (place) => (hasEight(place) ? undefined : "q5_k"),
  }),
  mix("q4_k_s", "q4_k", 14, {
    attn_v: ({ index }) => (index < 4 ? "q5_k" : undefined),
    ffn_down: ({ index, count }) => (index < Math.floor(count / 8) ? "q5_k" : undefined),
    attn_output: withEight,
  }),
  mix("q4_k_m", "q4_k", 15, { attn_v: whereMore, ffn_down: whereMore, attn_output: withEight }),
  mix("q5_k_s", "q5_k", 16),
  mix("q5_k_m", "q5_k", 17, { attn_v: whereMore, ffn_down: whereMore }),
  mix("q6_k", "q6_k", 18),
  uniform("iq4_nl", 25),
  uniform("iq4_xs", 30),
  uniform("mxfp4"),
  uniform("nvfp4"),
  uniform("q1_0"),
  uniform("tq1_0", 36),
  uniform("tq2_0", 37),
];

/** Every mix by its id. */
export const MIXES: ReadonlyMap<string, Mix> = new Map(ALL.map((each) => [each.id, each]));

/**
 * A mix that follows a bit plan; its file type is that of the scheme most matrices have, the first of them on a tie.
 * Throws BitPlanInvalid: a scheme that GGUF does not have.
 */
export function plannedMix(plan: Readonly<Record<string, string>>): Mix {
  const planned = new Map<string, BlockSchemeId>();
  for (const [tensor, scheme] of Object.entries(plan)) {
    if (!isBlockSchemeId(scheme)) {
      const expected = BLOCK_SCHEME_IDS.join(", ");
      throw new MergeyardError("BitPlanInvalid", { where: { tensor }, found: scheme, expected });
    }
    planned.set(tensor, scheme);
  }
  const counts = Map.groupBy(planned.values(), (scheme) => scheme);
  const [base = "f16"] = [...counts.keys()].sort((a, b) => (counts.get(b)?.length ?? 0) - (counts.get(a)?.length ?? 0));
  return { ...uniform(base, MIXES.get(base)?.fileType), id: "bit plan", planned };
}

/** What a scheme gives way to where its block does not divide a row; still not: F16. */
const NARROWER: Partial<Record<BlockSchemeId, BlockSchemeId>> = {
  q2_k: "iq4_nl",
  q3_k: "iq4_nl",
  q4_k: "q5_0",
  q5_k: "q5_1",
  q6_k: "q8_0",
  iq4_xs: "iq4_nl",
};

/**
 * The scheme of a matrix whose rows have `columns` elements. Throws BitPlanInvalid: the plan has none for the matrix,
 * or one whose blocks do not fill its rows.
 */
export function chooseScheme(mix: Mix, place: MixPlace, columns: number): BlockSchemeId {
  return mix.planned === undefined ? ruledScheme(mix, place, columns) : plannedScheme(mix.planned, place.name, columns);
}

function plannedScheme(planned: ReadonlyMap<string, BlockSchemeId>, tensor: string, columns: number): BlockSchemeId {
  const scheme = planned.get(tensor);
  if (scheme !== undefined && columns % BLOCK_SCHEMES[scheme].blockElements === 0) return scheme;
  const found = scheme === undefined ? "no scheme" : `${scheme} for rows of ${columns}`;
  const expected = scheme === undefined ? "a scheme" : `rows of whole blocks of ${BLOCK_SCHEMES[scheme].blockElements}`;
  throw new MergeyardError("BitPlanInvalid", { where: { tensor }, found, expected });
}

function ruledScheme({ base, raisesOutput, rules }: Mix, place: MixPlace, columns: number): BlockSchemeId {
  const isOutput = place.kind === "output" || (place.kind === "embedding" && place.isTied);
  if (isOutput && raisesOutput)
    return columns % BLOCK_SCHEMES.q6_k.blockElements === 0 ? "q6_k" : fitting("q8_0", columns);
  const isShared = place.kind === "attn_k" || place.kind === "attn_v";
  if (raisesOutput && hasEight(place) && isShared) return fitting("q8_0", columns);
  const ruled = rules[place.kind]?.(place) ?? base;
  // Llama 2 70B and its like: eight heads share the values, which are then small.
  const isLarge = place.kind === "attn_v" && place.count === 80 && place.sharing === 8;
  return fitting(isLarge && (ruled === "q3_k" || ruled === "q4_k") ? "q5_k" : ruled, columns);
}

function fitting(scheme: BlockSchemeId, columns: number): BlockSchemeId {
  if (columns % BLOCK_SCHEMES[scheme].blockElements === 0) return scheme;
  const narrower = NARROWER[scheme];
  return narrower !== undefined && columns % BLOCK_SCHEMES[narrower].blockElements === 0 ? narrower : "f16";
}
