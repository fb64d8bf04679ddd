// `npm run quality -- MODELS`: merges real small models by every method, quantizes one to every format, and measures
// what comes out, as the papers' tables do. Below each row stands what the models' own README states, and whether that
// is within the noise of the samples; beside it, how the merge stands to the base. MODELS is a folder that holds the
// suites of tools/quality/suites.ts. Nothing passes or fails: verdicts say what these models can show.
//
//   npm run quality -- MODELS [--full] [--suites vit-tiny,lm-tiny,lm-tiny-formats,moe-tiny] [--rows TEXT]
//                      [--threads N] [--json]
//
// By default a quarter of the samples, in a few minutes on two cores; --full takes all, as the README's tables did.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import * as z from "zod";
import { main } from "../cli/main.ts";
import { writeQuantized } from "./quality/formats.ts";
import { compileLinear } from "./quality/linear.ts";
import { scoreAll } from "./quality/pool.ts";
import { writeRouterStatistics } from "./quality/router-statistics.ts";
import type { Scores, Scoring } from "./quality/score.ts";
import { type Row, SUITES, type Suite } from "./quality/suites.ts";
import { describeRows, type Measured, renderTable, type Stated } from "./quality/table.ts";

const tableSchema = z.record(z.string(), z.record(z.string(), z.number()));
/** A README's table by row, or several by name. */
const statedSchema = z.union([
  z.object({ "bits a byte": tableSchema }).transform((tables) => tables["bits a byte"]),
  tableSchema,
]);

/** A model and what is said of it beside its row's label. */
type Made = { readonly model: string; readonly note?: string };

/** Where a suite's models and samples lie, and where more are made. */
type Places = { readonly folder: string; readonly data: string; readonly scratch: string };

/** The folder of a row's model, made in `scratch` where it is not there. */
async function make(suite: Suite, { folder, data, scratch }: Places, row: Row, index: number): Promise<Made> {
  if (row.model === "individual") throw new Error("individual models are not one model");
  if ("folder" in row.model) return { model: join(folder, row.model.folder) };
  const out = join(scratch, String(index));
  if ("format" in row.model) {
    const bits = await writeQuantized(join(folder, "base"), out, row.model.format);
    return { model: out, note: `${bits.toFixed(2)} bits` };
  }
  if ("experts" in row.model) {
    const file = join(scratch, "statistics.safetensors");
    const { experts, calibrated } = row.model;
    if (calibrated && !existsSync(file)) {
      await writeRouterStatistics(compileLinear(), { model: folder, data, tasks: suite.tasks, file });
    }
    await runCommand(folder, ["merge-experts", folder, ...experts, ...(calibrated ? ["--statistics", file] : [])], out);
    return { model: out };
  }
  const recipe = join(scratch, `${index}.yaml`);
  writeFileSync(recipe, JSON.stringify(row.model.merge));
  const names = foldersOf(row.model.merge).flatMap((name) => ["--model", `${name}=${join(folder, name)}`]);
  await runCommand(folder, ["merge", recipe, ...names], out);
  return { model: out };
}

/** The command line, as any user's. */
async function runCommand(cwd: string, args: readonly string[], out: string): Promise<void> {
  const quiet = { write: () => true };
  const terminal = { stdout: quiet, stderr: process.stderr, cwd, env: process.env, now: Date.now };
  const status = await main([...args, "--out", out, "--json"], { ...terminal, signal: new AbortController().signal });
  if (status !== 0) throw new Error(`${args.join(" ")} failed`);
}

/** Folders that a recipe's references name; `model+adapter` names two. */
function foldersOf(recipe: Readonly<Record<string, unknown>>): readonly string[] {
  const { models, base_model: base } = z
    .object({ models: z.array(z.object({ model: z.string() })), base_model: z.string().optional() })
    .parse(recipe);
  const references = [...models.map(({ model }) => model), ...(base === undefined ? [] : [base])];
  return [...new Set(references.flatMap((reference) => reference.split("+")))];
}

type Work = { readonly row: Row; readonly note?: string | undefined; readonly scorings: readonly Scoring[] };

/** What a row asks to be measured: one model on all tasks, or every task's own fine-tune. */
async function plan(suite: Suite, places: Places, samples: number): Promise<readonly Work[]> {
  const work: Work[] = [];
  for (const [index, row] of suite.rows.entries()) {
    const scoring = { kind: suite.kind, data: places.data, samples };
    if (row.model === "individual") {
      const scorings = suite.tasks.map((task) => ({
        ...scoring,
        model: join(places.folder, `ft-${task}`),
        tasks: [task],
      }));
      work.push({ row, scorings });
    } else {
      const { model, note } = await make(suite, places, row, index);
      work.push({ row, note, scorings: [{ ...scoring, model, tasks: suite.tasks }] });
    }
  }
  return work;
}

async function measureSuite(
  suite: Suite,
  models: string,
  { samples, threads }: { readonly samples: number; readonly threads: number },
): Promise<readonly Measured[]> {
  const scratch = mkdtempSync(join(os.tmpdir(), "mergeyard-quality-"));
  try {
    const places = { folder: join(models, suite.folder), data: join(models, suite.data), scratch };
    const work = await plan(suite, places, samples);
    const scorings = work.flatMap(({ scorings: own }) => own);
    let done = 0;
    const scores = await scoreAll(compileLinear(), scorings, threads, () => {
      process.stderr.write(`\r${suite.id}: ${++done} of ${scorings.length} models`);
    });
    process.stderr.write("\n");
    let at = 0;
    return work.map(({ row, note, scorings: own }) => {
      const merged: Scores = Object.assign({}, ...scores.slice(at, at + own.length));
      at += own.length;
      return { row, note, scores: merged };
    });
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

function readStated(folder: string): Stated {
  const file = join(folder, "table.json");
  return existsSync(file) ? statedSchema.parse(JSON.parse(readFileSync(file, "utf8"))) : {};
}

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    full: { type: "boolean", default: false },
    suites: { type: "string", default: SUITES.map(({ id }) => id).join(",") },
    rows: { type: "string", default: "" },
    threads: { type: "string", default: String(os.availableParallelism()) },
    json: { type: "boolean", default: false },
  },
});
const [models] = positionals;
if (models === undefined) {
  console.error("usage: npm run quality -- MODELS [--full] [--suites a,b] [--rows TEXT] [--threads N] [--json]");
  process.exit(2);
}
const wanted = options.suites.split(",");
const unknown = wanted.find((name) => !SUITES.some(({ id }) => id === name));
if (unknown !== undefined) {
  console.error(`no suite is called ${unknown}; there are ${SUITES.map(({ id }) => id).join(", ")}`);
  process.exit(2);
}
for (const suite of SUITES.filter(({ id }) => wanted.includes(id))) {
  const samples = options.full ? suite.samples.full : suite.samples.quick;
  const rows = suite.rows.filter(({ label }) => label === suite.base || label.includes(options.rows));
  const asked = { ...suite, rows };
  const measured = await measureSuite(asked, resolve(models), { samples, threads: Number(options.threads) });
  const stated = readStated(resolve(models, suite.folder));
  if (options.json) {
    console.log(JSON.stringify({ suite: suite.id, samples, rows: describeRows(asked, measured, stated) }));
  } else console.log(`\n${suite.id}: ${suite.title}\n${renderTable(asked, measured, stated).join("\n")}`);
}
