// Every quantization scheme by its id, in sorted order. Tables in the documents and command-line help are made from it.
import { q4_0, q4_1, q5_0, q5_1 } from "./blocks-of-32.ts";
import { q1_0, tq1_0, tq2_0 } from "./few-values.ts";
import { bf16, f16, f32 } from "./floats.ts";
import { mxfp4, nvfp4 } from "./fp4.ts";
import { iq4_nl, iq4_xs } from "./iq4.ts";
import { q2_k, q4_k, q5_k } from "./k-affine.ts";
import { q3_k, q6_k } from "./k-signed.ts";
import { q8_0 } from "./q8_0.ts";
import type { BlockScheme } from "./scheme.ts";

/** By id. */
export const BLOCK_SCHEMES = Object.freeze({
  bf16,
  f16,
  f32,
  iq4_nl,
  iq4_xs,
  mxfp4,
  nvfp4,
  q1_0,
  q2_k,
  q3_k,
  q4_0,
  q4_1,
  q4_k,
  q5_0,
  q5_1,
  q5_k,
  q6_k,
  q8_0,
  tq1_0,
  tq2_0,
} satisfies Record<string, BlockScheme>);

export type BlockSchemeId = keyof typeof BLOCK_SCHEMES;

/** Ids in sorted order. */
export const BLOCK_SCHEME_IDS: readonly BlockSchemeId[] = Object.freeze(
  Object.keys(BLOCK_SCHEMES).filter(isBlockSchemeId),
);

/** True when `text` names a scheme. */
export function isBlockSchemeId(text: string): text is BlockSchemeId {
  return Object.hasOwn(BLOCK_SCHEMES, text);
}

/** The scheme of that id, or undefined. */
export function findBlockScheme(id: string): BlockScheme | undefined {
  return isBlockSchemeId(id) ? BLOCK_SCHEMES[id] : undefined;
}
