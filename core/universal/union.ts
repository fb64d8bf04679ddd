// Union: the slices that tensor-parallel ranks hold of one parameter become one tensor. First match wins: replicated,
// averaged, two sub-parameters, sub-parameters, else a join on axis 1 (row parallelism) or 0; then StripPadding cuts
// the rows that pad the vocabulary. Nothing is read: the result is which box of which slice goes where.
// Source: reference checkpoint-formats.md sections 4.2, 4.3; Universal Checkpointing, arXiv:2406.18820, section 3.
import assert from "node:assert/strict";
import type { UniversalParameter } from "../artifact/universal.ts";
import type { Box, ByteRange, Gather } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { elementCount, type Shape, sameShape } from "../tensor.ts";
import { gatherWhole, wholeBox } from "./box.ts";
import type { CheckpointInfo, SubParams } from "./checkpoint-info.ts";
import { compilePattern, type NamePattern } from "./name-pattern.ts";

export type Pattern = UniversalParameter["pattern"];

/** The part of a parameter that one tensor-parallel rank holds. */
export type Slice = { readonly shape: Shape; readonly ranges: readonly ByteRange[] };

export type UnitedTensor = {
  readonly shape: Shape;
  readonly gather: Gather;
  readonly pattern: Pattern;
  /** Of a vocabulary, its rows before the padding was cut: with none, too, for other ranks may need some. */
  readonly paddedRows: number | undefined;
};

type SubParamRule = { readonly pattern: NamePattern; readonly params: SubParams };

export type UnionRules = {
  /** `slices` by rank. Throws UniversalPatternAmbiguous, UniversalShapeMismatch. */
  unite(name: string, slices: readonly Slice[]): UnitedTensor;
  /** True when pipeline stages hold copies of the parameter, of which the first counts. */
  isPipelineReplicated(name: string): boolean;
  /** True when a pattern says that the parameter is joined on axis 0, which else is assumed. */
  isColumn(name: string): boolean;
  /** Throws UniversalPatternUnused when a pattern has matched nothing that was united, and none of `others`. */
  checkUsed(file: string, others?: readonly string[]): void;
};

/** Rules of a checkpoint's info. Throws UniversalPatternInvalid. */
export function createUnionRules(info: CheckpointInfo): UnionRules {
  const used = new Set<NamePattern>();
  const compile = (texts: readonly string[] | undefined) => (texts ?? []).map(compilePattern);
  const lists = {
    replicated: compile(info.tp_replicated_parameter_patterns),
    averaged: compile(info.parameter_to_average_patterns),
    two: compile(info.parameter_with_2_sub_params_cat_dim_0),
    row: compile(info.parameter_with_row_parallelism_patterns),
    column: compile(info.parameter_with_column_parallelism_patterns),
    vocabulary: compile(info.vocabulary_parameter_patterns),
  };
  const subParams: readonly SubParamRule[] = (info.parameter_with_sub_params ?? []).flatMap((params) =>
    params.patterns.map((text) => ({ pattern: compilePattern(text), params })),
  );
  const pipeline = compile(info.pipeline_replicated_parameter_patterns);
  const find = (list: readonly NamePattern[], name: string): NamePattern | undefined => {
    const found = list.filter((pattern) => pattern.matches(name));
    if (found.length > 1) {
      throw new MergeyardError("UniversalPatternAmbiguous", {
        where: { tensor: name },
        found: found.map(({ text }) => JSON.stringify(text.slice(0, 100))).join(" and "),
        expected: "one pattern of a list",
      });
    }
    for (const pattern of found) used.add(pattern);
    return found[0];
  };
  return {
    unite(name, slices) {
      const has = (list: readonly NamePattern[]) => find(list, name) !== undefined;
      const subPattern = find(
        subParams.map(({ pattern }) => pattern),
        name,
      );
      const sub = subParams.find(({ pattern }) => pattern === subPattern);
      const kinds = {
        replicated: has(lists.replicated),
        averaged: has(lists.averaged),
        two: has(lists.two),
        row: has(lists.row),
      };
      const task: UnionTask = { name, slices, widths: info.sub_param_shard_widths?.[subPattern?.text ?? ""] };
      const united = uniteSlices(task, kinds, sub?.params);
      if (!has(lists.vocabulary)) return { ...united, paddedRows: undefined };
      return stripVocabulary(name, united, info.original_vocab_size);
    },
    isColumn: (name) => find(lists.column, name) !== undefined,
    isPipelineReplicated: (name) => find(pipeline, name) !== undefined,
    checkUsed(file, others = []) {
      const all = [...Object.values(lists).flat(), ...subParams.map(({ pattern }) => pattern)];
      const unused = all.find((pattern) => !used.has(pattern) && !others.some((name) => pattern.matches(name)));
      if (unused === undefined) return;
      const where = { file, field: JSON.stringify(unused.text.slice(0, 200)) };
      throw new MergeyardError("UniversalPatternUnused", { where, found: "no parameter of such a name" });
    },
  };
}

