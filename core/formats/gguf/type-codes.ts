// What a GGUF file may hold: kinds of metadata values, types of tokens and of tensors, each with its number in the
// format.
// Source: ggml, gguf.h and ggml.h; quantization reference section 2.
import assert from "node:assert/strict";
import type { BlockSchemeId } from "../../schemes/registry.ts";
import type { PieceKind } from "../../tokenizer/sentencepiece.ts";

/** Metadata values of one number, by the number of their kind. */
export const GGUF_SCALARS = Object.freeze({
  0: { kind: "u8", bytes: 1 },
  1: { kind: "i8", bytes: 1 },
  2: { kind: "u16", bytes: 2 },
  3: { kind: "i16", bytes: 2 },
  4: { kind: "u32", bytes: 4 },
  5: { kind: "i32", bytes: 4 },
  6: { kind: "f32", bytes: 4 },
  7: { kind: "bool", bytes: 1 },
  10: { kind: "u64", bytes: 8 },
  11: { kind: "i64", bytes: 8 },
  12: { kind: "f64", bytes: 8 },
} as const);

export const GGUF_STRING = 8;
export const GGUF_ARRAY = 9;

export type GgufScalarKind = (typeof GGUF_SCALARS)[keyof typeof GGUF_SCALARS]["kind"];

/** One metadata value. 64-bit integers are bigints; an array holds values of one kind. */
export type GgufValue =
  | { readonly kind: Exclude<GgufScalarKind, "bool" | "u64" | "i64">; readonly value: number }
  | { readonly kind: "u64" | "i64"; readonly value: bigint }
  | { readonly kind: "bool"; readonly value: boolean }
  | { readonly kind: "string"; readonly value: string }
  | { readonly kind: "array"; readonly element: GgufValue["kind"]; readonly values: readonly GgufValue[] };

export type GgufMetadata = ReadonlyMap<string, GgufValue>;

/** Values of `tokenizer.ggml.token_type`: the numbers that SentencePiece has for its kinds of pieces. */
export const TOKEN_TYPES = Object.freeze({
  normal: 1,
  unknown: 2,
  control: 3,
  "user-defined": 4,
  unused: 5,
  byte: 6,
} satisfies Record<PieceKind, number>);

export type GgufType = {
  readonly id: number;
  /** As ggml spells it. */
  readonly name: string;
  readonly blockElements: number;
  readonly blockBytes: number;
  /** Absent for types that can be listed but neither written nor read back. */
  readonly scheme?: BlockSchemeId;
};

/** Number, name, elements and bytes of a block, and the scheme. */
const ROWS: readonly (readonly [number, string, number, number, BlockSchemeId?])[] = [
  [0, "F32", 1, 4, "f32"],
  [1, "F16", 1, 2, "f16"],
  [2, "Q4_0", 32, 18, "q4_0"],
  [3, "Q4_1", 32, 20, "q4_1"],
  [6, "Q5_0", 32, 22, "q5_0"],
  [7, "Q5_1", 32, 24, "q5_1"],
  [8, "Q8_0", 32, 34, "q8_0"],
  [9, "Q8_1", 32, 36],
  [10, "Q2_K", 256, 84, "q2_k"],
  [11, "Q3_K", 256, 110, "q3_k"],
  [12, "Q4_K", 256, 144, "q4_k"],
  [13, "Q5_K", 256, 176, "q5_k"],
  [14, "Q6_K", 256, 210, "q6_k"],
  [15, "Q8_K", 256, 292],
  [16, "IQ2_XXS", 256, 66],
  [17, "IQ2_XS", 256, 74],
  [18, "IQ3_XXS", 256, 98],
  [19, "IQ1_S", 256, 50],
  [20, "IQ4_NL", 32, 18, "iq4_nl"],
  [21, "IQ3_S", 256, 110],
  [22, "IQ2_S", 256, 82],
  [23, "IQ4_XS", 256, 136, "iq4_xs"],
  [24, "I8", 1, 1],
  [25, "I16", 1, 2],
  [26, "I32", 1, 4],
  [27, "I64", 1, 8],
  [28, "F64", 1, 8],
  [29, "IQ1_M", 256, 56],
  [30, "BF16", 1, 2, "bf16"],
  [34, "TQ1_0", 256, 54, "tq1_0"],
  [35, "TQ2_0", 256, 66, "tq2_0"],
  [39, "MXFP4", 32, 17, "mxfp4"],
  [40, "NVFP4", 64, 36, "nvfp4"],
  [41, "Q1_0", 128, 18, "q1_0"],
];

/** Every tensor type by its number. */
export const GGUF_TYPES: ReadonlyMap<number, GgufType> = new Map(
  ROWS.map(([id, name, blockElements, blockBytes, scheme]) => [
    id,
    Object.freeze({ id, name, blockElements, blockBytes, ...(scheme === undefined ? {} : { scheme }) }),
  ]),
);

const TYPES_BY_SCHEME: ReadonlyMap<string | undefined, GgufType> = new Map(
  [...GGUF_TYPES.values()].map((type) => [type.scheme, type]),
);

/** The tensor type that a scheme writes. */
export function ggufTypeOf(scheme: BlockSchemeId): GgufType {
  const type = TYPES_BY_SCHEME.get(scheme);
  assert.ok(type !== undefined, "every scheme of blocks has a GGUF type");
  return type;
}
