// Adapters of experts as transformers 5 has them, in stacks: PEFT trains such a parameter (`target_parameters`) with
// the factors of all experts in one pair. Checkpoints have a tensor for each expert, and gate and up apart: each gets
// the rows and the ranks that are its own.
// Source: peft 0.21, ParamWrapper.get_delta_weight: B is [outputs, rank, experts], A [experts, rank, inputs].
import type { ModuleFactors } from "../adapter/modules.ts";
import type { AdapterConfig } from "../adapter/peft.ts";
import type { TensorEntry } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { elementBytes } from "../tensor.ts";
import { sliceRanges } from "../universal/box.ts";
import type { LoraFactor, LoraUpdate } from "./schema.ts";

/** A stack, and what checkpoints have of each expert in its place: their rows lie one below the other. */
type Stack = { readonly parameter: string; readonly projections: readonly string[] };

/** The first names that a model has are its own. Source: transformers 5.18, conversion_mapping.py. */
const STACKS: readonly (readonly Stack[])[] = [
  [
    { parameter: "gate_up_proj", projections: ["gate_proj", "up_proj"] },
    { parameter: "down_proj", projections: ["down_proj"] },
  ],
  [
    { parameter: "gate_up_proj", projections: ["w1", "w3"] },
    { parameter: "down_proj", projections: ["w2"] },
  ],
  [
    { parameter: "up_proj", projections: ["up_proj"] },
    { parameter: "down_proj", projections: ["down_proj"] },
  ],
];

const EXPERTS = /^(.+\.experts)(?:\.base_layer)*$/;

/** The update of one expert's tensor, by its name in the model. */
export type ExpertUpdate = { readonly name: string; readonly lora: LoraUpdate };

/** Finds the model's tensor by the name that an adapter has for it. */
export type FindEntry = (name: string) => TensorEntry | undefined;

/** Stores a factor of the adapter: what plans say of it. */
type StoreFactor = (entry: TensorEntry) => LoraFactor;

/**
 * The updates that the factors of a stack make; undefined of those of any other module.
 * Throws PlanAdapterUnmatched, PlanAdapterInvalid.
 */
export function updateExperts(
  factors: ModuleFactors,
  find: FindEntry,
  config: AdapterConfig,
  store: StoreFactor,
): readonly ExpertUpdate[] | undefined {
  const { module, kind, a, b, where } = factors;
  const [, path] = EXPERTS.exec(module) ?? [];
  if (path === undefined || kind !== "weight" || a === undefined || b === undefined) return undefined;
  const stacks = listStacks(path, find);
  if (stacks.length === 0) {
    const expected = `${path}.0.down_proj.weight`;
    throw new MergeyardError("PlanAdapterUnmatched", { where, found: "no tensor for each expert", expected });
  }
  const [inputs, outputs] = [a.shape[1] ?? 0, b.shape[0] ?? 0];
  const fitting = stacks.find(({ experts: [first = []] }) => {
    return first.every(({ shape }) => shape[1] === inputs) && sumOfRows(first) === outputs;
  });
  const refuse = (found: string, expected: string) =>
    new MergeyardError("PlanAdapterInvalid", { where, found, expected });
  if (fitting === undefined) throw refuse(`an update of [${outputs}, ${inputs}]`, "one of the shape of an expert");
  const { parameter, experts } = fitting;
  const { length: count } = experts;
  const rank = (a.shape[0] ?? 0) / count;
  const { expectedRank, scale } = config.scaleOf(`${path}.${parameter}`, rank);
  if (rank !== expectedRank || b.shape[1] !== rank * count) {
    throw refuse(`[${b.shape}] x [${a.shape}]`, `rank ${expectedRank} of ${count} experts`);
  }
  return experts.flatMap((tensors, expert) => {
    const right = { ...sliceRows(store(a), expert * rank, rank), part: { step: 1, first: 0 } };
    return tensors.map((entry, at) => {
      const rows = sliceRows(store(b), sumOfRows(tensors.slice(0, at)), entry.shape[0] ?? 0);
      return {
        name: entry.name,
        lora: { rank, scale, left: { ...rows, part: { step: count, first: expert } }, right },
      };
    });
  });
}

/** The stacks of a module of experts, with each expert's tensors. */
function listStacks(path: string, find: FindEntry) {
  const named = STACKS.find((stacks) => stacks.every(({ projections }) => tensorsOf(path, 0, projections, find)));
  return (named ?? []).map(({ parameter, projections }) => {
    const experts: (readonly TensorEntry[])[] = [];
    for (let own = tensorsOf(path, 0, projections, find); own !== undefined; ) {
      experts.push(own);
      own = tensorsOf(path, experts.length, projections, find);
    }
    return { parameter, experts };
  });
}

/** An expert's tensors; undefined unless it has all, each a matrix. */
function tensorsOf(
  path: string,
  expert: number,
  projections: readonly string[],
  find: FindEntry,
): readonly TensorEntry[] | undefined {
  const found = projections.flatMap((name) => find(`${path}.${expert}.${name}.weight`) ?? []);
  return found.length === projections.length && found.every(({ shape }) => shape.length === 2) ? found : undefined;
}

function sumOfRows(tensors: readonly TensorEntry[]): number {
  return tensors.reduce((sum, { shape }) => sum + (shape[0] ?? 0), 0);
}

/** Rows [first, first + rows) of a factor. */
function sliceRows(factor: LoraFactor, first: number, rows: number): LoraFactor {
  const [, columns = 0] = factor.shape;
  const bytes = elementBytes(factor.dtype, columns);
  return { ...factor, shape: [rows, columns], ranges: [...sliceRanges(factor.ranges, first * bytes, rows * bytes)] };
}
