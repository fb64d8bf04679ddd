// `mergeyard merge --report` and `statistics: true` in a pipeline, on the example models with the real engine.
import assert from "node:assert/strict";
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
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

test("a pipeline with `statistics: true` publishes them, and finds them again in the cache", async () => {
  const yard = path.join(scratch, "yard");
  assert.equal((await run(["init", yard])).status, 0);
  for (const name of ["base", "shakespeare", "python"]) {
    cpSync(`${EXAMPLES}/models/${name}`, path.join(yard, "incoming", name, "1"), { recursive: true });
  }
  const pull = async (name: string): Promise<string> => {
    const pipeline = path.join(scratch, `${name}.yaml`);
    const models = { base: "incoming/base", shakespeare: "incoming/shakespeare", python: "incoming/python" };
    const publish = { model: name, channel: "latest" };
    writeFileSync(pipeline, JSON.stringify({ name, models, merge: RECIPE, statistics: true, publish }));
    const ran = await run(["run", pipeline, "--yard", yard]);
    assert.equal(ran.status, 0, ran.err);
    assert.equal((await run(["pull", name, path.join(scratch, name), "--yard", yard])).status, 0);
    return path.join(scratch, name);
  };
  const first = readStatistics(await pull("first"));
  assert.equal(first.tensors.length, 39);
  assert.deepEqual(readStatistics(await pull("second")), first);
});
