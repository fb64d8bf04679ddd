// Extract: the fragments of every parameter of one model-parallel rank, taken from the partitions of its data-parallel
// ranks and put in order. In stages 1 and 2 the groups are flattened and cut; in stage 3 every parameter by itself.
// StripPadding: what aligns partitions is left out on the way.
// Source: reference checkpoint-formats.md sections 3.4, 3.5; Universal Checkpointing, arXiv:2406.18820, section 3.
import type { ByteRange } from "../../checkpoint.ts";
import { type ErrorCode, MergeyardError } from "../../error.ts";
import { type Dtype, elementBytes, elementCount, type Shape } from "../../tensor.ts";
import { pushRange, sliceRanges } from "../../universal/box.ts";
import { expertRanks, isExpert, numberExperts } from "./experts.ts";
import { type ModelState, misplaced, type NamedShape } from "./model.ts";
import type { FlatGroup, FlatTensor, OptimizerRank } from "./optimizer.ts";

/** One state of a parameter on one model-parallel rank: the ranges give its elements in order. */
export type ExtractedState = { readonly dtype: Dtype; readonly ranges: readonly ByteRange[] };
export type ExtractedParameter = {
  readonly name: string;
  readonly shape: Shape;
  readonly states: ReadonlyMap<string, ExtractedState>;
  readonly step: number;
  /** False for weights without optimizer states. */
  readonly isTrained: boolean;
};

/**
 * The parameters of a model-parallel rank, by group. `ranks` are its data-parallel ranks in order, `sharers` those that
 * share experts: the same, or all of a pipeline stage, or none where the stage's first rank counts for all.
 * Throws: DeepspeedPartitionSize, DeepspeedFragmentCoverage, DeepspeedStepsDisagree, DeepspeedFieldInvalid,
 * DeepspeedRankMisplaced.
 */
export function extractParameters(
  model: ModelState,
  ranks: readonly OptimizerRank[],
  sharers: readonly OptimizerRank[] = ranks,
): readonly (readonly ExtractedParameter[])[] {
  const [first] = ranks;
  for (const { file, groups, stage } of ranks) {
    if (groups.length === model.groups.length && stage === first?.stage) continue;
    const found = `${groups.length} groups of stage ${stage}`;
    throw rankError("DeepspeedFieldInvalid", file, undefined, found, `${model.groups.length} of stage ${first?.stage}`);
  }
  checkApart(model, ranks);
  return model.groups.map((shapes, index) => {
    const holders = shapes.some(({ name }) => isExpert(name)) ? sharers : ranks;
    const all = holders.flatMap(({ file, groups }) =>
      groups.slice(index, index + 1).map((group) => ({ file, ...group })),
    );
    if (all.length === 0) return [];
    const partitions = all[0]?.partitions ?? all.length;
    const isShared = shapes.some(({ name }) => isExpert(name)) && partitions > 0 && all.length % partitions === 0;
    if (!isShared) return extractGroup(model, shapes, all, first?.stage);
    return expertRanks(all, partitions, model.dataBeforeExperts).flatMap((own, rank) => {
      const numbers = numberExperts(
        shapes.map(({ name }) => name),
        rank,
      );
      const experts = extractGroup(model, shapes, own, first?.stage);
      return experts.map((each) => ({ ...each, name: numbers.get(each.name) ?? each.name }));
    });
  });
}

/** No two ranks have one file, but for those whose partitions are nothing but padding. */
function checkApart(model: ModelState, ranks: readonly OptimizerRank[]): void {
  const isHeld = ({ stage, groups }: OptimizerRank, rank: number): boolean => {
    if (stage !== 3) return groups.some(({ fragments }) => fragments.size > 0);
    const counts = model.groups.flat().map(({ shape }) => elementCount(shape));
    return counts.some((count) => rank * Math.ceil(count / ranks.length) < count);
  };
  const files = new Map<string, string>();
  ranks.forEach((rank, index) => {
    if (rank.contents === undefined || !isHeld(rank, index)) return;
    const twin = files.get(rank.contents);
    if (twin !== undefined) throw misplaced(rank.file, `the same bytes as ${twin}`);
    files.set(rank.contents, rank.file);
  });
}

/** A group that all of `all` share. */
function extractGroup(
  model: ModelState,
  shapes: readonly NamedShape[],
  all: readonly RankGroup[],
  stage: OptimizerRank["stage"] | undefined,
): readonly ExtractedParameter[] {
  // A rank that holds nothing but padding has no fragments, and its optimizer may never have stepped.
  const active = all.filter(({ fragments }) => stage === 3 || fragments.size > 0);
  const group = active.length > 0 ? active : all;
  checkStates(group);
  if (model.roundRobin && stage === 2) checkOrder(shapes, all);
  const step = agreeStep(group);
  return stage === 3 ? extractStage3(shapes, group, step) : extractStage12(shapes, group, step);
}

type RankGroup = FlatGroup & { readonly file: string };

function rankError(code: ErrorCode, file: string, tensor: string | undefined, found: string, expected: string) {
  return new MergeyardError(code, { where: { file, tensor }, found, expected });
}

/** Every rank has the same states. */
function checkStates(ranks: readonly RankGroup[]): void {
  const describe = ({ states }: RankGroup) => [...states].map(([name, { dtype }]) => `${name} ${dtype}`).join(", ");
  const [first] = ranks;
  const other = ranks.find((rank) => first !== undefined && describe(rank) !== describe(first));
  if (first === undefined || other === undefined) return;
  throw rankError("DeepspeedFieldInvalid", other.file, undefined, describe(other), describe(first));
}

