// The plan of a run as a file of the yard: JSON Lines, the header first, then one unit a line in the order of stages
// and indexes. Written once; every worker reads it and parses only the lines of its own units.
import * as z from "zod";
import { layout, namedFolders } from "../core/artifact/layout.ts";
import { type ErrorDetails, MergeyardError } from "../core/error.ts";
import { parseJson } from "../core/json.ts";
import { PLAN_LIMITS, STORE_LIMITS } from "../core/limits.ts";
import { parseAs } from "../core/parse-as.ts";
import {
  type Plan,
  type PlanHeader,
  planHeaderSchema,
  type Stage,
  type Unit,
  unitSchema,
} from "../core/plan/schema.ts";
import { writeBytes } from "../stores/objects.ts";
import type { ObjectStore } from "../stores/store.ts";

/** A plan whose units are parsed when they are asked for. */
export type StoredPlan = {
  readonly header: PlanHeader;
  /** Throws YardPlanInvalid when the plan has no such unit. */
  unit(stage: number, index: number): Unit;
};

/** Writes the plan, unless the run has one already: its name says that it is the same. */
export async function writePlan(store: ObjectStore, plan: Plan, signal: AbortSignal): Promise<void> {
  const order = new Map(plan.header.stages.map((stage, place) => [stage.index, place]));
  const place = (unit: Unit): number => order.get(unit.stage) ?? order.size;
  const units = [...plan.units].sort((a, b) => place(a) - place(b) || a.index - b.index);
  const lines = [plan.header, ...units].map((line) => `${JSON.stringify(line)}\n`);
  const bytes = new TextEncoder().encode(lines.join(""));
  const key = layout.plan(plan.header.run);
  if (bytes.length <= STORE_LIMITS.conditionalBytes) await store.create(key, bytes, { signal });
  else if ((await store.head(key, { signal })) === undefined) await writeBytes(store, key, bytes, { signal });
}

/** Reads the plan of a run. Throws YardRunMissing, YardPlanInvalid. */
export async function readPlan(store: ObjectStore, run: string, signal: AbortSignal): Promise<StoredPlan> {
  const key = layout.plan(run);
  const place = { store: store.uri, file: key };
  const stored = await store.get(key, PLAN_LIMITS.bytes, { signal });
  if (stored === undefined) throw new MergeyardError("YardRunMissing", { where: place });
  const { bytes } = stored;
  const lines = findLines(bytes);
  const invalid = (line: number | undefined, details: ErrorDetails): MergeyardError =>
    new MergeyardError("YardPlanInvalid", { ...details, where: { ...place, line, ...details.where } });
  const parse = <Schema extends z.ZodType>(line: number, schema: Schema): z.output<Schema> => {
    const [start, end] = lines[line] ?? [0, 0];
    return parseAs(schema, parseJson(bytes.subarray(start, end)), (field, found) =>
      invalid(line + 1, { where: { field }, found }),
    );
  };
  const header = parse(0, planHeaderSchema);
  const expected = header.stages.reduce((sum, stage) => sum + stage.units, 1);
  if (lines.length !== expected) {
    throw invalid(undefined, { found: `${lines.length} lines`, expected: `${expected} lines` });
  }
  return {
    header,
    unit(stage, index) {
      const line = lineOf(header.stages, stage, index);
      if (line !== undefined) return parse(line, unitSchema);
      throw invalid(undefined, { where: { unit: index }, expected: `unit ${index} of stage ${stage}` });
    },
  };
}

/** Of a plan what `gc` must know, whichever version wrote it. */
const publishingSchema = z.looseObject({ publish: z.looseObject({ model: z.string() }).optional() });
const describingSchema = z.looseObject({ op: z.literal("describe"), model: z.string() });

/** What a run needs of the yard. */
export type PlanReach = {
  /** Folders that the plan names: what it reads, and perhaps others. */
  readonly folders: readonly string[];
  /** Models under whose names the run makes universal checkpoints. */
  readonly described: readonly string[];
  /** The model that it publishes. */
  readonly published: string | undefined;
};

/** Throws YardRunMissing, YardPlanInvalid. */
export async function readPlanReach(store: ObjectStore, run: string, signal: AbortSignal): Promise<PlanReach> {
  const where = { store: store.uri, file: layout.plan(run) };
  const stored = await store.get(where.file, PLAN_LIMITS.bytes, { signal });
  if (stored === undefined) throw new MergeyardError("YardRunMissing", { where });
  const [folders, described] = [new Set<string>(), new Set<string>()];
  const lines = findLines(stored.bytes).map(([start, end]) => stored.bytes.subarray(start, end));
  for (const line of lines) {
    const text = Buffer.from(line.buffer, line.byteOffset, line.byteLength).toString();
    for (const folder of namedFolders(text)) folders.add(folder);
    const describing = text.includes('"describe"') ? describingSchema.safeParse(parseJson(line)).data : undefined;
    if (describing !== undefined) described.add(describing.model);
  }
  const { publish } = parseAs(publishingSchema, parseJson(lines[0] ?? new Uint8Array()), (field, found) => {
    return new MergeyardError("YardPlanInvalid", { where: { ...where, line: 1, field }, found });
  });
  return { folders: [...folders], described: [...described], published: publish?.model };
}

/** Line of a unit, counting the header as line 0; undefined when the stage or the index is not in the plan. */
function lineOf(stages: readonly Stage[], stage: number, index: number): number | undefined {
  let line = 1;
  for (const entry of stages) {
    if (entry.index === stage) return index < entry.units ? line + index : undefined;
    line += entry.units;
  }
  return undefined;
}

/** Start and end of every line, newlines left out. */
function findLines(bytes: Uint8Array): readonly (readonly [number, number])[] {
  const lines: [number, number][] = [];
  for (let start = 0; start < bytes.length; ) {
    const newline = bytes.indexOf(10, start);
    const end = newline === -1 ? bytes.length : newline;
    lines.push([start, end]);
    start = end + 1;
  }
  return lines;
}
