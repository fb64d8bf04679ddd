// What a real torch says of the files that are written: it loads them with weights_only=True, bit for bit. Skipped by
// name where the machine has no torch.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { convertStep } from "../../steps/convert.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { runStep } from "../../steps/step.ts";
import { createDirectoryStore } from "../../stores/directory.ts";
import { openerOf, testDeps } from "./deps.ts";
import { convertInto, goldenStore } from "./folders.ts";

/** Debian's own interpreter: the only one that sees Debian's packages. */
const PYTHON = "/usr/bin/python3";
const hasTorch = existsSync(PYTHON) && spawnSync(PYTHON, ["-c", "import torch"]).status === 0;
const skip = hasTorch ? false : "no torch for Python here; get it with: apt-get install python3-torch";
const DTYPES: Readonly<Record<string, string>> = { "torch.float32": "F32", "torch.bfloat16": "BF16" };

type Shown = readonly [name: string, dtype: string, shape: readonly number[], hex: string];

function loadWithTorch(files: readonly string[]): readonly Shown[] {
  const script = join(import.meta.dirname, "real-torch.py");
  const { status, stdout, stderr } = spawnSync(PYTHON, [script, ...files], { encoding: "utf8", maxBuffer: 2 ** 26 });
  assert.equal(status, 0, stderr);
  return stdout
    .trim()
    .split("\n")
    .map((line): Shown => JSON.parse(line));
}

test("a real torch loads what is written, with weights_only=True", { skip, timeout: 120_000 }, async () => {
  const folder = mkdtempSync(join(tmpdir(), "mergeyard-torch-"));
  try {
    const source = await goldenStore("deepspeed/z1_tp2_pp2_dp2_bf16_tied");
    const { target: plain } = await convertInto(source, "safetensors");
    const { checkpoint } = await openCheckpoint(plain, "");
    const store = createDirectoryStore(folder, { durable: false });
    const deps = testDeps((uri) => (uri === store.uri ? store : openerOf(source)(uri)));
    await runStep(convertStep, { source: source.uri, target: store.uri, to: "torch" }, deps);
    const shown = loadWithTorch([join(folder, "pytorch_model.bin")]);
    assert.equal(shown.length, checkpoint.tensors.length);
    for (const { name, dtype, shape, ranges } of checkpoint.tensors) {
      const [, itsDtype = "", itsShape, hex] = shown.find(([own]) => own === `pytorch_model.bin/${name}`) ?? [];
      assert.deepEqual([DTYPES[itsDtype], itsShape], [dtype, shape], name);
      const bytes = new Uint8Array(ranges[0]?.bytes ?? 0);
      await plain.readInto(ranges[0]?.file ?? "", ranges[0]?.offset ?? 0, bytes);
      assert.equal(hex, Buffer.from(bytes).toString("hex"), name);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
