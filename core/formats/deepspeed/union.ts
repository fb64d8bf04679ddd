// Union over all ranks of a DeepSpeed checkpoint: each pipeline stage joins the slices of its tensor-parallel ranks,
// and stages give their parameters to one whole. A parameter that several stages hold counts once: the first where the
// checkpoint says so, else all copies must agree.
import assert from "node:assert/strict";
import type { ByteRange, Gather } from "../../checkpoint.ts";
import { MergeyardError } from "../../error.ts";
import { sameShape } from "../../tensor.ts";
import { type ConversionParameter, type GatheredTensor, STATE_NAMES } from "../../universal/conversion.ts";
import type { UnionRules, UnitedTensor } from "../../universal/union.ts";
import type { CheckpointWarning } from "../format.ts";
import type { ExtractedParameter, ExtractedState } from "./extract.ts";

/** Parameters of one pipeline stage by tensor-parallel rank. */
export type StageSlices = readonly (readonly ExtractedParameter[])[];

/** By pipeline stage, then by tensor-parallel rank: model-parallel ranks are numbered stage by stage. */
export function splitStages(
  ranks: readonly (readonly ExtractedParameter[])[],
  { tp, pp }: { readonly tp: number; readonly pp: number },
): readonly StageSlices[] {
  return Array.from({ length: pp }, (_, stage) => ranks.slice(stage * tp, (stage + 1) * tp));
}

/** Stages without the parameters that their first rank holds whole, for which no pattern counts, and those alone. */
export type SplitStages = { readonly cut: readonly StageSlices[]; readonly whole: readonly StageSlices[] };

export function takeWhole(stages: readonly StageSlices[], isWhole: (name: string) => boolean): SplitStages {
  return {
    cut: stages.map((ranks) => ranks.map((rank) => rank.filter(({ name }) => !isWhole(name)))),
    whole: stages.map((ranks) => ranks.slice(0, 1).map((rank) => rank.filter(({ name }) => isWhole(name)))),
  };
}

export type UnionContext = {
  readonly rules: UnionRules;
  /** No patterns were given, which one tensor-parallel rank does not need. */
  readonly isInferred: boolean;
  readonly tp: number;
  readonly prefix: string;
};

export type United = {
  readonly united: readonly ConversionParameter[];
  readonly warnings: readonly CheckpointWarning[];
};

/** Throws what the rules throw, DeepspeedRankMissing and DeepspeedUnsupported. */
export function uniteStages(stages: readonly StageSlices[], context: UnionContext): United {
  const byName = new Map<string, ConversionParameter>();
  const warnings: CheckpointWarning[] = [];
  for (const stage of stages) {
    const [first = [], ...others] = stage.map((rank) => new Map(rank.map((parameter) => [parameter.name, parameter])));
    for (const [name, own] of first) {
      const slices = [own, ...others.map((rank) => needParameter(rank.get(name), name, context))];
      const parameter = uniteParameter(name, slices, context);
      const before = byName.get(name);
      byName.set(name, before === undefined ? parameter : joinCopies(before, parameter, context));
      const isStated = context.rules.isColumn(name);
      const isAssumed = !isStated && context.tp > 1 && parameter.shape.length === 1 && isPlainJoin(parameter);
      if (isAssumed)
        warnings.push({ code: "UnionAssumed", where: { tensor: name }, expected: "a pattern that names it" });
    }
  }
  return { united: [...byName.values()], warnings };
}

function isPlainJoin({ pattern }: ConversionParameter): boolean {
  return pattern.kind === "fragment" && pattern.parts === undefined;
}

function needParameter(parameter: ExtractedParameter | undefined, name: string, { prefix }: UnionContext) {
  if (parameter !== undefined) return parameter;
  const where = { file: prefix, tensor: name };
  throw new MergeyardError("DeepspeedRankMissing", {
    where,
    found: "a rank without it",
    expected: "a slice on every rank",
  });
}

function uniteParameter(
  name: string,
  slices: readonly ExtractedParameter[],
  context: UnionContext,
): ConversionParameter {
  const [first] = slices;
  assert.ok(first !== undefined, "every stage has a rank");
  const other = slices.find(({ step }) => step !== first.step);
  if (other !== undefined) {
    const where = { file: context.prefix, tensor: name };
    throw new MergeyardError("DeepspeedStepsDisagree", {
      where,
      found: `step ${other.step}`,
      expected: `step ${first.step}`,
    });
  }
  const unite = (state: string) => {
    const parts = slices.map(({ shape, states }) => ({ shape, ...needState(states.get(state), name, state, context) }));
    const united = context.rules.unite(name, parts);
    return { dtype: parts[0]?.dtype ?? "F32", united };
  };
  const { dtype, united } = unite("fp32");
  if (united.gather.rule === "mean" && dtype !== "F32") {
    const where = { file: context.prefix, tensor: name };
    throw new MergeyardError("DeepspeedUnsupported", {
      where,
      found: `averages in ${dtype}`,
      expected: "averages in F32",
    });
  }
  const moments = STATE_NAMES.filter((state) => first.states.has(state)).map((state): [string, GatheredTensor] => {
    const moment = unite(state);
    return [state, { dtype: moment.dtype, gather: moment.united.gather }];
  });
  return {
    name,
    dtype,
    shape: united.shape,
    gather: united.gather,
    pattern: patternOf(united, context),
    paddedRows: united.paddedRows,
    aliases: [],
    training: first.isTrained ? { step: first.step, states: Object.fromEntries(moments) } : undefined,
  };
}

function patternOf({ pattern }: UnitedTensor, { isInferred }: UnionContext): UnitedTensor["pattern"] {
  return isInferred ? { kind: "unique" } : pattern;
}

function needState(
  state: ExtractedState | undefined,
  name: string,
  what: string,
  { prefix }: UnionContext,
): { readonly dtype: ExtractedState["dtype"]; readonly ranges: readonly ByteRange[] } {
  if (state !== undefined) return state;
  const where = { file: prefix, tensor: name };
  throw new MergeyardError("DeepspeedRankMissing", {
    where,
    found: `a rank without ${what}`,
    expected: `${what} on every rank`,
  });
}

/** The same parameter of a later pipeline stage. */
function joinCopies(
  before: ConversionParameter,
  next: ConversionParameter,
  { rules, prefix }: UnionContext,
): ConversionParameter {
  if (rules.isPipelineReplicated(before.name)) return before;
  const where = { file: prefix, tensor: before.name };
  if (!sameShape(before.shape, next.shape) || before.dtype !== next.dtype) {
    const found = `[${next.shape}] on a later pipeline stage`;
    throw new MergeyardError("UniversalShapeMismatch", { where, found, expected: `[${before.shape}]` });
  }
  const join = (a: Gather, b: Gather): Gather => {
    if (a.rule !== "mean" && b.rule !== "mean") return { rule: "equal", copies: [...a.copies, ...b.copies] };
    const expected = "its name among pipeline_replicated_parameter_patterns";
    throw new MergeyardError("DeepspeedUnsupported", { where, found: "averages on two pipeline stages", expected });
  };
  const states = STATE_NAMES.flatMap((state) => {
    const [a, b] = [before.training?.states[state], next.training?.states[state]];
    return a === undefined || b === undefined ? [] : [[state, { ...a, gather: join(a.gather, b.gather) }] as const];
  });
  const training = before.training && { ...before.training, states: Object.fromEntries(states) };
  return { ...before, gather: join(before.gather, next.gather), training };
}
