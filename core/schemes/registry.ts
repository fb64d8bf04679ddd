// Every quantization scheme by its id. Tables in the documents and command-line help are made from it.
import assert from "node:assert/strict";
import { awq } from "./awq.ts";
import { q4_0, q4_1, q5_0, q5_1 } from "./blocks-of-32.ts";
import type { CompressedForm } from "./compressed-form.ts";
import { q1_0, tq1_0, tq2_0 } from "./few-values.ts";
import { mxfp4a16, nvfp4a16 } from "./float4.ts";
import { type Float8Form, float8 } from "./float8.ts";
import { bf16, f16, f32 } from "./floats.ts";
import type { FolderForm } from "./folder-form.ts";
import { mxfp4, nvfp4 } from "./fp4.ts";
import { type GptqForm, gptq } from "./gptq.ts";
import { hqq } from "./hqq.ts";
import { type IntegerForm, integers } from "./integers.ts";
import { iq4_nl, iq4_xs } from "./iq4.ts";
import { q2_k, q4_k, q5_k } from "./k-affine.ts";
import { q3_k, q6_k } from "./k-signed.ts";
import { lowRankSparse } from "./low-rank-sparse.ts";
import { nf4 } from "./nf4.ts";
import { q8_0 } from "./q8_0.ts";
import type { BlockScheme, PartScheme } from "./scheme.ts";
import { binary, denseShift } from "./signs.ts";
import { E2M5, E3M4, E4M3, E5M2 } from "./small-floats.ts";
import { sparse24 } from "./sparse24.ts";

/** Schemes of GGUF blocks by id, in sorted order. */
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

function integerScheme(bits: number, group: IntegerForm["group"], options: Partial<IntegerForm> = {}): PartScheme {
  const { symmetric = true, packed = true, activations = "none" } = options;
  const kind = group === "row" ? "channel" : group === "tensor" ? "tensor" : `group${group}`;
  const shared = group === "row" ? "a channel" : group === "tensor" ? "the tensor" : group;
  return integers({
    id: options.id ?? `int${bits}_${kind}${symmetric ? "" : "_asym"}`,
    title: options.title ?? `${bits}-bit integers, scale ${symmetric ? "" : "and zero point "}for ${shared}`,
    bits,
    group,
    symmetric,
    packed,
    activations,
  });
}

function float8Scheme(id: string, title: string, scales: Float8Form["scales"], options: Partial<Float8Form> = {}) {
  const { format = E4M3, dtype = "F8_E4M3", activations = "none" } = options;
  return float8({ id, title, scales, format, dtype, activations });
}

function gptqScheme(bits: GptqForm["bits"], group: GptqForm["group"]): PartScheme {
  const shared = group === "row" ? "a channel" : group;
  const title = `${bits}-bit integers, scale for ${shared} (GPTQ)`;
  const form = { bits, group, symmetric: true, byActivation: false, staticGroups: false };
  return gptq(`gptq${bits}_${group === "row" ? "channel" : `group${group}`}`, title, form);
}

const asymmetric = { symmetric: false };

const PARTS: readonly PartScheme[] = [
  integerScheme(8, "row", {
    id: "int8_dynamic",
    title: "8-bit integers, scale for a channel, activations by token",
    packed: false,
    activations: "token",
  }),
  integerScheme(8, "tensor", { packed: false, activations: "token" }),
  ...([3, 4, 6, 8] as const).flatMap((bits) => [
    integerScheme(bits, "row"),
    integerScheme(bits, "row", asymmetric),
    ...([32, 64, 128] as const).flatMap((group) => [
      integerScheme(bits, group),
      integerScheme(bits, group, asymmetric),
    ]),
  ]),
  float8Scheme("fp8_dynamic", "E4M3, scale for a channel, activations by token", "row", { activations: "token" }),
  float8Scheme("fp8_channel", "E4M3, scale for a channel", "row"),
  float8Scheme("fp8_tensor", "E4M3, scale for the tensor, activations by token", "tensor", { activations: "token" }),
  float8Scheme("fp8_block", "E4M3, scale for 128 x 128, activations by 128 of a token", [128, 128], {
    activations: "group128",
  }),
  float8Scheme("fp8_e5m2_channel", "E5M2, scale for a channel", "row", { format: E5M2, dtype: "F8_E5M2" }),
  float8Scheme("fp8_e3m4_channel", "E3M4, scale for a channel", "row", { format: E3M4, dtype: "U8" }),
  float8Scheme("fp8_e2m5_channel", "E2M5, scale for a channel", "row", { format: E2M5, dtype: "U8" }),
  nvfp4a16,
  mxfp4a16,
  ...([64, 128] as const).map((block) => nf4(`nf4_block${block}`, block)),
  ...([2, 3, 4, 8] as const).map((bits) => hqq(`hqq${bits}_group64`, bits, 64)),
  ...([2, 3, 4, 8] as const).flatMap((bits) => [gptqScheme(bits, 128), gptqScheme(bits, "row")]),
  awq("awq4_group128", 128),
  sparse24,
  binary,
  denseShift(3),
  denseShift(4),
  lowRankSparse,
];

/** A scheme that compressed-tensors folders hold. */
export type CompressedScheme = PartScheme & { readonly form: CompressedForm };

function isCompressed(scheme: PartScheme): scheme is CompressedScheme {
  return scheme.form?.container === "compressed-tensors";
}

/** Schemes that store named parts, by id. */
export const PART_SCHEMES: ReadonlyMap<string, PartScheme> = new Map(PARTS.map((scheme) => [scheme.id, scheme]));

/** Those of compressed-tensors folders, by id. */
export const COMPRESSED_SCHEMES: ReadonlyMap<string, CompressedScheme> = new Map(
  PARTS.filter(isCompressed).map((scheme) => [scheme.id, scheme]),
);

/** A scheme that some folder holds that servers load. */
export type FolderScheme = PartScheme & { readonly form: FolderForm };

function hasFolder(scheme: PartScheme): scheme is FolderScheme {
  return scheme.form !== undefined;
}

/** All of them, by id. */
export const FOLDER_SCHEMES: ReadonlyMap<string, FolderScheme> = new Map(
  PARTS.filter(hasFolder).map((scheme) => [scheme.id, scheme]),
);

/** The scheme of an id that a plan or a checked input has. */
export function knownFolderScheme(id: string): FolderScheme {
  const scheme = FOLDER_SCHEMES.get(id);
  assert.ok(scheme !== undefined, `${id} is a scheme that folders hold`);
  return scheme;
}

/** Names of presets of llm-compressor and of mixes of llama-quantize, in lower case, and the schemes they mean. */
export const SCHEME_ALIASES: ReadonlyMap<string, string> = new Map([
  ["w8a8", "int8_dynamic"],
  ["int8", "int8_dynamic"],
  ["w8a16", "int8_channel"],
  ["w4a16", "int4_group128"],
  ["w4a16_asym", "int4_group128_asym"],
  ["q3_k", "q3_k_m"],
  ["q4_k", "q4_k_m"],
  ["q5_k", "q5_k_m"],
]);
