// The prepare unit: one round of a method over the tensors of a merge unit; and what the totals of all units decide,
// which later rounds and the merge units read. Totals files lie in the run; a process decides once a stage.
import assert from "node:assert/strict";
import { digestJson } from "../../core/artifact/digest.ts";
import { layout } from "../../core/artifact/layout.ts";
import { joinTotals, type PartTotals, totalModel } from "../../core/artifact/totals.ts";
import { decodeTotals, encodeTotals, listTotals } from "../../core/artifact/totals-file.ts";
import { MergeyardError } from "../../core/error.ts";
import { STORE_LIMITS } from "../../core/limits.ts";
import type { ModelExtent, ModelState, WholeModel } from "../../core/methods/method.ts";
import { findMethod } from "../../core/methods/registry.ts";
import { type MergeUnit, modelName, modelsOf, type PrepareUnit, type UnitTensor } from "../../core/plan/schema.ts";
import { ENGINE_VERSION } from "../../core/version.ts";
import { measuredTensors, roundOf } from "../../engine/measure-tensors.ts";
import { readAll, writeBytes } from "../../stores/objects.ts";
import { findCachedFile } from "../cache.ts";
import type { UnitDeps } from "../step.ts";
import { needReceipt, type UnitContext } from "./context.ts";
import { describeState, describeTensor } from "./merge.ts";
import { locateSources, narrowSources } from "./sources.ts";
import { PLAIN_WORK, type UnitWork } from "./unit-work.ts";

/** Totals files that are read side by side while a round is decided. */
const TOTALS_IN_FLIGHT = 8;

/** Measures a unit's tensors and writes their totals, or finds them in the cache. */
export async function prepareUnit(context: UnitContext<UnitDeps>, unit: PrepareUnit): Promise<UnitWork> {
  const { yard, run, deps } = context;
  const merge = mergeUnitOf(context, unit);
  const tensors = measuredTensors(merge);
  const state = await decideRounds(context, merge, unit.round);
  const sources = await locateSources(context, tensors);
  const key = digestJson({
    engine: ENGINE_VERSION,
    operation: "prepare",
    round: unit.round,
    nonFinite: merge.nonFinite,
    strict: merge.strict,
    state: describeState(state),
    tensors: tensors.map((tensor) => describeMeasured(describeTensor(tensor, sources), tensor)),
  });
  const cached = await findCachedFile(yard, key, deps.signal);
  if (cached !== undefined) {
    const found = { outputKey: cached.file, file: cached.listing };
    return { ...PLAIN_WORK, ...found, key, cached: true, bytesRead: 0, bytesWritten: 0, threads: 0 };
  }
  const { threads, memoryBytes, signal, progress } = deps;
  const resolved = narrowSources(context, tensors, sources);
  const request = { unit: merge, round: unit.round, state, sources: resolved, threads, memoryBytes };
  const measured = await deps.executeMeasure(request, { signal, ...(progress === undefined ? {} : { progress }) });
  const { part, ...rest } = measured;
  const { specs } = roundOf(firstOf(tensors), unit.round);
  const name = `${unit.index}.safetensors`;
  const bytes = encodeTotals(specs, part);
  const outputKey = `${layout.stageOutput(run, unit.stage)}${name}`;
  await writeBytes(yard, outputKey, bytes, { signal });
  const file = listTotals(name, specs, tensors.length, bytes);
  return { ...PLAIN_WORK, ...rest, key, outputKey, file, bytesWritten: bytes.length };
}

/** Only what a round may depend on: other parameters do not make an unchanged model be measured again. */
function describeMeasured(described: ReturnType<typeof describeTensor>, tensor: UnitTensor): unknown {
  const { name, shape, method, working, seed, inputs } = described;
  const { shared } = wholeModelOf(tensor);
  const pick = (values: UnitTensor["parameters"]) =>
    Object.fromEntries(Object.entries(values).filter(([parameter]) => shared.includes(parameter)));
  const parameters = pick(described.parameters);
  return {
    name,
    shape,
    method,
    parameters,
    working,
    seed,
    inputs: inputs.map((input) => ({ ...input, parameters: pick(input.parameters) })),
  };
}

