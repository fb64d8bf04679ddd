// The receipts of a run, and all its units with them: what check, publish, notify and reports go through.
import assert from "node:assert/strict";
import { layout } from "../../core/artifact/layout.ts";
import { MergeyardError } from "../../core/error.ts";
import { mapBounded } from "../../core/map-bounded.ts";
import { type Receipt, receiptSchema, type TensorFile } from "../../core/plan/receipt.ts";
import type { MergeUnit, Unit } from "../../core/plan/schema.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { listKeys, readRecords } from "../records.ts";
import { needReceipt, type UnitContext } from "../units/context.ts";

export type FinishedUnit = { readonly unit: Unit; readonly receipt: Receipt };

/** A merge unit, its receipt, and the file that it made or found. */
export type FinishedMerge = {
  readonly unit: MergeUnit;
  readonly receipt: Receipt;
  readonly file: TensorFile;
  readonly outputKey: string;
};

/** The receipts that a run has so far, in the order of stages and units. */
export async function readReceipts(yard: ObjectStore, run: string, signal: AbortSignal): Promise<readonly Receipt[]> {
  return readRecords(yard, await listKeys(yard, layout.receipts(run), signal), receiptSchema, signal);
}

/** Units of the plan in order, each with its receipt. Throws YardUnitsUnfinished with how many have none. */
export async function readFinishedUnits(context: UnitContext): Promise<readonly FinishedUnit[]> {
  const { yard, run, plan, deps } = context;
  const places = plan.header.stages.flatMap((stage) =>
    Array.from({ length: stage.units }, (_, index) => ({ stage: stage.index, index })),
  );
  const present = new Set(await listKeys(yard, layout.receipts(run), deps.signal));
  const missing = places.filter(({ stage, index }) => !present.has(layout.receipt(run, stage, index)));
  const [first] = missing;
  if (first !== undefined) {
    throw new MergeyardError("YardUnitsUnfinished", {
      where: { store: yard.uri, file: layout.receipt(run, first.stage, first.index), unit: first.index },
      found: `${places.length - missing.length} receipts`,
      expected: `${places.length} receipts`,
    });
  }
  return mapBounded(places, async ({ stage, index }) => ({
    unit: plan.unit(stage, index),
    receipt: await needReceipt(context, stage, index),
  }));
}

/** The merge units among them that make the version's tensor files. */
export function mergesOf(finished: readonly FinishedUnit[]): readonly FinishedMerge[] {
  return allMerges(finished).filter(({ unit }) => unit.intermediate !== true);
}

/** A file that a unit made or found, and its receipt. */
export type FinishedFile = Omit<FinishedMerge, "unit">;

/** Files that only later stages read: results of the recipe's own documents, and totals of whole models. */
export function stageFilesOf(finished: readonly FinishedUnit[]): readonly FinishedFile[] {
  const totals = finished.flatMap(({ unit, receipt }) => (unit.op === "prepare" ? [fileOf(receipt)] : []));
  return [...totals, ...allMerges(finished).filter(({ unit }) => unit.intermediate === true)];
}

function allMerges(finished: readonly FinishedUnit[]): readonly FinishedMerge[] {
  return finished.flatMap(({ unit, receipt }) => {
    return unit.op === "merge" ? [{ unit, ...fileOf(receipt) }] : [];
  });
}

function fileOf(receipt: Receipt): FinishedFile {
  const { file, outputKey } = receipt;
  assert.ok(file !== null && outputKey !== null, `the receipt of a unit that does ${receipt.op} names its file`);
  return { receipt, file, outputKey };
}
