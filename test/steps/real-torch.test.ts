// What a real torch says of the files that are written: it loads them with weights_only=True, bit for bit, and newer
// ones load distributed checkpoints. Skipped by name where the machine has no such torch.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { Topology } from "../../core/formats/target.ts";
import { convertStep } from "../../steps/convert/convert.ts";
import { openCheckpoint, openCheckpointFile } from "../../steps/open-checkpoint.ts";
import { runStep } from "../../steps/step.ts";
import { createDirectoryStore } from "../../stores/directory.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { openerOf, testDeps } from "./deps.ts";
import { convertInto, goldenStore } from "./folders.ts";

/** Interpreters that may have a torch: the one that is named, and Debian's own, which sees Debian's packages. */
const PYTHONS = [process.env.MERGEYARD_TEST_PYTHON, "/usr/bin/python3"].flatMap((path) => {
  if (path === undefined || !existsSync(path)) return [];
  const { status, stdout } = spawnSync(path, ["-c", "import torch; print(torch.__version__)"], { encoding: "utf8" });
  const [major = 0, minor = 0] = stdout.split(".").map(Number);
  return status === 0 ? [{ path, version: 1000 * major + minor }] : [];
});
const PYTHON = PYTHONS[0]?.path ?? "";
const skip = PYTHON === "" ? "no torch for Python here; get it with: apt-get install python3-torch" : false;
/** torch 2.2 moved the classes that distributed checkpoints name. */
const NEWER = PYTHONS.find(({ version }) => version >= 2002)?.path ?? "";
const GET_NEWER = "python3 -m venv V && V/bin/pip install torch numpy, then MERGEYARD_TEST_PYTHON=V/bin/python";
const skipNewer = NEWER === "" ? `no torch of 2.2 or newer for Python here; get it with: ${GET_NEWER}` : false;
const DTYPES: Readonly<Record<string, string>> = { "torch.float32": "F32", "torch.bfloat16": "BF16" };

type Shown = readonly [name: string, dtype: string, shape: readonly number[], hex: string];

function loadWithTorch(files: readonly string[]): readonly Shown[] {
  return runPython(PYTHON, "real-torch.py", files);
}

function runPython(python: string, name: string, files: readonly string[]): readonly Shown[] {
  const script = join(import.meta.dirname, name);
  const { status, stdout, stderr } = spawnSync(python, [script, ...files], { encoding: "utf8", maxBuffer: 2 ** 26 });
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

/** The files of a conversion of a golden case, in a folder that is removed in the end. */
async function withConverted(
  golden: string,
  options: { readonly to: "dcp" | "deepspeed" | "deepspeed-universal"; readonly topology?: Topology },
  check: (folder: string, source: ObjectStore) => Promise<void>,
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "mergeyard-torch-"));
  try {
    const source = await goldenStore(golden);
    const store = createDirectoryStore(folder, { durable: false });
    const deps = testDeps((uri) => (uri === store.uri ? store : openerOf(source)(uri)));
    await runStep(convertStep, { source: source.uri, target: store.uri, ...options }, deps);
    await check(folder, source);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function torchFilesBelow(folder: string): readonly string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".pt"))
    .map((name) => join(folder, name));
}

// The floats of hyper-parameters are an opcode that the loader of 1.13 lacks.
test("a real torch loads DeepSpeed's files with weights_only=True", { skip: skipNewer, timeout: 300_000 }, async () => {
  const golden = "deepspeed/z2_tp1_pp1_dp3_fp32_padding";
  await withConverted(golden, { to: "deepspeed", topology: { tp: 1, pp: 1, dp: 2, zero: 3 } }, async (folder) => {
    const files = torchFilesBelow(folder);
    assert.equal(files.length, 4);
    const shown = runPython(NEWER, "real-torch.py", files);
    assert.ok(shown.length > 6);
    // Stage 3 takes its scaler from the file.
    const scalers = shown.filter(([, dtype]) => dtype === "LossScaler");
    assert.deepEqual(
      scalers.map(([, , , state]) => state),
      ["1 False", "1 False"],
    );
  });
  await withConverted(golden, { to: "deepspeed-universal" }, async (folder, source) => {
    const { conversion = [] } = await openCheckpoint(source, "");
    const trained = conversion.filter(({ training }) => training !== undefined);
    const shown = runPython(
      NEWER,
      "real-torch.py",
      torchFilesBelow(folder).filter((name) => !name.endsWith("_model_states.pt")),
    );
    for (const state of ["fp32", "exp_avg", "exp_avg_sq"]) {
      assert.equal(shown.filter(([name]) => name === `${state}.pt/param`).length, trained.length);
    }
  });
});

test("torch.distributed.checkpoint loads what is written", { skip: skipNewer, timeout: 300_000 }, async () => {
  await withConverted("deepspeed/z1_tp2_pp2_dp2_bf16_tied", { to: "dcp" }, async (folder, source) => {
    const { target: universal } = await convertInto(source, "universal");
    const shown = new Map(runPython(NEWER, "real-dcp.py", [folder]).map(([name, ...rest]) => [name, rest]));
    let compared = 0;
    for (const [file, nameOf] of [
      ["model.safetensors", (name: string) => `model.${name}`],
      ["exp_avg.safetensors", (name: string) => `optim.state.${name}.exp_avg`],
      ["exp_avg_sq.safetensors", (name: string) => `optim.state.${name}.exp_avg_sq`],
    ] as const) {
      const { checkpoint } = await openCheckpointFile(universal, file);
      for (const { name, dtype, shape, ranges } of checkpoint.tensors) {
        const bytes = new Uint8Array(ranges[0]?.bytes ?? 0);
        await universal.readInto(file, ranges[0]?.offset ?? 0, bytes);
        const [itsDtype = "", itsShape, hex] = shown.get(nameOf(name)) ?? [];
        assert.deepEqual([DTYPES[itsDtype], itsShape, hex], [dtype, shape, Buffer.from(bytes).toString("hex")], name);
        compared += 1;
      }
    }
    assert.equal(compared, 50);
    assert.equal(shown.size, 66);
  });
});