type UnionTask = {
  readonly name: string;
  readonly slices: readonly Slice[];
  readonly widths: readonly (readonly number[])[] | undefined;
};

type Kinds = Readonly<Record<"replicated" | "averaged" | "two" | "row", boolean>>;

/** Slices united, rows of padding included. */
type WithPadding = Omit<UnitedTensor, "paddedRows">;

function uniteSlices(task: UnionTask, kinds: Kinds, subParams: SubParams | undefined): WithPadding {
  const { slices } = task;
  if (kinds.replicated || kinds.averaged) {
    const shape = slices[0]?.shape ?? [];
    const other = slices.find((slice) => !sameShape(slice.shape, shape));
    if (other !== undefined) throw shapeError(task, `[${other.shape}]`, `[${shape}] on every rank`);
    const copies = slices.map((slice) => [wholeBox(slice.ranges, shape)]);
    const kind = kinds.replicated ? "replicated" : "averaged";
    const rule = kinds.replicated ? "equal" : "mean";
    return { shape, gather: { rule: slices.length === 1 ? "join" : rule, copies }, pattern: { kind } };
  }
  if (kinds.two) return joinParts(task, 0, equalParts(task, 0, 2));
  if (subParams !== undefined) {
    const dim = subParams.partition_dim;
    return joinParts(task, dim, subParamWidths(task, subParams));
  }
  const dim = kinds.row ? 1 : 0;
  if (slices.length === 1 && slices[0]?.shape.length === 0) {
    return { shape: [], gather: gatherWhole(slices[0].ranges, []), pattern: { kind: "replicated" } };
  }
  const joined = joinParts(task, dim, [slices.map(({ shape }) => shape[dim] ?? -1)]);
  return { ...joined, pattern: { kind: "fragment", dim, ...unevenWidths(task, dim) } };
}

/** A plain join whose ranks hold different lengths says so as one part with its widths. */
function unevenWidths({ slices }: UnionTask, dim: number): { parts?: { length: number; widths: number[] }[] } {
  const widths = slices.map(({ shape }) => shape[dim] ?? 0);
  if (widths.every((width) => width === widths[0])) return {};
  return { parts: [{ length: widths.reduce((sum, width) => sum + width, 0), widths }] };
}

function equalParts(task: UnionTask, dim: number, parts: number): readonly (readonly number[])[] {
  return Array.from({ length: parts }, () =>
    task.slices.map(({ shape }) => {
      const length = shape[dim] ?? -1;
      if (length >= 0 && length % parts === 0) return length / parts;
      throw shapeError(task, `[${shape}]`, `an axis ${dim} that ${parts} parts divide`);
    }),
  );
}

