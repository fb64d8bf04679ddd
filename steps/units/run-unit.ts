// Running one unit of a run, whatever its operation: receipt there → done; content key in the cache → receipt; else do
// it and write the receipt. Run again after any crash, it does only what has no receipt. Called by workers/main.ts.
import assert from "node:assert/strict";
import { digestJson } from "../../core/artifact/digest.ts";
import { layout } from "../../core/artifact/layout.ts";
import { MergeyardError } from "../../core/error.ts";
import type { Receipt } from "../../core/plan/receipt.ts";
import type { AdoptUnit, ConvertUnit, MergeUnit } from "../../core/plan/schema.ts";
import { encodeConverted } from "../../core/universal/convert-plan.ts";
import { ENGINE_VERSION } from "../../core/version.ts";
import { type CachedFile, findCachedFile } from "../cache.ts";
import { convertFile } from "../convert/file.ts";
import { checkUnitHessians } from "../open-hessians.ts";
import { openUnitImportance } from "../open-imatrix.ts";
import { encodeRecord } from "../records.ts";
import type { UnitDeps } from "../step.ts";
import { adoptFile, findAdoptSource } from "./adopt.ts";
import { findReceipt, needReceipt, type UnitContext } from "./context.ts";
import { describeSource } from "./describe.ts";
import { mergeKey } from "./merge.ts";
import { decideRounds, prepareUnit } from "./prepare.ts";
import { locateSources, narrowSources } from "./sources.ts";
import { PLAIN_WORK, type UnitWork } from "./unit-work.ts";

/** `found`: the unit was done before, and nothing of it was done again. */
export type UnitEnd = { readonly receipt: Receipt; readonly found: boolean };

/**
 * Runs a unit, unless it was done before; two workers on one unit write the same bytes, and the first receipt counts.
 * Throws what the operation throws; nothing is left visible then but complete files under the run's own folder.
 */
export async function runUnit(context: UnitContext<UnitDeps>, stage: number, index: number): Promise<UnitEnd> {
  const { run, plan, deps } = context;
  const key = layout.receipt(run, stage, index);
  const finished = await findReceipt(context, stage, index);
  if (finished !== undefined) {
    if (await outputStands(context, finished)) return { receipt: finished, found: true };
    deps.log({ event: "receipt-dropped", stage, unit: index, output: finished.outputKey });
  }
  const unit = plan.unit(stage, index);
  const startedMs = deps.now();
  const cpuBefore = deps.cpuMs();
  const work = await runOperation(context, unit);
  const receipt: Receipt = {
    receipt: 1,
    run,
    stage,
    index,
    op: unit.op,
    ...work,
    cpuMs: Math.max(0, deps.cpuMs() - cpuBefore),
    wallMs: Math.max(0, deps.now() - startedMs),
    startedMs,
    image: work.cached ? null : (deps.image ?? null),
  };
  return { receipt: await keepReceipt(context, key, receipt), found: false };
}

/**
 * Creates the receipt, in place of one whose file is gone: workers delete nothing. When another worker was faster, its
 * receipt counts.
 */
async function keepReceipt(context: UnitContext, key: string, receipt: Receipt): Promise<Receipt> {
  const { yard, deps } = context;
  const { signal } = deps;
  const bytes = encodeRecord(receipt);
  const { created, etag } = await yard.create(key, bytes, { signal });
  if (created) return receipt;
  const there = await needReceipt(context, receipt.stage, receipt.index);
  if (await outputStands(context, there)) return there;
  const { replaced } = await yard.replace(key, bytes, etag, { signal });
  return replaced ? receipt : needReceipt(context, receipt.stage, receipt.index);
}

/** False when the file that a receipt speaks of is gone: a version it was cached in was deleted since. */
async function outputStands(context: UnitContext, receipt: Receipt): Promise<boolean> {
  if (receipt.outputKey === null) return true;
  const info = await context.yard.head(receipt.outputKey, { signal: context.deps.signal });
  return info !== undefined && (receipt.file === null || info.bytes === receipt.file.bytes);
}

function runOperation(
  context: UnitContext<UnitDeps>,
  unit: ReturnType<UnitContext["plan"]["unit"]>,
): Promise<UnitWork> {
  if (unit.op === "adopt") return runAdopt(context, unit);
  if (unit.op === "convert") return runConvert(context, unit);
  if (unit.op === "describe") return describeSource(context, unit);
  if (unit.op === "prepare") return prepareUnit(context, unit);
  return runMerge(context, unit);
}

