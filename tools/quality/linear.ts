// Linear layers for the forward passes that measure quality: WebAssembly SIMD, compiled when the tool starts. Sums run
// four at a time, so logits differ from torch's in the last digits; the engine's kernels promise more and are not used.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const PAGE_BYTES = 65536;
/** Below this lie the module's own data. */
const FIRST_ADDRESS = 1024;
/** Elements of one SIMD register: rows of weights are padded to whole ones. */
const LANES = 4;

/** Compiles the layer; the result may be sent to a thread. */
export function compileLinear(): WebAssembly.Module {
  const folder = mkdtempSync(join(tmpdir(), "mergeyard-linear-"));
  try {
    const target = join(folder, "linear.wasm");
    const compiler = join(ROOT, "node_modules/assemblyscript/bin/asc.js");
    const source = join(ROOT, "tools/quality/assembly/linear.ts");
    const options = ["-O3", "--runtime", "stub", "--noAssert", "--importMemory", "--enable", "simd"];
    const run = spawnSync(process.execPath, [compiler, source, "--outFile", target, ...options], { encoding: "utf8" });
    if (run.status !== 0) throw new Error(`the AssemblyScript compiler failed:\n${run.stderr}`);
    return new WebAssembly.Module(readFileSync(target));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Row-major float32 numbers in the memory of one `Layers`. */
export type Buffer32 = { readonly values: Float32Array; readonly address: number };

/** A weight matrix [outs, ins] as a layer reads it, and its bias. */
export type LinearWeights = {
  readonly weight: Buffer32;
  readonly outs: number;
  readonly ins: number;
  readonly bias: Float32Array | undefined;
};

/** Memory for one model's weights and activations, and the layer over it. */
export type Layers = {
  allocate(elements: number): Buffer32;
  /** Rows padded with zeros to whole registers; the layer's inputs must be as wide as `ins` then says. */
  load(weight: Float32Array, outs: number, ins: number, bias?: Float32Array): LinearWeights;
  /** y = x W^T + b for the first `rows` rows of x [rows, ins]; y is [rows, outs]. */
  linear(y: Buffer32, x: Buffer32, weights: LinearWeights, rows: number): void;
};

/** Layers over at most `capacityBytes` of memory. */
export function createLayers(module: WebAssembly.Module, capacityBytes: number): Layers {
  const memory = new WebAssembly.Memory({ initial: Math.ceil((FIRST_ADDRESS + capacityBytes) / PAGE_BYTES) });
  const exports: { readonly linear?: unknown } = new WebAssembly.Instance(module, { env: { memory } }).exports;
  const layer = exports.linear;
  assert.ok(typeof layer === "function", "the module exports linear");
  let next = FIRST_ADDRESS;
  const allocate = (elements: number): Buffer32 => {
    const address = next;
    next += Math.ceil(elements / LANES) * LANES * 4;
    return { values: new Float32Array(memory.buffer, address, elements), address };
  };
  return {
    allocate,
    load(weight, outs, ins, bias) {
      const padded = Math.ceil(ins / LANES) * LANES;
      const buffer = allocate(outs * padded);
      for (let row = 0; row < outs; row++) {
        buffer.values.set(weight.subarray(row * ins, (row + 1) * ins), row * padded);
      }
      return { weight: buffer, outs, ins: padded, bias };
    },
    linear(y, x, { weight, outs, ins, bias }, rows) {
      layer(y.address, x.address, weight.address, rows, outs, ins);
      if (bias === undefined) return;
      for (let row = 0, at = 0; row < rows; row++) {
        for (let out = 0; out < outs; out++, at++) y.values[at] = (y.values[at] ?? 0) + (bias[out] ?? 0);
      }
    },
  };
}