/** Length of every part on every rank: as recorded, or as `shape` says and ranks divide. */
function subParamWidths(task: UnionTask, { shape, partition_dim: dim }: SubParams): readonly (readonly number[])[] {
  if (task.widths !== undefined) return task.widths;
  const stated = shape[dim];
  if (typeof stated === "number") {
    if (stated < 1) throw shapeError(task, `${stated} parts`, "how many parts there are, or their lengths");
    return equalParts(task, dim, stated);
  }
  if (stated === undefined) throw shapeError(task, "no lengths of parts", `lengths of parts on axis ${dim}`);
  const ranks = task.slices.length;
  return stated.map((length) => {
    if (length % ranks !== 0) throw shapeError(task, `a part of ${length}`, `a length that ${ranks} ranks divide`);
    return task.slices.map(() => length / ranks);
  });
}

/** Joins the pieces of each part over the ranks, then the parts: `widths[part][rank]` along `dim`. */
function joinParts(task: UnionTask, dim: number, widths: readonly (readonly number[])[]): WithPadding {
  const { slices } = task;
  const first = slices[0]?.shape ?? [];
  slices.forEach(({ shape }, rank) => {
    const own = widths.reduce((sum, part) => sum + (part[rank] ?? 0), 0);
    const isSame = shape.length === first.length && shape.every((each, axis) => axis === dim || each === first[axis]);
    if (isSame && dim < shape.length && shape[dim] === own) return;
    throw shapeError(task, `[${shape}] on rank ${rank}`, `[${first}] but for axis ${dim}, of length ${own}`);
  });
  if (widths.some((part) => part.length !== slices.length)) {
    throw shapeError(task, "widths of another number of ranks", `${slices.length} ranks`);
  }
  const total = widths.flat().reduce((sum, width) => sum + width, 0);
  const shape = first.with(dim, total);
  const boxes: Box[] = [];
  const sourceOffsets = slices.map(() => 0);
  let target = 0;
  for (const part of widths) {
    part.forEach((width, rank) => {
      const slice = slices[rank];
      assert.ok(slice !== undefined);
      const zero = shape.map(() => 0);
      boxes.push({
        ranges: slice.ranges,
        sourceShape: slice.shape,
        sourceOffset: zero.with(dim, sourceOffsets[rank] ?? 0),
        size: slice.shape.with(dim, width),
        targetOffset: zero.with(dim, target),
      });
      sourceOffsets[rank] = (sourceOffsets[rank] ?? 0) + width;
      target += width;
    });
  }
  const parts = widths.map((part) => {
    const length = part.reduce((sum, width) => sum + width, 0);
    return part.every((width) => width === part[0]) ? { length } : { length, widths: [...part] };
  });
  const live = boxes.filter(({ size }) => elementCount(size) > 0 || boxes.length === 1);
  return { shape, gather: { rule: "join", copies: [live] }, pattern: { kind: "fragment", dim, parts } };
}

/** StripPadding of the vocabulary: the first `rows` rows. */
function stripVocabulary(name: string, united: WithPadding, rows: number | undefined): UnitedTensor {
  const padded = united.shape[0];
  if (rows === undefined || padded === undefined || rows > padded) {
    const where = { tensor: name };
    const found = `[${united.shape}] and original_vocab_size ${rows ?? "not given"}`;
    throw new MergeyardError("UniversalShapeMismatch", { where, found, expected: "at least as many rows" });
  }
  const copies = united.gather.copies.map((boxes) => boxes.flatMap((box) => cutRows(box, rows)));
  const { pattern } = united;
  const isCut = pattern.kind === "fragment" && pattern.dim === 0;
  return {
    shape: united.shape.with(0, rows),
    gather: { ...united.gather, copies },
    pattern: isCut ? { kind: "fragment", dim: 0 } : pattern,
    paddedRows: padded,
  };
}

function cutRows(box: Box, rows: number): readonly Box[] {
  const left = rows - (box.targetOffset[0] ?? 0);
  if (left <= 0) return [];
  return [{ ...box, size: box.size.with(0, Math.min(left, box.size[0] ?? 0)) }];
}

function shapeError({ name }: UnionTask, found: string, expected: string): MergeyardError {
  return new MergeyardError("UniversalShapeMismatch", { where: { tensor: name }, found, expected });
}
