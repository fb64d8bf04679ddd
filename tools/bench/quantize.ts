// What quantizing costs: GB of BF16 input for each CPU-second of a scheme's row function, beside llama.cpp's own and
// the bound it must keep, of reading the blocks back, and of `mergeyard quantize` from file to file. Values are normal,
// as weights are: a search takes its usual time. One thread, but for whole commands.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { allocatedBytes } from "../../core/ops/memory.ts";
import { rowQuantizerBytes } from "../../core/plan/memory.ts";
import { BLOCK_SCHEME_IDS, type BlockSchemeId, isBlockSchemeId, PART_SCHEMES } from "../../core/schemes/registry.ts";
import { createRowQuantizer } from "../../engine/quantize-rows.ts";
import { createWasmKernels } from "../../kernels/wasm/host.ts";
import { type Cost, least, measure, measureRate, most, rate, SITTING_S } from "./measure.ts";
import { fillNormal, makeBenchLlama } from "./models.ts";
import { benchParts, PART_SCHEME_IDS } from "./parts.ts";

/** llama.cpp's row functions, one thread of an idle 2-vCPU EPYC machine; compiled as its builds compile them (-O3). */
const LLAMA_CPP: Partial<Record<BlockSchemeId, number>> = { q8_0: 0.53, q4_0: 1.67, q4_k: 0.03, q6_k: 0.071 };

/** How many times llama.cpp's speed rows must have. */
const BOUNDS: Partial<Record<BlockSchemeId, number>> = { q8_0: 2, q4_0: 1, q4_k: 3, q6_k: 3 };

/** Also file to file. */
const MIXES: Partial<Record<BlockSchemeId, string>> = {
  q8_0: "q8_0",
  q4_0: "q4_0",
  q4_k: "q4_k_m",
  q6_k: "q6_k",
};

const COLUMNS = 4096;
const ROWS = 32;
export type QuantizeBench = {
  readonly dir: string;
  readonly rounds: number;
  /** Ids of schemes; when empty, all of blocks and those of folders that are shown by default. */
  readonly schemes: readonly string[];
  /** A checkout of ggml, whose row functions are then measured in the same sitting. */
  readonly ggml: string | undefined;
  /** Without whole commands. */
  readonly rowsOnly: boolean;
};

/** Prints a table for each kind of scheme; the best of each figure counts, as machines are shared. */
export async function benchQuantize(options: QuantizeBench, root: string): Promise<void> {
  const { dir, schemes } = options;
  const blocks = schemes.length === 0 ? BLOCK_SCHEME_IDS : schemes.filter(isBlockSchemeId);
  const parts = schemes.length === 0 ? PART_SCHEME_IDS : schemes.filter((id) => PART_SCHEMES.has(id));
  const llama = makeBenchLlama(join(dir, "llama"));
  console.log("GB of BF16 input per CPU-second");
  if (blocks.length > 0) await benchBlocks(blocks, options, llama, root);
  if (parts.length > 0) await benchParts(parts, options, llama, root);
}

async function benchBlocks(
  ids: readonly BlockSchemeId[],
  { dir, rounds, ggml, rowsOnly }: QuantizeBench,
  llama: ReturnType<typeof makeBenchLlama>,
  root: string,
): Promise<void> {
  const peer = ggml === undefined ? undefined : compilePeer(resolve(ggml), root);
  console.log("scheme     rows  +imatrix  +error   read  llama.cpp  ratio  bound         file  peak MiB");
  try {
    for (const id of ids) {
      const run = createRowBench(id);
      const rates: Record<"rows" | "weighted" | "withLoss" | "read" | "theirs", number[]> = {
        rows: [],
        weighted: [],
        withLoss: [],
        read: [],
        theirs: [],
      };
      for (let round = 0; round < rounds; round++) {
        rates.rows.push(run.rows());
        rates.weighted.push(run.weighted());
        rates.withLoss.push(run.withLoss());
        rates.read.push(run.read());
        const found = peer?.measure(id);
        if (found !== undefined) rates.theirs.push(found);
      }
      const file = rowsOnly ? undefined : await benchFile(id, llama, dir, root, rounds);
      console.log(
        [
          id.padEnd(7),
          ...[rates.rows, rates.weighted, rates.withLoss, rates.read].map((found, i) =>
            rate(most(found)).padStart([7, 9, 7, 6][i] ?? 0),
          ),
          compare(id, most(rates.rows), rates.theirs.length === 0 ? undefined : most(rates.theirs)),
          (file === undefined ? "-" : rate(llama.bytes / file.cpuS / 1e9)).padStart(6),
          (file === undefined ? "-" : (file.peakBytes / 2 ** 20).toFixed(0)).padStart(9),
        ].join(" "),
      );
    }
  } finally {
    peer?.remove();
  }
  if (peer === undefined) {
    console.log("* on an idle 2-vCPU EPYC machine; name a checkout of ggml with --ggml to measure it here");
  }
}

