// `npm run bench`: what merging, quantizing and converting cost, as ratios. Merging: CPU-seconds of one thread against
// mergekit's with one torch thread on the same files; wall time of as many threads as we use unasked against plainly
// reading the inputs and writing the output once. Quantizing: bench/quantize.ts. Converting: bench/convert.ts. Machines
// are shared and noisy, so runs are interleaved and the least of each figure counts. Nothing here passes or fails.
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import * as z from "zod";
import { findMethod } from "../core/methods/registry.ts";
import { defaultThreads } from "../workers/pool.ts";
import { benchConvert } from "./bench/convert.ts";
import { type Cost, least, measure } from "./bench/measure.ts";
import { makeBenchModels } from "./bench/models.ts";
import { benchQuantize } from "./bench/quantize.ts";
import { buildCommandLine } from "./build.ts";

/** Recipes as mergekit's bench runs them, and mergekit's CPU-seconds on an idle 2-vCPU EPYC machine where measured. */
const RECIPES: Readonly<
  Record<string, { base: boolean; models: readonly string[]; density?: number; t?: number; mergekitS?: number }>
> = {
  linear: { base: false, models: ["base", "ft1", "ft2"], mergekitS: 11.6 },
  task_arithmetic: { base: true, models: ["ft1", "ft2"], mergekitS: 11.2 },
  slerp: { base: true, models: ["base", "ft1"], t: 0.4, mergekitS: 13.4 },
  ties: { base: true, models: ["ft1", "ft2"], density: 0.3, mergekitS: 110 },
  dare_linear: { base: true, models: ["ft1", "ft2"], density: 0.3, mergekitS: 31 },
  della_linear: { base: true, models: ["ft1", "ft2"], density: 0.3 },
  breadcrumbs: { base: true, models: ["ft1", "ft2"], density: 0.3 },
  nuslerp: { base: false, models: ["base", "ft1"] },
  karcher: { base: false, models: ["base", "ft1", "ft2"] },
  model_stock: { base: true, models: ["ft1", "ft2"], mergekitS: 11.4 },
  ties_paper: { base: true, models: ["ft1", "ft2"] },
  pcb: { base: true, models: ["ft1", "ft2"] },
};
const WEIGHTS: Readonly<Record<string, number>> = { base: 0.5, ft1: 0.3, ft2: 0.2 };

const USAGE = `npm run bench -- [--parts merge,quantize,convert] [--dir DIR] [--rounds N]
  merging     [--methods ${Object.keys(RECIPES).join(",")}]
              [--mergekit CHECKOUT --peer BENCH.py --pydantic-site SITE [--python PYTHON]]
  quantizing  [--schemes a,b] [--ggml CHECKOUT] [--rows-only]
  converting  [--deepspeed CHECKOUT --deepspeed-loader LOADER.py [--python PYTHON]]
`;

const options = readOptions();

