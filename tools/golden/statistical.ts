// Golden cases of random methods: the reference's masks cannot be reproduced, its properties can. A case says the
// probability with which each element is kept and what becomes of those that are; it is run with fixed seeds, and every
// bound is in standard deviations of what independent draws would give. Source: merge reference, sections 4.8, 4.9, 15.
import { basename, dirname, join } from "node:path";
import * as z from "zod";
import { findMethod } from "../../core/methods/registry.ts";
import { openCheckpoint, openCheckpointFile } from "../../steps/open-checkpoint.ts";
import { createDirectoryStore } from "../../stores/directory.ts";
import { failed, PASSED, skipped, type Verdict } from "./case.ts";
import { runMerge } from "./run-merge.ts";
import { readTensor, valuesOf } from "./tensors.ts";

const parameters = z.record(z.string(), z.unknown());
const statisticalCase = z.object({
  id: z.string(),
  method: z.string(),
  parameters: z.looseObject({ rescale: z.boolean() }),
  models: z.array(z.object({ model: z.string(), parameters })).length(2),
  base_model: z.string(),
  tensors: z.array(z.string()),
  properties: z.looseObject({ mean_keep_probability: z.number() }),
  tolerance: z.looseObject({ mode: z.literal("statistical"), l1_ratio_when_rescaled: z.number() }),
  reference_file: z.string(),
});
type StatisticalCase = z.output<typeof statisticalCase>;

/** Runs of a case, with the seeds 0, 1, ... */
const RUNS = 40;
/** A share may be off by this many standard deviations: by chance once in a million. */
const DEVIATIONS = 5;
/** Elements are judged in groups of like keep probability. */
const GROUPS = 8;
/** Relative error of a rescaled element, beside one rounding of the result: sums of magnitudes are not exact. */
const SCALE_ERROR = 1e-5;

/** One tensor of a case: base, difference, and the reference's keep probability of each element. */
type Subject = {
  readonly name: string;
  readonly base: Float32Array;
  readonly delta: Float32Array;
  readonly probability: Float32Array;
};

/** What a run kept: 1 kept, 0 dropped, NaN where the difference is too small to tell. */
type Kept = Float32Array;

/** Runs a statistical case and checks every property that it states. */
export async function runStatistical(folder: string, document: unknown): Promise<Verdict> {
  const entry = statisticalCase.parse(document);
  if (findMethod(entry.method) === undefined) return skipped(`the method ${entry.method}`);
  const subjects = await readSubjects(folder, entry);
  const kept = new Map<string, Kept[]>(subjects.map(({ name }) => [name, []]));
  for (let seed = 0; seed < RUNS; seed++) {
    const { tensors } = await runMerge(folder, JSON.stringify(toRecipe(entry, seed)), entry.tensors);
    for (const subject of subjects) {
      const tensor = tensors.get(subject.name);
      if (tensor === undefined) return failed(`no tensor ${subject.name}`);
      const judged = judgeRun(entry, subject, valuesOf(tensor));
      if (typeof judged === "string") return failed(`${subject.name}, seed ${seed}: ${judged}`);
      kept.get(subject.name)?.push(judged);
    }
  }
  const problems = subjects.flatMap((subject) => {
    const own = kept.get(subject.name) ?? [];
    return [...checkShares(subject, own), ...checkSeeds(subject, own)].map((why) => `${subject.name}: ${why}`);
  });
  return problems[0] === undefined ? PASSED : failed(problems[0]);
}

function toRecipe(entry: StatisticalCase, seed: number): Record<string, unknown> {
  const { method, models, base_model, parameters: own } = entry;
  return { merge_method: method, models, base_model, parameters: own, random_seed: seed };
}

async function readSubjects(folder: string, entry: StatisticalCase): Promise<readonly Subject[]> {
  const tuned = entry.models.find(({ model }) => model !== entry.base_model)?.model ?? "";
  const base = await readValues(join(folder, entry.base_model), entry.tensors);
  const model = await readValues(join(folder, tuned), entry.tensors);
  const names = entry.tensors.map((name) => `${name}.keep_probability`);
  const reference = await readValues(join(folder, entry.reference_file), names);
  return entry.tensors.map((name) => {
    const own = base.get(name) ?? new Float32Array();
    return {
      name,
      base: own,
      delta: (model.get(name) ?? own).map((value, i) => value - (own[i] ?? 0)),
      probability: reference.get(`${name}.keep_probability`) ?? new Float32Array(),
    };
  });
}