/** llama.cpp's rate, the ratio to it, and whether that is what it must be. */
function compare(id: BlockSchemeId, rows: number, measured: number | undefined): string {
  const [reference, bound] = [measured ?? LLAMA_CPP[id], BOUNDS[id]];
  if (reference === undefined) return `${"-".padStart(10)} ${"-".padStart(6)}  ${"".padEnd(9)}`;
  const ratio = rows / reference;
  const verdict = bound === undefined ? "" : `${bound}x ${ratio >= bound ? "met" : "missed"}`;
  const text = `${rate(reference)}${measured === undefined ? "*" : " "}`;
  return `${text.padStart(10)} ${`${ratio.toFixed(1)}x`.padStart(6)}  ${verdict.padEnd(9)}`;
}

/** The row functions on rows of stored BF16, widening included; +error as the engine measures it. */
function createRowBench(scheme: BlockSchemeId) {
  const capacity = 2 * COLUMNS * ROWS + 3 * allocatedBytes(4 * COLUMNS) + rowQuantizerBytes(scheme, COLUMNS, 0);
  const kernels = createWasmKernels(capacity);
  const stored = kernels.allocateBlock(2 * COLUMNS * ROWS);
  const [row, importance] = [kernels.allocateTile(COLUMNS), kernels.allocateTile(COLUMNS)];
  const blocks = kernels.allocateBlock(4 * COLUMNS);
  const normal = fillNormal(stored.bytes);
  for (let i = 0; i < COLUMNS; i++) importance.values[i] = normal() ** 2;
  const quantizer = createRowQuantizer({ tensor: "rows", scheme, columns: COLUMNS, importance: undefined }, kernels);
  const each = (work: () => void) =>
    measureRate(2 * COLUMNS * ROWS, () => {
      for (let at = 0; at < ROWS; at++) {
        kernels.widen("BF16", stored, 2 * COLUMNS * at, row, COLUMNS);
        work();
      }
    });
  return {
    rows: () => each(() => kernels.quantizeRow(scheme, row, 0, COLUMNS, blocks, 0)),
    weighted: () => each(() => kernels.quantizeRow(scheme, row, 0, COLUMNS, blocks, 0, importance)),
    withLoss: () => each(() => quantizer.quantize(row, 0, blocks, 0, 0)),
    /** Of the blocks of the last row. */
    read: () => measureRate(2 * COLUMNS, () => kernels.dequantizeRow(scheme, blocks, 0, row, COLUMNS)),
  };
}

/** ggml's functions on rows of the same kind, compiled from a checkout. */
function compilePeer(checkout: string, root: string) {
  const folder = mkdtempSync(join(tmpdir(), "mergeyard-bench-"));
  const program = join(folder, "rows");
  const sources = [join(root, "tools/bench/ggml-rows.c"), join(checkout, "src/ggml-quants.c")];
  const folders = ["include", "src", "src/ggml-cpu"].map((name) => `-I${join(checkout, name)}`);
  execFileSync("cc", ["-O3", "-w", ...folders, ...sources, "-lm", "-o", program], { stdio: "inherit" });
  return {
    measure(id: string): number | undefined {
      const text = execFileSync(program, [id, String(SITTING_S)], { encoding: "utf8" }).trim();
      return text === "" ? undefined : Number(text);
    },
    remove: () => rmSync(folder, { recursive: true }),
  };
}

/** The whole command on a model of the llama family; undefined for schemes that are not among those shown. */
async function benchFile(
  id: BlockSchemeId,
  { folder }: { readonly folder: string },
  dir: string,
  root: string,
  rounds: number,
): Promise<Cost | undefined> {
  const mix = MIXES[id];
  if (mix === undefined) return undefined;
  const target = join(dir, "quantized.gguf");
  const costs: Cost[] = [];
  for (let round = 0; round < rounds; round++) {
    try {
      const command = `node cli/mergeyard.mjs quantize ${folder} --scheme ${mix} --out ${target} --json --threads 2`;
      costs.push(await measure(`${command} > /dev/null`, root));
    } finally {
      rmSync(target, { force: true });
    }
  }
  return least(costs);
}