/** Ends the process with the usage where it was asked for, or where an option is wrong. */
function readOptions() {
  try {
    const { values } = parseArgs({
      options: {
        dir: { type: "string", default: ".bench" },
        parts: { type: "string", default: "merge,quantize,convert" },
        rounds: { type: "string", default: "3" },
        methods: { type: "string", default: "linear,task_arithmetic,slerp" },
        mergekit: { type: "string" },
        "pydantic-site": { type: "string" },
        peer: { type: "string" },
        python: { type: "string", default: "/usr/bin/python3" },
        schemes: { type: "string", default: "" },
        ggml: { type: "string" },
        "rows-only": { type: "boolean", default: false },
        deepspeed: { type: "string" },
        "deepspeed-loader": { type: "string" },
        help: { type: "boolean", default: false },
      },
    });
    if (!values.help) return values;
    process.stdout.write(USAGE);
    return process.exit(0);
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : error}\n${USAGE}`);
    return process.exit(2);
  }
}

const root = resolve(import.meta.dirname, "..");
const dir = resolve(options.dir);

function recipeText(method: string): string {
  const recipe = RECIPES[method];
  const known = findMethod(method)?.modelParameters.shape;
  if (recipe === undefined || known === undefined) throw new Error(`the bench has no recipe for ${method}`);
  const models = recipe.models.map((model) => {
    const weight = "weight" in known ? { weight: WEIGHTS[model] } : {};
    const density = recipe.density === undefined ? {} : { density: recipe.density };
    return { model: join(dir, model), parameters: { ...weight, ...density } };
  });
  const base = recipe.base ? { base_model: join(dir, "base") } : {};
  const parameters = recipe.t === undefined ? {} : { parameters: { t: recipe.t } };
  return JSON.stringify({ merge_method: method, ...base, models, ...parameters }, undefined, 2);
}

/** One merge, the output removed again; `threads` are ours to choose where none are given. */
async function runOurs(method: string, threads?: number): Promise<Cost> {
  const folder = mkdtempSync(join(dir, "run-"));
  try {
    const recipe = join(folder, "recipe.yaml");
    writeFileSync(recipe, recipeText(method));
    const flags = `--no-digest-inputs${threads === undefined ? "" : ` --threads ${threads}`}`;
    return await measure(`node cli/mergeyard.mjs merge ${recipe} --out ${join(folder, "out")} ${flags}`, root);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** The same bytes moved without any work: cat of the inputs, cp of one of them. */
async function runCopy(models: readonly string[]): Promise<Cost> {
  const files = models.map((model) => join(dir, model, "model.safetensors"));
  const target = join(dir, "copy.tmp");
  try {
    return await measure(`{ cat ${files.join(" ")} > /dev/null; cp ${files[0]} ${target}; }`, root);
  } finally {
    rmSync(target, { force: true });
  }
}

const peerRows = z.object({ rows: z.array(z.object({ method: z.string(), e2e_cpu_s: z.number().optional() })) });

/** What of a mergekit process comes before its work, which is what the peer's script times. */
const MERGEKIT_START = `
import sys
sys.path.insert(0, sys.argv[1])
import stubs
stubs.install(sys.argv[2], sys.argv[3])
import torch
import mergekit.scripts.merge_raw_pytorch
`;
const MERGEKIT_STARTS = 3;

async function startMergekit(peer: string, site: string, checkout: string): Promise<number> {
  const script = join(dir, "mergekit-start.py");
  writeFileSync(script, MERGEKIT_START);
  const starts: Cost[] = [];
  for (let round = 0; round < MERGEKIT_STARTS; round++) {
    starts.push(await measure(`${options.python} ${script} ${dirname(resolve(peer))} ${site} ${checkout}`, root));
  }
  return least(starts).cpuS;
}

/** CPU-seconds of mergekit's work and start in this sitting, when a checkout was named. */
async function runMergekit(methods: readonly string[]): Promise<ReadonlyMap<string, number>> {
  const site = options["pydantic-site"];
  if (options.mergekit === undefined || site === undefined || options.peer === undefined) return new Map();
  const start = await startMergekit(options.peer, site, options.mergekit);
  console.log(`mergekit: ${start.toFixed(2)} CPU-s to start (torch and mergekit imported, most packages stubbed)`);
  const json = join(dir, "mergekit.json");
  const peer = ["--mergekit", options.mergekit, "--pydantic-site", site, "--threads", "1", "--e2e", "--json", json];
  const scope = ["--compute-tensors", "1", "--budget", "1", "--e2e-limit", "400", "--methods", methods.join(",")];
  execFileSync(options.python, [options.peer, "run", dir, ...peer, ...scope], { stdio: "ignore" });
  const { rows } = peerRows.parse(JSON.parse(readFileSync(json, "utf8")));
  return new Map(
    rows.flatMap(({ method, e2e_cpu_s: seconds }) =>
      seconds === undefined ? [] : [[method, start + seconds] as const],
    ),
  );
}

async function benchMerging(): Promise<void> {
  console.log(`models in ${dir} (3 x 0.9 GB, made once)`);
  makeBenchModels(dir);
  const methods = options.methods.split(",");
  const mergekit = await runMergekit(methods);
  console.log(
    "CPU-s: user and system time of a whole run with one thread, start included, beside mergekit's likewise.",
  );
  console.log(
    "The output is digested, as always; the inputs are not (--no-digest-inputs), as mergekit digests nothing.",
  );
  console.log(`wall s and peak MiB: with the default of one thread a processor, here ${defaultThreads()}.`);
  console.log("copy s: plainly reading the inputs and writing the output, one file after the other.");
  console.log("method           CPU-s   mergekit  ratio   wall s  copy s  ratio   peak MiB");
  for (const method of methods) {
    const recipe = RECIPES[method];
    const inputs = [...new Set([...(recipe?.base === true ? ["base"] : []), ...(recipe?.models ?? [])])];
    const [singles, ours, copies]: [Cost[], Cost[], Cost[]] = [[], [], []];
    for (let round = 0; round < Number(options.rounds); round++) {
      singles.push(await runOurs(method, 1));
      ours.push(await runOurs(method));
      copies.push(await runCopy(inputs));
    }
    const [single, our, copy] = [least(singles), least(ours), least(copies)];
    const measured = mergekit.get(method);
    const peer = measured ?? recipe?.mergekitS;
    const cells = [
      method.padEnd(15),
      single.cpuS.toFixed(2).padStart(6),
      (peer === undefined ? "-" : `${peer.toFixed(1)}${measured === undefined ? "*" : " "}`).padStart(9),
      (peer === undefined ? "-" : `1/${(peer / single.cpuS).toFixed(1)}`).padStart(7),
      our.wallS.toFixed(2).padStart(7),
      copy.wallS.toFixed(2).padStart(7),
      `${(our.wallS / copy.wallS).toFixed(2)}x`.padStart(7),
      (our.peakBytes / 2 ** 20).toFixed(0).padStart(9),
    ];
    console.log(cells.join(" "));
  }
  if (mergekit.size === 0) {
    console.log(
      "* without its start, on an idle 2-vCPU EPYC machine; name a checkout with --mergekit to measure it here",
    );
  }
}

mkdirSync(dir, { recursive: true });
// What users start, whatever was changed since it was last built.
await buildCommandLine(join(root, "dist"));
const parts = options.parts.split(",");
if (parts.includes("merge")) await benchMerging();
if (parts.includes("quantize")) {
  const schemes = options.schemes.split(",").filter((id) => id !== "");
  const { ggml, "rows-only": rowsOnly } = options;
  await benchQuantize({ dir, rounds: Number(options.rounds), schemes, ggml, rowsOnly }, root);
}
if (parts.includes("convert")) {
  const { deepspeed, "deepspeed-loader": deepspeedLoader, python } = options;
  await benchConvert({ dir, rounds: Number(options.rounds), deepspeed, deepspeedLoader, python }, root);
}
