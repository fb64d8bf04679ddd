// A model whose bits are planned for a compressed-tensors folder: modules that servers fuse get one scheme, and any may
// stay as it is. And a plan, as a person may have edited it, as the scheme of every module.
import assert from "node:assert/strict";
import type { Checkpoint } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import type { Importance } from "../formats/gguf/imatrix.ts";
import { stackOf } from "../formats/gguf/names.ts";
import { NO_TOKENIZER } from "../formats/gguf/tokenizer.ts";
import { type ChooseScheme, planCompressedModel } from "../plan/compressed-model.ts";
import { findMisfit, type LinearModule, listLinear } from "../plan/linear-modules.ts";
import type { TensorKind } from "../schemes/mixes.ts";
import { COMPRESSED_SCHEMES, type CompressedScheme } from "../schemes/registry.ts";
import { partBytes } from "../schemes/round-trip.ts";
import { elementCount, tensorBytes } from "../tensor.ts";
import { UNQUANTIZED } from "./document.ts";
import { planGguf } from "./gguf.ts";
import type { PlannableMatrix, PlannableModel } from "./plannable.ts";
import type { SensitivityPlace } from "./sensitivity.ts";

/**
 * Of weights alone, so that their error is all that is lost, in widths that servers run: 4 and 8 bits, integers and
 * floats, and as it is.
 */
const CANDIDATES_DEFAULT: readonly string[] = [
  ...[32, 64, 128].flatMap((group) => [`int4_group${group}`, `int4_group${group}_asym`]),
  "nvfp4a16",
  "mxfp4a16",
  "int8_group128",
  "int8_channel",
  "fp8_channel",
  UNQUANTIZED,
];

/** Kinds by the last part of a module's path, as proxies that look at them know them. */
const KINDS: Readonly<Record<string, TensorKind>> = {
  k_proj: "attn_k",
  v_proj: "attn_v",
  o_proj: "attn_output",
  down_proj: "ffn_down",
  w2: "ffn_down",
};

export type FolderPlanOptions = {
  /** Modules to leave as they are: paths, or `re:` and an expression. They are in no plan. */
  readonly ignored: readonly string[];
  /** By GGUF's names. */
  readonly importance?: Importance | undefined;
  /** Ids of schemes of compressed-tensors folders, and `UNQUANTIZED`. */
  readonly wanted?: readonly string[] | undefined;
  readonly maxShardBytes: number;
};

/**
 * The linear modules of a model in groups of one scheme. Throws BitPlanInvalid: a candidate that such folders do not
 * have, a group that none fits; ImatrixInvalid, and what planning a folder throws.
 */
export function planFolderBits(
  checkpoint: Checkpoint,
  { ignored, importance, wanted = CANDIDATES_DEFAULT, maxShardBytes }: FolderPlanOptions,
): PlannableModel {
  for (const id of wanted) checkCandidate(id);
  const modules = listLinear(checkpoint, ignored);
  const own = importance === undefined ? new Map() : importanceOf(checkpoint, modules, importance);
  const planned = new Map(modules.map((module) => [module.entry.name, module]));
  const places = placesOf(modules);
  const groups = [...Map.groupBy(modules, ({ together }) => together).values()].map((members) => ({
    matrices: members.map((module): PlannableMatrix => {
      const { entry } = module;
      const place = places.get(module);
      assert.ok(place !== undefined, "every module has a place");
      return { name: entry.name, source: entry, place, importance: own.get(entry.name) };
    }),
    candidates: fittingSchemes(members, wanted),
    kept: wanted.includes(UNQUANTIZED) ? UNQUANTIZED : undefined,
  }));
  const others = checkpoint.tensors.filter(({ name }) => !planned.has(name));
  return {
    groups,
    elements: checkpoint.tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0),
    keptBytes: others.reduce((sum, { dtype, shape }) => sum + tensorBytes(dtype, shape), 0),
    bytesOf({ name, source: { dtype, shape } }, id) {
      const [scheme, matrix] = [COMPRESSED_SCHEMES.get(id), planned.get(name)?.matrix];
      return scheme === undefined || matrix === undefined ? tensorBytes(dtype, shape) : partBytes(scheme, matrix);
    },
    overheadBytes(schemes) {
      const choose: ChooseScheme = ({ entry }) => COMPRESSED_SCHEMES.get(schemes.get(entry.name) ?? "");
      const { shards, totalBytes } = planCompressedModel(checkpoint, choose, ignored, maxShardBytes);
      return shards.reduce((sum, { fileBytes }) => sum + fileBytes, -totalBytes);
    },
  };
}

