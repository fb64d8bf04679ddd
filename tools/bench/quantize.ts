// What quantizing costs: GB of BF16 input for each CPU-second of a scheme's row function, beside llama.cpp's own, and
// of `mergeyard quantize` from file to file. Values are normal, as weights are: a search takes its usual time.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import {
  BLOCK_SCHEME_IDS,
  type BlockSchemeId,
  COMPRESSED_SCHEMES,
  isBlockSchemeId,
} from "../../core/schemes/registry.ts";
import { createWasmKernels } from "../../kernels/wasm/host.ts";
import { type Cost, least, measure, measureRate, most, rate, SITTING_S } from "./measure.ts";
import { fillNormal, makeBenchLlama } from "./models.ts";
import { benchParts, PART_SCHEME_IDS } from "./parts.ts";

/** llama.cpp's row functions, one thread of an idle 2-vCPU EPYC machine; compiled as its builds compile them (-O3). */
const LLAMA_CPP: Partial<Record<BlockSchemeId, number>> = { q8_0: 0.53, q4_0: 1.67, q4_k: 0.03, q6_k: 0.071 };

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
};

/** Prints a table for each kind of scheme; the best of each figure counts, as machines are shared. */
export async function benchQuantize(options: QuantizeBench, root: string): Promise<void> {
  const { dir, schemes } = options;
  const blocks = schemes.length === 0 ? BLOCK_SCHEME_IDS : schemes.filter(isBlockSchemeId);
  const parts = schemes.length === 0 ? PART_SCHEME_IDS : schemes.filter((id) => COMPRESSED_SCHEMES.has(id));
  const llama = makeBenchLlama(join(dir, "llama"));
  console.log("GB of BF16 input per CPU-second");
  if (blocks.length > 0) await benchBlocks(blocks, options, llama, root);
  if (parts.length > 0) await benchParts(parts, options, llama, root);
}

async function benchBlocks(
  ids: readonly BlockSchemeId[],
  { dir, rounds, ggml }: QuantizeBench,
  llama: ReturnType<typeof makeBenchLlama>,
  root: string,
): Promise<void> {
  const run = createRowBench();
  const peer = ggml === undefined ? undefined : compilePeer(resolve(ggml), root);
  console.log("scheme    kernel  rows   +imatrix  +loss  llama.cpp  ratio   file   peak MiB");
  try {
    for (const id of ids) {
      const [own, weighted, lossy, theirs]: number[][] = [[], [], [], []];
      for (let round = 0; round < rounds; round++) {
        own?.push(run.rows(id));
        weighted?.push(run.weighted(id));
        lossy?.push(run.withLoss(id));
        const found = peer?.measure(id);
        if (found !== undefined) theirs?.push(found);
      }
      const [rows, stated] = [most(own), LLAMA_CPP[id]];
      const measured = theirs === undefined || theirs.length === 0 ? undefined : most(theirs);
      const reference = measured ?? stated;
      const mark = measured === undefined && stated !== undefined ? "*" : " ";
      const file = await benchFile(id, llama, dir, root, rounds);
      console.log(
        [
          id.padEnd(9),
          run.quantizerOf(id).padEnd(6),
          rate(rows).padStart(6),
          rate(most(weighted)).padStart(8),
          rate(most(lossy)).padStart(8),
          (reference === undefined ? "-" : `${rate(reference)}${mark}`).padStart(9),
          (reference === undefined ? "-" : `${(rows / reference).toFixed(1)}x`).padStart(7),
          (file === undefined ? "-" : rate(llama.bytes / file.cpuS / 1e9)).padStart(7),
          (file === undefined ? "-" : (file.peakBytes / 2 ** 20).toFixed(0)).padStart(8),
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

/** The row functions on rows of stored BF16, widening included. */
function createRowBench() {
  const kernels = createWasmKernels(2 * COLUMNS * ROWS + 20 * COLUMNS + 1024);
  const stored = kernels.allocateBlock(2 * COLUMNS * ROWS);
  const [row, importance, back] = [0, 1, 2].map(() => kernels.allocateTile(COLUMNS));
  const blocks = kernels.allocateBlock(4 * COLUMNS);
  if (row === undefined || importance === undefined || back === undefined) throw new Error("no memory");
  const normal = fillNormal(stored.bytes);
  for (let i = 0; i < COLUMNS; i++) importance.values[i] = normal() ** 2;
  const each = (work: () => void) =>
    measureRate(2 * COLUMNS * ROWS, () => {
      for (let at = 0; at < ROWS; at++) {
        kernels.widen("BF16", stored, 2 * COLUMNS * at, row, COLUMNS);
        work();
      }
    });
  return {
    quantizerOf: (id: BlockSchemeId) => kernels.quantizerOf(id, false),
    rows: (id: BlockSchemeId) => each(() => kernels.quantizeRow(id, row, 0, COLUMNS, blocks, 0)),
    weighted: (id: BlockSchemeId) => each(() => kernels.quantizeRow(id, row, 0, COLUMNS, blocks, 0, importance)),
    withLoss: (id: BlockSchemeId) =>
      each(() => {
        kernels.quantizeRow(id, row, 0, COLUMNS, blocks, 0);
        kernels.dequantizeRow(id, blocks, 0, back, COLUMNS);
        kernels.measureLoss(row, 0, back, COLUMNS);
      }),
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
