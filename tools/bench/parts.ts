// What quantizing into folders costs: GB of BF16 input for each CPU-second of a scheme's windows, the error measured,
// of reading them back, and of `mergeyard quantize` from folder to folder.
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { allocatedBytes } from "../../core/ops/memory.ts";
import { partsQuantizerBytes } from "../../core/plan/memory.ts";
import { PART_SCHEMES } from "../../core/schemes/registry.ts";
import type { Matrix, PartScheme } from "../../core/schemes/scheme.ts";
import { createPartsQuantizer } from "../../engine/parts-quantizer.ts";
import { windowRows } from "../../engine/quantize-parts.ts";
import { createWasmKernels } from "../../kernels/wasm/host.ts";
import { type Cost, least, measure, measureRate, most, rate } from "./measure.ts";
import { fillNormal } from "./models.ts";

/** Shown unless others are named. */
export const PART_SCHEME_IDS: readonly string[] = [
  ...["int8_dynamic", "int8_channel", "int8_channel_asym", "int4_group128", "int4_group128_asym", "int4_group32"],
  ...["fp8_channel", "fp8_block", "nvfp4a16", "mxfp4a16", "nf4_block64", "awq4_group128", "gptq4_group128"],
  "hqq4_group64",
];
/** Also folder to folder, and what their windows must reach. */
const FOLDERS: ReadonlySet<string> = new Set(["int8_dynamic", "int8_channel", "int4_group128", "fp8_channel"]);
const BOUND = 1;

const COLUMNS = 4096;
const ROWS = 256;

/** Prints a table; the best of each figure counts, as machines are shared. */
export async function benchParts(
  ids: readonly string[],
  { dir, rounds, rowsOnly }: { readonly dir: string; readonly rounds: number; readonly rowsOnly: boolean },
  llama: { readonly folder: string; readonly bytes: number },
  root: string,
): Promise<void> {
  console.log("scheme              kernel  +error   read  bound          file  peak MiB");
  for (const id of ids) {
    const scheme = PART_SCHEMES.get(id);
    if (scheme === undefined) continue;
    const run = createWindowBench(scheme);
    const [windows, read, files]: [number[], number[], Cost[]] = [[], [], []];
    for (let round = 0; round < rounds; round++) {
      windows.push(run.windows());
      read.push(run.read());
      if (FOLDERS.has(id) && !rowsOnly) files.push(await benchFolder(id, llama.folder, dir, root));
    }
    const file = files.length === 0 ? undefined : least(files);
    const verdict = FOLDERS.has(id) ? `${BOUND} ${most(windows) >= BOUND ? "met" : "missed"}` : "";
    console.log(
      [
        id.padEnd(19),
        run.quantizer.padEnd(6),
        rate(most(windows)).padStart(7),
        rate(most(read)).padStart(6),
        ` ${verdict.padEnd(10)}`,
        (file === undefined ? "-" : rate(llama.bytes / file.cpuS / 1e9)).padStart(6),
        (file === undefined ? "-" : (file.peakBytes / 2 ** 20).toFixed(0)).padStart(9),
      ].join(" "),
    );
  }
}

/** Windows of rows of stored BF16, as the command cuts them, widening included. */
function createWindowBench(scheme: PartScheme) {
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
  let made: ReadonlyMap<string, Uint8Array> | undefined;
  return {
    quantizer: kernels.partsQuantizerOf(scheme, matrix),
    windows: () =>
      measureRate(2 * elements, () => {
        kernels.widen("BF16", stored, 0, tile, elements);
        made = quantizer.quantize(tile, 0, rows);
      }),
    /** Of the window that was quantized last. */
    read: () =>
      measureRate(2 * elements, () => {
        assert.ok(made !== undefined, "windows are quantized before");
        kernels.dequantizeParts(scheme, { matrix, first: 0, count: rows, values: tile.values, parts: made });
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
