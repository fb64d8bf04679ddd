// `mergeyard merge --report`, `statistics: true` and quantized outputs in a pipeline, on the example models with the
// real engine.
import assert from "node:assert/strict";
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import test, { after } from "node:test";
import { main } from "../../cli/main.ts";
import { parseManifest } from "../../core/artifact/manifest.ts";
import { STATISTICS_FILE, statisticsSchema } from "../../core/artifact/statistics.ts";
import { keptByModel } from "../../core/report/summary.ts";
import { createRecorder } from "./recorder.ts";

const EXAMPLES = path.resolve(import.meta.dirname, "../../examples");
const scratch = mkdtempSync(path.join(tmpdir(), "mergeyard-report-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

const RECIPE = {
  merge_method: "task_arithmetic",
  base_model: "base",
  models: [{ model: "shakespeare" }, { model: "python" }],
  parameters: { weight: 0.4 },
};

async function run(args: readonly string[]): Promise<{ status: number; err: string }> {
  const terminal = createRecorder({ cwd: scratch });
  return { status: await main(args, terminal), err: terminal.err() };
}

function readStatistics(folder: string) {
  return statisticsSchema.parse(JSON.parse(readFileSync(path.join(folder, STATISTICS_FILE), "utf8")));
}

test("--report draws a page, and the output lists statistics.json among its files", async () => {
  const models = Object.fromEntries(
    ["base", "shakespeare", "python"].map((name) => [name, `${EXAMPLES}/models/${name}`]),
  );
  const recipe = path.join(scratch, "report.yaml");
  writeFileSync(recipe, JSON.stringify({ name: "report", models, merge: RECIPE }));
  const out = path.join(scratch, "merged");
  const { status, err } = await run(["merge", recipe, "--out", out, "--report", path.join(scratch, "report.html")]);
  assert.equal(status, 0, err);
  assert.match(readFileSync(path.join(scratch, "report.html"), "utf8"), /mlp\.up_proj/);
  const statistics = readStatistics(out);
  assert.deepEqual(
    [statistics.vectors, statistics.base, statistics.models],
    ["task", "base", ["shakespeare", "python"]],
  );
  assert.equal(statistics.tensors.length, 39);
  const manifest = parseManifest(readFileSync(path.join(out, "manifest.json")));
  assert.ok(manifest?.files.some(({ name }) => name === STATISTICS_FILE));
});

test("methods with one threshold for a model report how much of it they kept", async () => {
  const cases = [
    // top_k_percent keeps the element of the next rank too; equal magnitudes at the cut all stay or all go.
    { merge_method: "ties_paper", parameters: { top_k_percent: 20 }, share: 0.2 },
    { merge_method: "localize_and_stitch", parameters: { density: 0.1 }, share: 0.1 },
    { merge_method: "pcb", parameters: { pcb_ratio: 0.3 }, share: 0.3 },
  ];
  for (const { share, ...own } of cases) {
    const id = own.merge_method;
    const models = [{ model: `${EXAMPLES}/models/shakespeare` }, { model: `${EXAMPLES}/models/python` }];
    const recipe = path.join(scratch, `${id}.yaml`);
    writeFileSync(recipe, JSON.stringify({ ...own, base_model: `${EXAMPLES}/models/base`, models }));
    const out = path.join(scratch, id);
    const { status, err } = await run(["merge", recipe, "--out", out, "--report", path.join(scratch, `${id}.html`)]);
    assert.equal(status, 0, err);
    assert.match(readFileSync(path.join(scratch, `${id}.html`), "utf8"), /How much of them was kept/);
    for (const kept of keptByModel(readStatistics(out))) {
      assert.ok(kept !== null && Math.abs(kept / share - 1) < 0.1, `${id} kept ${kept}`);
    }
  }
});

test("without --report nothing is measured, and a merge of copies has nothing to report", async () => {
  const recipe = path.join(scratch, "copy.yaml");
  writeFileSync(
    recipe,
    JSON.stringify({ merge_method: "passthrough", models: [{ model: `${EXAMPLES}/models/base` }] }),
  );
  const [plain, reported] = [path.join(scratch, "plain"), path.join(scratch, "reported")];
  assert.equal((await run(["merge", recipe, "--out", plain])).status, 0);
  assert.ok(!existsSync(path.join(plain, STATISTICS_FILE)));
  const refused = await run([
    "merge",
    recipe,
    "--out",
    reported,
    "--report",
    path.join(scratch, "none.html"),
    "--json",
  ]);
  assert.equal(refused.status, 1);
  assert.equal(JSON.parse(refused.err).error.code, "CliNothingToReport");
});

test("a page that finds no room is told by its file, and the merge stands; it may lie in the output", async () => {
  const recipe = path.join(scratch, "unwritten.yaml");
  const models = [{ model: `${EXAMPLES}/models/shakespeare` }, { model: `${EXAMPLES}/models/python` }];
  writeFileSync(recipe, JSON.stringify({ ...RECIPE, base_model: `${EXAMPLES}/models/base`, models }));
  const [out, page] = [path.join(scratch, "unwritten"), path.join(scratch, "full.html")];
  symlinkSync("/dev/full", page);
  const { status, err } = await run(["merge", recipe, "--out", out, "--report", page, "--json"]);
  const { error } = JSON.parse(err);
  assert.deepEqual([status, error.code, error.where, error.found], [1, "CliFileNotWritten", { file: page }, "ENOSPC"]);
  assert.ok(existsSync(path.join(out, "manifest.json")));
  const within = path.join(scratch, "within");
  const { status: done } = await run(["merge", recipe, "--out", within, "--report", path.join(within, "page.html")]);
  assert.equal(done, 0);
  assert.ok(existsSync(path.join(within, "page.html")));
});

test("a pipeline with `statistics: true` publishes them, and finds them again in the cache", async () => {
  const yard = path.join(scratch, "yard");
  assert.equal((await run(["init", yard])).status, 0);
  for (const name of ["base", "shakespeare", "python"]) {
    cpSync(`${EXAMPLES}/models/${name}`, path.join(yard, "incoming", name, "1"), { recursive: true });
  }
  const first = readStatistics((await runAndPull(yard, "first", { statistics: true })).folder);
  assert.equal(first.tensors.length, 39);
  const second = await runAndPull(yard, "second", { statistics: true });
  assert.deepEqual(readStatistics(second.folder), first);
});

/** Runs a pipeline in the yard and pulls what it publishes. */
async function runAndPull(yard: string, name: string, parts: object): Promise<{ folder: string; err: string }> {
  const pipeline = path.join(scratch, `${name}.yaml`);
  const models = { base: "incoming/base", shakespeare: "incoming/shakespeare", python: "incoming/python" };
  const publish = { model: name, channel: "latest" };
  writeFileSync(pipeline, JSON.stringify({ name, models, merge: RECIPE, publish, ...parts }));
  const ran = await run(["run", pipeline, "--yard", yard]);
  assert.equal(ran.status, 0, ran.err);
  const folder = path.join(scratch, name);
  assert.equal((await run(["pull", name, folder, "--yard", yard])).status, 0);
  return { folder, err: ran.err };
}

test("quantized outputs state what every tensor lost, and a run warns where that hides the merge", async () => {
  const yard = path.join(scratch, "yard");
  const gguf = ["q4_0", "q8_0"].map((scheme) => ({ format: "gguf", scheme, tokenizer: false }));
  const outputs = [...gguf, { format: "safetensors" }];
  const merge = { ...RECIPE, parameters: { weight: 0.001 } };
  const { folder, err } = await runAndPull(yard, "quantized", { outputs, merge });
  const { quantized, tensors } = readStatistics(folder);
  assert.deepEqual(tensors, [], "interference is measured only when asked for");
  assert.deepEqual(
    quantized.map(({ output }) => output),
    ["gguf q4_0", "gguf q8_0"],
  );
  for (const { tensors: own } of quantized) {
    assert.equal(own.length, 39);
    for (const { scheme, snr, maxError } of own) assert.equal(snr === null, maxError === 0, scheme);
  }
  const [coarse] = quantized;
  const ofScheme = (id: string) => coarse?.tensors.filter(({ scheme }) => scheme === id) ?? [];
  assert.ok(ofScheme("q4_0").some(({ clipped, errorToDelta }) => clipped > 0 && (errorToDelta ?? 0) > 1));
  assert.match(err, /warning.*gguf q4_0 loses more by quantizing than the merge changed/);
  const page = path.join(scratch, "run.html");
  const runs = readdirSync(path.join(yard, "runs"));
  const pages = [];
  for (const id of runs) {
    assert.equal((await run(["report", id, "--yard", yard, "--out", page])).status, 0);
    pages.push(readFileSync(page, "utf8"));
  }
  const own = pages.filter((text) => text.includes("Signal to noise: gguf q4_0"));
  assert.equal(own.length, 1);
  assert.match(own[0] ?? "", /Tensors that lost most: gguf q8_0/);
  assert.match(own[0] ?? "", /<li>gguf q4_0 loses more/);
});

test("quantize --report draws what every tensor lost", async () => {
  const page = path.join(scratch, "quantize.html");
  const file = path.join(scratch, "model.gguf");
  const model = `${EXAMPLES}/models/base`;
  const made = await run(["quantize", model, "--scheme", "q4_0", "--no-tokenizer", "--out", file, "--report", page]);
  assert.equal(made.status, 0, made.err);
  assert.equal(
    readFileSync(page, "utf8")
      .match(/<tbody><tr>(?:(?!<\/tbody>).)*/)?.[0]
      .split("<tr>").length,
    11,
  );
});