/**
 * What follows a plan: the scheme of every linear module by the name of its weights. Throws BitPlanInvalid: a scheme
 * that such folders do not have, a module without one, a name of no module, fused modules in several; and what listing
 * modules throws.
 */
export function followFolderPlan(
  plan: Readonly<Record<string, string>>,
  checkpoint: Pick<Checkpoint, "tensors" | "config">,
  ignored: readonly string[],
): ChooseScheme {
  const modules = listLinear(checkpoint, ignored);
  const known = new Set(listLinear(checkpoint, []).map(({ entry }) => entry.name));
  const refuse = (tensor: string, found: string, expected: string) =>
    new MergeyardError("BitPlanInvalid", { where: { tensor }, found, expected });
  const schemes = new Map<string, CompressedScheme | undefined>();
  for (const [tensor, id] of Object.entries(plan)) {
    if (!known.has(tensor)) throw refuse(tensor, "no such module", "only linear modules of this model");
    const scheme = COMPRESSED_SCHEMES.get(id);
    if (scheme === undefined && id !== UNQUANTIZED) throw refuse(tensor, id, KNOWN);
    schemes.set(tensor, scheme);
  }
  const firsts = new Map<string, LinearModule>();
  for (const module of modules) {
    const { entry, together } = module;
    if (!schemes.has(entry.name)) throw refuse(entry.name, "no scheme", `a scheme, or ${UNQUANTIZED}`);
    const first = firsts.get(together) ?? module;
    firsts.set(together, first);
    const [own, other] = [plan[entry.name] ?? "", plan[first.entry.name] ?? ""];
    if (own === other) continue;
    throw refuse(entry.name, own, `${other}, as ${first.entry.name} has: servers make one matrix of both`);
  }
  return ({ entry }) => schemes.get(entry.name);
}

const KNOWN = [...COMPRESSED_SCHEMES.keys(), UNQUANTIZED].join(", ");

function checkCandidate(id: string): void {
  if (id === UNQUANTIZED || COMPRESSED_SCHEMES.has(id)) return;
  throw new MergeyardError("BitPlanInvalid", { where: { field: "candidates" }, found: id, expected: KNOWN });
}

function kindOf({ module }: LinearModule): TensorKind {
  return KINDS[module.slice(module.lastIndexOf(".") + 1)] ?? "other";
}

/** Where modules stand among those of their kind. */
function placesOf(modules: readonly LinearModule[]): ReadonlyMap<LinearModule, SensitivityPlace> {
  const places = [...Map.groupBy(modules, kindOf)].flatMap(([kind, alike]) =>
    alike.map((module, index) => {
      const place = { kind, index, count: alike.length, elements: elementCount(module.entry.shape) };
      return [module, place] as const;
    }),
  );
  return new Map(places);
}

function fittingSchemes(members: readonly LinearModule[], wanted: readonly string[]): readonly string[] {
  const schemes = wanted.flatMap((id) => COMPRESSED_SCHEMES.get(id) ?? []);
  const fitting = schemes.filter((scheme) => members.every(({ matrix }) => findMisfit(matrix, scheme) === undefined));
  if (fitting.length > 0 || wanted.includes(UNQUANTIZED)) return fitting.map(({ id }) => id);
  const [first] = members;
  const found = `rows of ${first?.matrix.columns}, which no candidate fits`;
  throw new MergeyardError("BitPlanInvalid", {
    where: { tensor: first?.entry.name },
    found,
    expected: `${wanted.join(", ")}, or ${UNQUANTIZED} among the candidates`,
  });
}

/** An importance matrix, which knows tensors by GGUF's names, by the names of weights; of stacks each expert's part. */
function importanceOf(
  checkpoint: Pick<Checkpoint, "tensors" | "config">,
  modules: readonly LinearModule[],
  importance: Importance,
): ReadonlyMap<string, Float32Array> {
  const { tensors } = planGguf(checkpoint, NO_TOKENIZER, importance);
  const names = new Map(tensors.map(({ source, name }) => [source.name, name]));
  const own = modules.flatMap(({ entry, matrix: { columns } }) => {
    const stack = stackOf(entry.name);
    const values = importance.get(names.get(stack?.stack ?? entry.name) ?? "");
    const first = (stack?.expert ?? 0) * columns;
    return values === undefined ? [] : [[entry.name, values.subarray(first, first + columns)] as const];
  });
  return new Map(own);
}