async function runAdopt(context: UnitContext<UnitDeps>, unit: AdoptUnit): Promise<UnitWork> {
  const { plan, deps } = context;
  const planned = plan.header.sources[unit.source];
  assert.ok(planned !== undefined, `the plan has no source ${unit.source}`);
  const store = deps.openStore(planned.store);
  const key = `${planned.prefix}${unit.file}`;
  const source = await findAdoptSource(store, key, deps.signal);
  if (source === undefined) {
    const where = { store: planned.store, file: key, model: planned.model, unit: unit.index };
    throw new MergeyardError("YardSourceChanged", { where, found: "no such file any more" });
  }
  const file = await adoptFile(source, unit.file, deps.signal, deps.progress);
  return {
    ...PLAIN_WORK,
    key: digestJson({ engine: ENGINE_VERSION, operation: "adopt", fingerprint: planned.fingerprint, file: unit.file }),
    outputKey: null,
    file,
    bytesRead: file.bytes,
    bytesWritten: 0,
  };
}

async function runConvert(context: UnitContext<UnitDeps>, unit: ConvertUnit): Promise<UnitWork> {
  const { yard, run, plan, deps } = context;
  const planned = plan.header.sources[unit.source];
  assert.ok(planned !== undefined, `the plan has no source ${unit.source}`);
  const { fingerprint, model, prefix } = planned;
  const source = { store: planned.store, prefix, model };
  const outputKey = `${layout.stageOutput(run, unit.stage)}${unit.index}/${unit.file}`;
  const encoded = { ...encodeConverted(unit.tensors), file: unit.file };
  const made = await convertFile(source, encoded, { store: yard.uri, key: outputKey }, deps);
  return {
    ...PLAIN_WORK,
    key: digestJson({ engine: ENGINE_VERSION, operation: "convert", fingerprint, tensors: unit.tensors }),
    outputKey,
    file: made.listing,
    bytesRead: made.bytesRead,
    bytesWritten: encoded.fileBytes,
    threads: made.threads,
  };
}

async function runMerge(context: UnitContext<UnitDeps>, unit: MergeUnit): Promise<UnitWork> {
  const { yard, run, deps } = context;
  const sources = await locateSources(context, unit.tensors);
  const state = await decideRounds(context, unit);
  const key = mergeKey(unit, sources, state);
  const isIntermediate = unit.intermediate === true;
  const outputKey = isIntermediate
    ? `${layout.stageOutput(run, unit.stage)}${unit.file}`
    : layout.unitOutput(run, unit.file);
  const cached = await findCachedFile(yard, key, deps.signal);
  if (cached !== undefined) {
    // Later stages look for all of its files in one folder; the store copies or links it there.
    const isElsewhere = isIntermediate && cached.file !== outputKey;
    if (isElsewhere) await yard.copy(cached.file, outputKey, { signal: deps.signal });
    return { ...cachedWork(unit, cached), key, outputKey: isIntermediate ? outputKey : cached.file };
  }
  // A file of another format may be named as the unit's own is.
  const derivedPrefix = layout.unitOutput(run, "derived/");
  const target = { store: yard.uri, key: outputKey, derivedPrefix };
  const { threads, memoryBytes, signal } = deps;
  const resolved = narrowSources(context, unit.tensors, sources);
  const importance = await openUnitImportance(unit, deps);
  await checkUnitHessians(unit, deps);
  const request = { unit, sources: resolved, state, importance, target, threads, memoryBytes };
  const options = { signal, ...(deps.progress === undefined ? {} : { progress: deps.progress }) };
  const result = await deps.executeMerge(request, options);
  const { statistics, derived, losses, ...rest } = result;
  return {
    key,
    cached: false,
    outputKey,
    checkpoint: null,
    statistics: statistics === null ? null : [...statistics],
    derived: derived.map((file) => ({ key: `${derivedPrefix}${file.name}`, file })),
    losses: [...losses],
    ...rest,
  };
}

/** Of a unit whose files are there already, under the names that this plan gives them. */
function cachedWork({ file, derived }: MergeUnit, cached: CachedFile): Omit<UnitWork, "key" | "outputKey"> {
  return {
    ...PLAIN_WORK,
    cached: true,
    file: { ...cached.listing, name: file },
    derived: cached.derived.map(({ file: key, listing }, index) => {
      return { key, file: { ...listing, name: derived[index]?.file ?? listing.name } };
    }),
    losses: cached.losses,
    nonFinite: cached.nonFinite,
    statistics: cached.statistics,
    bytesRead: 0,
    bytesWritten: 0,
    threads: 0,
  };
}
