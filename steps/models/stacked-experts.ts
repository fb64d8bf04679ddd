// What PEFT wants of an adapter when transformers 5 stacks a model's experts, whose names it turns into its own: one
// rank of all experts and of their router, and factors of every expert of a stack. Called by the steps that write
// adapters.
// Source: peft 0.21, utils/transformers_weight_conversion.py.
import assert from "node:assert/strict";
import { factorNames } from "../../core/adapter/write-peft.ts";
import { elementBytes } from "../../core/tensor.ts";
import type { WholeTensor } from "./whole-tensors.ts";

/** A projection of one expert, and the name that the stack of it would have. */
const EXPERT = /^(.*\.experts)\.\d+\.([^.]+)$/;
const ROUTER = /\.gate$/;
/** Projections that share a stack. */
const TOGETHER: ReadonlyMap<string, string> = new Map([
  ["up_proj", "gate_proj"],
  ["w3", "w1"],
]);

/** The stack that a module is a part of: the same text for all its parts. Undefined of other modules. */
function stackOf(module: string): string | undefined {
  const [, experts, projection = ""] = EXPERT.exec(module) ?? [];
  return experts === undefined ? undefined : `${experts}.${TOGETHER.get(projection) ?? projection}`;
}

/** Modules among `all` without factors, in stacks of which others have some. */
export function missingParts(all: readonly string[], ranks: ReadonlyMap<string, number>): readonly string[] {
  const stacks = new Set([...ranks.keys()].map(stackOf));
  stacks.delete(undefined);
  return all.filter((module) => !ranks.has(module) && stacks.has(stackOf(module)));
}

export type RankedTensors = { readonly tensors: readonly WholeTensor[]; readonly ranks: ReadonlyMap<string, number> };

/** The factors of experts and routers with as many ranks as any module has: zeros, which change nothing. */
export function padStacks({ tensors, ranks }: RankedTensors): RankedTensors {
  const rank = Math.max(...ranks.values());
  const isPadded = (module: string, own: number) => own < rank && (EXPERT.test(module) || ROUTER.test(module));
  const padded = [...ranks].flatMap(([module, own]) => (isPadded(module, own) ? [module] : []));
  const [as, bs] = (["a", "b"] as const).map((side) => new Set(padded.map((name) => factorNames(name, false)[side])));
  return {
    tensors: tensors.map((tensor) => {
      if (as?.has(tensor.name) === true) return padRows(tensor, rank);
      return bs?.has(tensor.name) === true ? padColumns(tensor, rank) : tensor;
    }),
    ranks: new Map([...ranks].map(([module, own]) => [module, isPadded(module, own) ? rank : own])),
  };
}

function padRows(tensor: WholeTensor, rank: number): WholeTensor {
  const [, columns = 0] = tensor.shape;
  const bytes = new Uint8Array(elementBytes(tensor.dtype, rank * columns));
  bytes.set(bytesOf(tensor));
  return { ...tensor, shape: [rank, columns], bytes };
}

function padColumns(tensor: WholeTensor, rank: number): WholeTensor {
  const [rows = 0, own = 0] = tensor.shape;
  const [width, stride] = [elementBytes(tensor.dtype, own), elementBytes(tensor.dtype, rank)];
  const [stored, bytes] = [bytesOf(tensor), new Uint8Array(rows * stride)];
  for (let row = 0; row < rows; row++) bytes.set(stored.subarray(row * width, (row + 1) * width), row * stride);
  return { ...tensor, shape: [rows, rank], bytes };
}

function bytesOf({ bytes, name, shape }: WholeTensor): Uint8Array {
  assert.ok(bytes instanceof Uint8Array && shape.length === 2, `${name} is a factor, in memory`);
  return bytes;
}
