// Training checkpoints on the command line: what inspect says of them, and convert into a folder.
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import test from "node:test";
import { main } from "../../cli/main.ts";
import { createRecorder } from "./recorder.ts";

const GOLDEN = path.resolve(import.meta.dirname, "../golden");
const TRAINED = "deepspeed/z1_tp2_pp2_dp2_bf16_tied";

test("inspect explains a training checkpoint: format, step, patterns, padding", async () => {
  const terminal = createRecorder({ cwd: GOLDEN });
  assert.equal(await main(["inspect", TRAINED, "--json"], terminal), 0);
  const shown = JSON.parse(terminal.out());
  assert.equal(shown.format, "deepspeed");
  const find = (name: string) => shown.training.find((parameter: { name: string }) => parameter.name === name);
  assert.deepEqual(find("tied_modules.embed.word_embeddings.weight"), {
    name: "tied_modules.embed.word_embeddings.weight",
    pattern: { kind: "fragment", dim: 0 },
    paddedRows: 64,
    aliases: [],
    step: 3,
    states: ["exp_avg", "exp_avg_sq"],
  });
  assert.deepEqual([shown.dtypes.F32.elements, shown.dtypes.BF16.elements], [4752, 8]);
  assert.equal(shown.bytes, 4 * 4752 + 2 * 8);
  const text = createRecorder({ cwd: GOLDEN });
  assert.equal(await main(["inspect", TRAINED], text), 0);
  assert.match(text.out(), /saved by +tp 2, pp 2, dp 2, ZeRO 1; BF16 weights, 2 optimizer groups/);
  assert.match(text.out(), /training +step 3; fp32, exp_avg, exp_avg_sq/);
  assert.match(text.out(), /from 64 to 50 rows/);
});

test("an adapter is told from a model: inspect explains it, convert refuses it", async () => {
  const cwd = path.resolve(import.meta.dirname, "../../examples/models");
  const terminal = createRecorder({ cwd });
  assert.equal(await main(["inspect", "lora-python"], terminal), 0);
  assert.match(
    terminal.out(),
    /adapter +LORA of rank 8, alpha 16, on base; no model by itself: merge it as base\+adapter/,
  );
  const refused = createRecorder({ cwd });
  const out = path.join(tmpdir(), `mergeyard-adapter-${process.pid}`);
  assert.equal(await main(["convert", "lora-python", "--to", "torch", "--out", out, "--json"], refused), 1);
  assert.equal(JSON.parse(refused.err()).error.code, "ConvertAdapterRefused");
  assert.equal(existsSync(out), false);
});

test("convert makes a universal checkpoint of it, and nothing of one that is damaged", async () => {
  const folder = mkdtempSync(path.join(tmpdir(), "mergeyard-training-"));
  try {
    const terminal = createRecorder({ cwd: GOLDEN });
    const out = path.join(folder, "out");
    assert.equal(await main(["convert", TRAINED, "--to", "universal", "--out", out, "--json"], terminal), 0);
    assert.equal(JSON.parse(terminal.out()).tensors, 18);
    assert.deepEqual(readdirSync(out).sort(), [
      "exp_avg.safetensors",
      "exp_avg_sq.safetensors",
      "model.safetensors",
      "universal.json",
    ]);
    const refused = createRecorder({ cwd: GOLDEN });
    const bad = path.join(folder, "bad");
    const source = "deepspeed/bad_replicated_differs";
    assert.equal(await main(["convert", source, "--to", "universal", "--out", bad, "--json"], refused), 1);
    assert.equal(JSON.parse(refused.err()).error.code, "UniversalReplicasDisagree");
    assert.deepEqual(readdirSync(folder), ["out"]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("convert refuses ranks of a format that has none", async () => {
  const source = "deepspeed/z1_tp2_pp2_dp2_bf16_tied";
  for (const to of ["universal", "safetensors", "torch", "dcp", "gguf"]) {
    for (const option of ["--tp", "--pp", "--dp", "--zero", "--vocab-multiple"]) {
      const terminal = createRecorder({ cwd: GOLDEN });
      assert.equal(await main(["convert", source, "--to", to, "--out", "/nowhere/x", option, "2"], terminal), 2, to);
      assert.match(terminal.err(), new RegExp(`CliUsage[^]*${option}`), `${to} ${option}`);
    }
  }
});