/** What the first `rounds` rounds of a merge unit's method have decided; undefined for a unit that asks for none. */
export async function decideRounds(
  context: UnitContext,
  unit: MergeUnit,
  rounds = unit.prepared?.stages.length ?? 0,
): Promise<ModelState | undefined> {
  if (unit.prepared === undefined) return undefined;
  if (rounds === 0) return {};
  const stage = unit.prepared.stages[rounds - 1];
  assert.ok(stage !== undefined, "a unit names the stages of its rounds");
  const known = context.decided.get(stage);
  if (known !== undefined) return known;
  const deciding = decideRound(context, unit, rounds - 1, stage);
  context.decided.set(stage, deciding);
  deciding.catch(() => context.decided.delete(stage)); // a later unit may try again
  return deciding;
}

async function decideRound(context: UnitContext, unit: MergeUnit, index: number, stage: number): Promise<ModelState> {
  const before = (await decideRounds(context, unit, index)) ?? {};
  const tensor = firstOf(measuredTensors(unit));
  const { round, specs } = roundOf(tensor, index);
  const { units = 0 } = context.plan.header.stages.find((entry) => entry.index === stage) ?? {};
  let all: PartTotals = joinTotals(specs, []);
  for (let first = 0; first < units; first += TOTALS_IN_FLIGHT) {
    const indexes = Array.from({ length: Math.min(TOTALS_IN_FLIGHT, units - first) }, (_, offset) => first + offset);
    const parts = await Promise.all(indexes.map((own) => readTotals(context, stage, own)));
    all = joinTotals(specs, [all, ...parts]);
  }
  return { ...before, ...round.decide(totalModel(specs, all), extentOf(context, unit, tensor), before) };
}

/** The totals that a unit wrote. Throws YardUnitsUnfinished, YardFileCorrupt. */
async function readTotals(context: UnitContext, stage: number, index: number): Promise<PartTotals> {
  const { yard, plan, deps } = context;
  const unit = plan.unit(stage, index);
  assert.ok(unit.op === "prepare", `stage ${stage} prepares`);
  const { file, outputKey } = await needReceipt(context, stage, index);
  assert.ok(file !== null && outputKey !== null, "the receipt of a prepare unit names its file");
  const tensors = measuredTensors(mergeUnitOf(context, unit));
  const { specs } = roundOf(firstOf(tensors), unit.round);
  const bytes = await readAll(yard, outputKey, STORE_LIMITS.conditionalBytes, { signal: deps.signal });
  const { digest } = listTotals(file.name, specs, tensors.length, bytes);
  if (digest !== file.digest) {
    const where = { store: yard.uri, file: outputKey };
    throw new MergeyardError("YardFileCorrupt", { where, found: digest, expected: file.digest });
  }
  const names = tensors.map(({ name }) => name);
  return decodeTotals(specs, names, bytes);
}

function mergeUnitOf({ plan }: UnitContext, { of }: PrepareUnit): MergeUnit {
  const unit = plan.unit(of.stage, of.index);
  assert.ok(unit.op === "merge", "a prepare unit names a merge unit");
  return unit;
}

function extentOf({ plan }: UnitContext, { prepared }: MergeUnit, { parameters, inputs }: UnitTensor): ModelExtent {
  const { elements = 0, tensors = 0 } = prepared ?? {};
  const { sources } = plan.header;
  return {
    elements,
    tensors,
    parameters,
    inputs: modelsOf(inputs).map((input) => {
      return { model: modelName(input, sources), isBase: input.isBase, parameters: input.parameters };
    }),
  };
}

function firstOf(tensors: readonly UnitTensor[]): UnitTensor {
  const [tensor] = tensors;
  assert.ok(tensor !== undefined, "a unit with rounds has something to measure");
  return tensor;
}

function wholeModelOf(tensor: UnitTensor): WholeModel {
  const wholeModel = findMethod(tensor.method)?.wholeModel;
  assert.ok(wholeModel !== undefined, "a measured tensor's method has rounds");
  return wholeModel;
}
