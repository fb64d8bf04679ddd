// What quantizing into compressed-tensors folders costs: GB of BF16 input for each CPU-second of a scheme's windows,
// the error measured, and of `mergeyard quantize` from folder to folder.
import { rmSync } from "node:fs";
import { join } from "node:path";
import { allocatedBytes } from "../../core/ops/memory.ts";
import { partsQuantizerBytes } from "../../core/plan/memory.ts";
import { COMPRESSED_SCHEMES, type CompressedScheme } from "../../core/schemes/registry.ts";
import type { Matrix } from "../../core/schemes/scheme.ts";
import { createPartsQuantizer } from "../../engine/parts-quantizer.ts";
import { windowRows } from "../../engine/quantize-parts.ts";
import { createWasmKernels } from "../../kernels/wasm/host.ts";
import { type Cost, least, measure, measureRate, most, rate } from "./measure.ts";
import { fillNormal } from "./models.ts";

/** Shown unless others are named. */
export const PART_SCHEME_IDS: readonly string[] = ["int8_dynamic", "int8_channel", "int4_group128", "fp8_channel"];

const COLUMNS = 4096;
const ROWS = 256;

/** Prints a table; the best of each figure counts, as machines are shared. */
export async function benchParts(
  ids: readonly string[],
  { dir, rounds }: { readonly dir: string; readonly rounds: number },
  llama: { readonly folder: string; readonly bytes: number },
  root: string,
): Promise<void> {
  console.log("scheme          kernel  rows   file   peak MiB");
  for (const id of ids) {
    const scheme = COMPRESSED_SCHEMES.get(id);
    if (scheme === undefined) continue;
    const run = createWindowBench(scheme);
    const windows: number[] = [];
    const files: Cost[] = [];
    for (let round = 0; round < rounds; round++) {
      windows.push(run.windows());
      files.push(await benchFolder(id, llama.folder, dir, root));
    }
    const file = least(files);
    console.log(
      [
        id.padEnd(15),
        run.quantizer.padEnd(6),
        rate(most(windows)).padStart(6),
        rate(llama.bytes / file.cpuS / 1e9).padStart(7),
        (file.peakBytes / 2 ** 20).toFixed(0).padStart(8),
      ].join(" "),
    );
  }
}

/** Windows of rows of stored BF16, as the command cuts them, widening included. */
function createWindowBench(scheme: CompressedScheme) {
  const matrix: Matrix = { rows: ROWS, columns: COLUMNS, dtype: "BF16" };
  const rows = windowRows(scheme, matrix);
  const elements = rows * COLUMNS;
  const capacity = allocatedBytes(2 * elements) + allocatedBytes(4 * elements);
  const kernels = createWasmKernels(capacity + partsQuantizerBytes(scheme, matrix, rows));
  const stored = kernels.allocateBlock(2 * elements);
  const tile = kernels.allocateTile(elements);
  fillNormal(stored.bytes);
  const parts = scheme.parts(matrix);
  const facts = { largest: 1 };
  const quantizer = createPartsQuantizer({ tensor: "rows", scheme, matrix, parts, facts, rows }, kernels);
  return {
    quantizer: kernels.partsQuantizerOf(scheme, matrix),
    windows: () =>
      measureRate(2 * elements, () => {
        kernels.widen("BF16", stored, 0, tile, elements);
        quantizer.quantize(tile, 0, rows);
      }),
  };
}

/** The whole command on a model of the llama family, the folder removed again. */
async function benchFolder(id: string, source: string, dir: string, root: string): Promise<Cost> {
  const target = join(dir, "quantized");
  try {
    const command = `node cli/mergeyard.mjs quantize ${source} --scheme ${id} --out ${target} --json --threads 2`;
    return await measure(`${command} > /dev/null`, root);
  } finally {
    rmSync(target, { recursive: true, force: true });
  }
}
