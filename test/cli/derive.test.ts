// `mergeyard derive` at the command line: from a folder and from a yard, what it prints, and how it is misused.
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { main } from "../../cli/main.ts";
import { encodeSafetensorsFile } from "../../core/formats/safetensors/safetensors.ts";
import { gaussians } from "../core/schemes/gaussians.ts";
import { createRecorder } from "./recorder.ts";

/** A folder with a model of floats in `m` and its INT8 in `int8`. */
async function makeModels(): Promise<string> {
  const cwd = mkdtempSync(path.join(tmpdir(), "mergeyard-derive-"));
  mkdirSync(path.join(cwd, "m"));
  const specs = [{ name: "model.layers.0.mlp.up_proj.weight", dtype: "F32" as const, shape: [64, 256] }];
  const file = encodeSafetensorsFile(specs, () => gaussians(64 * 256, 1));
  writeFileSync(path.join(cwd, "m", "model.safetensors"), file);
  writeFileSync(path.join(cwd, "m", "config.json"), JSON.stringify({ model_type: "llama" }));
  const terminal = createRecorder({ cwd });
  const status = await main(["quantize", "m", "--scheme", "int8_group128", "--out", "int8"], terminal);
  assert.equal(status, 0, terminal.err());
  return cwd;
}

test("derive makes a folder about as good as quantizing the original, and inspect reads it", async (context) => {
  const cwd = await makeModels();
  context.after(() => rmSync(cwd, { recursive: true }));
  const terminal = createRecorder({ cwd });
  const args = ["derive", "int8", "--bits", "4", "--original", "m", "--out", "int4"];
  assert.equal(await main([...args, "--json"], terminal), 0, terminal.err());
  const { scheme, derived, snr, original } = JSON.parse(terminal.out());
  assert.deepEqual([scheme, derived], ["int4_group128", 1]);
  assert.ok(snr > 19 && original.gap < 0.7);
  assert.deepEqual(readdirSync(path.join(cwd, "int4")).sort(), ["config.json", "model.safetensors"]);
  const inspected = createRecorder({ cwd });
  assert.equal(await main(["inspect", "int4", "--json"], inspected), 0, inspected.err());
  const again = createRecorder({ cwd });
  assert.equal(await main([...args, "--json"], again), 1);
  assert.equal(JSON.parse(again.err()).error.code, "CliOutputOccupied");
  const words = createRecorder({ cwd });
  const text = ["derive", "int8", "--bits", "2", "--original", "m", "--out", "int2"];
  assert.equal(await main(text, words), 0, words.err());
  assert.match(words.out(), /^int2_group128 in int2: 1 module derived; .*against INT8: .* dB.*against the original: /);
});

test("derive finds a model of a yard by its name", async (context) => {
  const cwd = await makeModels();
  context.after(() => rmSync(cwd, { recursive: true }));
  for (const args of [
    ["init", "yard"],
    ["push", "int8", "small", "--yard", "yard"],
  ]) {
    const terminal = createRecorder({ cwd });
    assert.equal(await main(args, terminal), 0, terminal.err());
  }
  for (const [from, out] of [
    [["small", "--yard", "yard"], "a"],
    [["int8"], "b"],
  ] as const) {
    const terminal = createRecorder({ cwd });
    assert.equal(await main(["derive", ...from, "--bits", "6", "--out", out], terminal), 0, terminal.err());
  }
  const [a, b] = ["a", "b"].map((folder) => readFileSync(path.join(cwd, folder, "model.safetensors")));
  assert.deepEqual(a, b);
  const missing = createRecorder({ cwd });
  assert.equal(await main(["derive", "none", "--yard", "yard", "--bits", "6", "--out", "c", "--json"], missing), 1);
  assert.equal(JSON.parse(missing.err()).error.code, "YardModelMissing");
});

test("a source of floats or a width of other bits makes no folder", async (context) => {
  const cwd = await makeModels();
  context.after(() => rmSync(cwd, { recursive: true }));
  const floats = createRecorder({ cwd });
  assert.equal(await main(["derive", "m", "--bits", "4", "--out", "x", "--json"], floats), 1);
  assert.equal(JSON.parse(floats.err()).error.code, "DeriveSourceUnsupported");
  const five = createRecorder({ cwd });
  assert.equal(await main(["derive", "int8", "--bits", "5", "--out", "x", "--json"], five), 2);
  assert.equal(JSON.parse(five.err()).error.code, "CliUsage");
  assert.deepEqual(readdirSync(cwd).sort(), ["int8", "m"]);
});