function agreeStep(ranks: readonly RankGroup[]): number {
  const [first] = ranks;
  const other = ranks.find(({ step }) => step !== first?.step);
  if (other !== undefined) {
    const expected = `step ${first?.step}, as in ${first?.file}`;
    throw rankError("DeepspeedStepsDisagree", other.file, undefined, `step ${other.step}`, expected);
  }
  return first?.step ?? 0;
}

function extractStage12(
  shapes: readonly NamedShape[],
  ranks: readonly RankGroup[],
  step: number,
): readonly ExtractedParameter[] {
  const known = new Set(shapes.map(({ name }) => name));
  for (const rank of ranks) checkFragments(rank, known);
  return shapes.map(({ name, shape }) => {
    const covered = ranks.reduce((sum, { fragments }) => sum + (fragments.get(name)?.count ?? 0), 0);
    if (covered !== elementCount(shape)) {
      const found = `fragments of ${covered} elements`;
      throw rankError(
        "DeepspeedFragmentCoverage",
        ranks[0]?.file ?? "",
        name,
        found,
        `${elementCount(shape)} elements`,
      );
    }
    checkContinued(ranks, name);
    const states = gatherStates(ranks, (rank) => rank.fragments.get(name));
    return { name, shape, step, states, isTrained: true };
  });
}

/** A parameter that a rank began goes on at the start of the next partition: else files of ranks were exchanged. */
function checkContinued(ranks: readonly RankGroup[], name: string): void {
  const [, ...later] = ranks.filter(({ fragments }) => (fragments.get(name)?.count ?? 0) > 0);
  const other = later.find(({ fragments }) => fragments.get(name)?.start !== 0);
  if (other === undefined) return;
  const found = `a fragment from ${other.fragments.get(name)?.start}, after those of ranks before it`;
  throw rankError(
    "DeepspeedFragmentCoverage",
    other.file,
    name,
    found,
    "one from 0: the files of two ranks are exchanged",
  );
}

/** Fragments lie inside every state's partition, and no two of them overlap. */
function checkFragments({ file, fragments, states }: RankGroup, known: ReadonlySet<string>): void {
  let end = 0;
  const sorted = [...fragments].filter(([, { count }]) => count > 0).sort(([, a], [, b]) => a.start - b.start);
  for (const [name, { start, count }] of sorted) {
    if (!known.has(name)) {
      throw rankError("DeepspeedFragmentCoverage", file, name, "a fragment", "a parameter that param_shapes names");
    }
    if (start < end) {
      throw rankError("DeepspeedFragmentCoverage", file, name, `a fragment from ${start}`, `at least ${end}`);
    }
    end = start + count;
    for (const [state, { elements }] of states) {
      if (end <= elements) continue;
      const found = `${elements} elements of ${state}`;
      throw rankError("DeepspeedPartitionSize", file, name, found, `at least ${end}, the end of its fragment`);
    }
  }
}

/**
 * With round_robin_gradients the flat buffer is in another order than the fragments are numbered in. Where the two
 * disagree nothing says which is right.
 */
function checkOrder(shapes: readonly NamedShape[], ranks: readonly RankGroup[]): void {
  let begin = 0;
  for (const { name, shape } of shapes) {
    ranks.forEach((rank, index) => {
      const partition = rank.states.get("exp_avg")?.elements ?? rank.states.get("fp32")?.elements ?? 0;
      const start = rank.fragments.get(name)?.start;
      if (start === undefined || start === Math.max(begin, index * partition) - index * partition) return;
      const found = "round_robin_gradients, and fragments in another order than param_shapes";
      throw rankError("DeepspeedUnsupported", rank.file, name, found, "one order");
    });
    begin += elementCount(shape);
  }
}

function extractStage3(
  shapes: readonly NamedShape[],
  ranks: readonly RankGroup[],
  step: number,
): readonly ExtractedParameter[] {
  const pieces = shapes.map(({ shape }) => Math.ceil(elementCount(shape) / ranks.length));
  const total = pieces.reduce((sum, piece) => sum + piece, 0);
  for (const { file, states } of ranks) {
    for (const [state, { elements }] of states) {
      if (elements === total) continue;
      throw rankError(
        "DeepspeedPartitionSize",
        file,
        undefined,
        `${elements} elements of ${state}`,
        `${total} elements`,
      );
    }
  }
  let start = 0;
  return shapes.map(({ name, shape }, index) => {
    const piece = pieces[index] ?? 0;
    const count = elementCount(shape);
    const from = start;
    start += piece;
    const states = gatherStates(ranks, (_, rank) => ({
      start: from,
      count: Math.min(piece, Math.max(0, count - rank * piece)),
    }));
    return { name, shape, step, states, isTrained: true };
  });
}

function gatherStates(
  ranks: readonly RankGroup[],
  fragmentOf: (rank: RankGroup, index: number) => { readonly start: number; readonly count: number } | undefined,
): ReadonlyMap<string, ExtractedState> {
  const states = new Map<string, { readonly dtype: Dtype; readonly ranges: ByteRange[] }>();
  ranks.forEach((rank, index) => {
    const fragment = fragmentOf(rank, index);
    for (const [name, flat] of rank.states) {
      const state = states.get(name) ?? { dtype: flat.dtype, ranges: [] };
      states.set(name, state);
      if (fragment === undefined || fragment.count === 0) continue;
      for (const range of cutFlat(flat, fragment)) pushRange(state.ranges, range);
    }
  });
  return states;
}

function cutFlat(flat: FlatTensor, { start, count }: { start: number; count: number }): readonly ByteRange[] {
  return sliceRanges([flat.range], elementBytes(flat.dtype, start), elementBytes(flat.dtype, count));
}