async function readValues(path: string, names: readonly string[]): Promise<ReadonlyMap<string, Float32Array>> {
  const isFile = path.endsWith(".safetensors");
  const store = createDirectoryStore(isFile ? dirname(path) : path, { durable: false });
  const { checkpoint } = isFile ? await openCheckpointFile(store, basename(path)) : await openCheckpoint(store, "");
  const entries = checkpoint.tensors.filter(({ name }) => names.includes(name));
  return new Map(
    await Promise.all(entries.map(async (own) => [own.name, valuesOf(await readTensor(store, own))] as const)),
  );
}

/**
 * What one run kept, or why it is wrong: kept elements are base + c delta with one c for the tensor, others the base.
 */
function judgeRun({ parameters: own, tolerance }: StatisticalCase, subject: Subject, got: Float32Array): Kept | string {
  const { base, delta } = subject;
  const sums = { all: 0, kept: 0, result: 0 };
  const isKept = (i: number) => got[i] !== base[i];
  delta.forEach((value, i) => {
    sums.all += Math.abs(value);
    if (isKept(i)) sums.kept += Math.abs(value);
    sums.result += Math.abs((got[i] ?? 0) - (base[i] ?? 0));
  });
  const scale = own.rescale ? sums.all / sums.kept : 1;
  const kept = delta.map((value, i) => {
    const origin = base[i] ?? 0;
    return Math.fround(origin + Math.fround(value * scale)) === origin ? Number.NaN : isKept(i) ? 1 : 0;
  });
  const wrong = got.findIndex((value, i) => {
    const [origin, change] = [base[i] ?? 0, (delta[i] ?? 0) * scale];
    if (value === origin) return false;
    const exact = Math.fround(origin + Math.fround(change));
    const ulps = 2 ** -23 * Math.max(Math.abs(origin), Math.abs(exact));
    return own.rescale ? !(Math.abs(value - exact) <= SCALE_ERROR * Math.abs(change) + ulps) : value !== exact;
  });
  if (wrong >= 0) return `element ${wrong} is ${got[wrong]}, neither the base nor base + ${scale} delta`;
  const ratio = sums.result / sums.all;
  if (own.rescale && Math.abs(ratio - 1) > tolerance.l1_ratio_when_rescaled) {
    return `L1 norm of the change is ${ratio} of the difference's, expected 1`;
  }
  return kept;
}

/** Kept shares, over all runs, of groups of elements with like probabilities. */
function checkShares({ probability, delta }: Subject, runs: readonly Kept[]): readonly string[] {
  const order = [...delta.keys()].sort((a, b) => (probability[a] ?? 0) - (probability[b] ?? 0) || a - b);
  return Array.from({ length: GROUPS }, (_, group) => {
    const members = order.slice((group * order.length) / GROUPS, ((group + 1) * order.length) / GROUPS);
    let [draws, kept, expected, variance] = [0, 0, 0, 0];
    for (const run of runs) {
      for (const i of members) {
        const [value, p] = [run[i] ?? Number.NaN, probability[i] ?? 0];
        if (Number.isNaN(value)) continue;
        draws++;
        kept += value;
        expected += p;
        variance += p * (1 - p);
      }
    }
    const off = Math.abs(kept - expected);
    if (off <= DEVIATIONS * Math.sqrt(variance)) return [];
    return [`group ${group}: ${kept} of ${draws} kept, expected ${expected.toFixed(1)}`];
  }).flat();
}

/** Runs of different seeds agree no more than independent masks do. */
function checkSeeds({ probability }: Subject, [first, ...others]: readonly Kept[]): readonly string[] {
  let [agreed, expected, variance] = [0, 0, 0];
  for (const other of others) {
    first?.forEach((value, i) => {
      const [twin, p] = [other[i] ?? Number.NaN, probability[i] ?? 0];
      if (Number.isNaN(value) || Number.isNaN(twin)) return;
      const chance = p * p + (1 - p) * (1 - p);
      agreed += value === twin ? 1 : 0;
      expected += chance;
      variance += chance * (1 - chance);
    });
  }
  // The first run is in every pair, so that pairs are not quite independent: twice the deviation.
  const off = Math.abs(agreed - expected);
  return off <= 2 * DEVIATIONS * Math.sqrt(variance)
    ? []
    : [`masks of different seeds agree ${agreed} times, not ${expected}`];
}
