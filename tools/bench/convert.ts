// What converting a training checkpoint costs: ZeRO-2 over four data-parallel ranks, 1.1 GB, to a universal checkpoint
// by the command line. CPU-seconds of one thread beside those of DeepSpeed's own converter with one worker; wall time
// of as many threads as we use unasked beside plainly moving the same bytes.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { encodeUniversal, UNIVERSAL_FILE } from "../../core/artifact/universal.ts";
import { SHARD_BYTES_DEFAULT } from "../../core/plan/defaults.ts";
import { elementCount, type Shape } from "../../core/tensor.ts";
import { gatherWhole } from "../../core/universal/box.ts";
import type { ConversionParameter } from "../../core/universal/conversion.ts";
import { describeConverted, planConversion } from "../../core/universal/convert-plan.ts";
import { convertFile } from "../../steps/convert/file.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { createConvert } from "../../workers/convert-executor.ts";
import { createPool, defaultThreads } from "../../workers/pool.ts";
import { llamaLayers } from "./llama-layers.ts";
import { type Cost, least, measure } from "./measure.ts";
import { createNormal } from "./models.ts";

/** ds_to_universal.py (DeepSpeed 0.14.4), a checkpoint of the same shapes, an idle 2-vCPU EPYC machine: 8.1 to 8.7. */
const DEEPSPEED_CPU_S = 8.1;
const MODEL = { hidden: 1024, inner: 3072, keys: 256, vocabulary: 8000, layers: 6 } as const;
const STEP = 10;
/** Values made anew; tensors repeat them from starts of their own. */
const PATTERN_FILE = "pattern.bin";
const PATTERN_ELEMENTS = 2 ** 22;

export type ConvertBench = {
  readonly dir: string;
  readonly rounds: number;
  /** A checkout of DeepSpeed, whose converter is then measured in the same sitting, and the script that loads it. */
  readonly deepspeed: string | undefined;
  readonly deepspeedLoader: string | undefined;
  /** The interpreter it runs under; it needs torch. */
  readonly python: string;
};

/** Prints one table; the least of each figure counts, as machines are shared. */
export async function benchConvert(options: ConvertBench, root: string) {
  const { dir, rounds, deepspeed, deepspeedLoader, python } = options;
  const source = join(dir, "zero2");
  if (!existsSync(source)) await makeCheckpoint(source, dir, root);
  const step = join(source, `global_step${STEP}`);
  const files = readdirSync(step).map((name) => join(step, name));
  const gigabytes = files.reduce((sum, file) => sum + statSync(file).size, 0) / 1e9;
  console.log(`a ZeRO-2 checkpoint of 4 ranks in ${source} (${gigabytes.toFixed(2)} GB, made once)`);
  const [singles, ours, copies, theirs]: [Cost[], Cost[], Cost[], Cost[]] = [[], [], [], []];
  const inFolder = async (work: (target: string) => string): Promise<Cost> => {
    const folder = mkdtempSync(join(dir, "run-"));
    try {
      return await measure(work(join(folder, "out")), root);
    } finally {
      rmSync(folder, { recursive: true });
    }
  };
  const command = `node cli/mergeyard.mjs convert ${source} --to universal`;
  for (let round = 0; round < rounds; round++) {
    singles.push(await inFolder((out) => `${command} --out ${out} --threads 1`));
    ours.push(await inFolder((out) => `${command} --out ${out}`));
    copies.push(await inFolder((out) => `{ cat ${files.join(" ")} > /dev/null; cp -r ${step} ${out}; }`));
    if (deepspeed === undefined || deepspeedLoader === undefined) continue;
    const [loader, checkout] = [resolve(deepspeedLoader), resolve(deepspeed)];
    theirs.push(await inFolder((out) => `${python} ${loader} ${checkout} ${step} ${out} 1 1 > /dev/null`));
  }
  const [single, our, copy] = [least(singles), least(ours), least(copies)];
  const their = theirs.length === 0 ? undefined : least(theirs);
  const peer = their?.cpuS ?? DEEPSPEED_CPU_S;
  console.log("CPU-s: user and system time of a whole run with one thread, beside DeepSpeed's with one worker.");
  console.log(`wall s and peak MiB: with the default of one thread a processor, here ${defaultThreads()}.`);
  console.log("copy s: plainly reading the checkpoint and writing it again, one file after the other.");
  console.log("to         CPU-s  DeepSpeed  ratio   wall s  copy s  ratio   peak MiB");
  const cells = [
    "universal",
    single.cpuS.toFixed(2).padStart(6),
    `${peer.toFixed(1)}${their === undefined ? "*" : " "}`.padStart(10),
    `1/${(peer / single.cpuS).toFixed(1)}`.padStart(7),
    our.wallS.toFixed(2).padStart(7),
    copy.wallS.toFixed(2).padStart(7),
    `${(our.wallS / copy.wallS).toFixed(2)}x`.padStart(7),
    (our.peakBytes / 2 ** 20).toFixed(0).padStart(9),
  ];
  console.log(cells.join(" "));
  if (their === undefined) {
    console.log("* on an idle 2-vCPU EPYC machine; name a checkout with --deepspeed to measure it here");
  }
}

/** Writes a universal checkpoint of normal numbers, and by the command line what four ranks would save of it. */
async function makeCheckpoint(target: string, dir: string, root: string): Promise<void> {
  const folder = mkdtempSync(join(dir, "make-"));
  try {
    const [universal, made] = [join(folder, "universal"), join(folder, "zero2")];
    mkdirSync(universal);
    const normal = createNormal(7);
    writeFileSync(
      join(folder, PATTERN_FILE),
      Float32Array.from({ length: PATTERN_ELEMENTS }, () => 0.02 * normal()),
    );
    await writeUniversal(folder, universal);
    const ranks = ["--to", "deepspeed", "--dp", "4", "--zero", "2"];
    const command = ["cli/mergeyard.mjs", "convert", universal, "--out", made, ...ranks];
    execFileSync(process.execPath, command, { cwd: root, stdio: ["ignore", "ignore", "inherit"] });
    renameSync(made, target);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

async function writeUniversal(from: string, to: string): Promise<void> {
  const openStore = createStoreOpener(process.env);
  const [source, store] = [{ store: pathToFileURL(from).href, prefix: "" }, pathToFileURL(to).href];
  const parameters = parameterShapes().map(([name, shape], index) => describeParameter(name, shape, index));
  const executeConvert = createConvert(openStore, createPool(openStore));
  const deps = { executeConvert, threads: 1, memoryBytes: 2 ** 29, signal: new AbortController().signal };
  const listings = [];
  for (const file of planConversion(parameters, SHARD_BYTES_DEFAULT, { states: true })) {
    listings.push((await convertFile(source, file, { store, key: file.file }, deps)).listing);
  }
  const training = {
    weights: "BF16" as const,
    groups: [0, 1].map((group) => ({ lr: 1e-3, betas: [0.9, 0.95], eps: 1e-8, weight_decay: group === 0 ? 0.01 : 0 })),
    optimizer: {},
    // Without it DeepSpeed's converter refuses a checkpoint.
    client: { universal_checkpoint_info: { universal_checkpoint_version: 0.2 }, ds_config: {}, iteration: STEP },
  };
  const made = { checkpoint: { format: "universal", tensorFiles: [] }, training };
  const document = describeConverted(made, parameters, listings, []);
  writeFileSync(join(to, UNIVERSAL_FILE), encodeUniversal(document));
}

/** The model that DeepSpeed's figure was measured with: 80 M parameters of the llama family. */
function parameterShapes(): readonly (readonly [string, Shape])[] {
  return [["model.embed_tokens.weight", [MODEL.vocabulary, MODEL.hidden]], ...llamaLayers(MODEL)];
}

/** Matrices are trained by one group of the optimizer, vectors by the other. */
function describeParameter(name: string, shape: Shape, index: number): ConversionParameter {
  const tensor = (state: number) => {
    return {
      dtype: "F32" as const,
      gather: gatherWhole(repeatPattern(4 * elementCount(shape), 3 * index + state), shape),
    };
  };
  return {
    name,
    shape,
    ...tensor(0),
    pattern: { kind: "unique" },
    paddedRows: undefined,
    aliases: [],
    training: { step: STEP, states: { exp_avg: tensor(1), exp_avg_sq: tensor(2) }, group: shape.length > 1 ? 0 : 1 },
  };
}

/** Ranges of the pattern's file that are `bytes` bytes together, from a start that is the tensor's own. */
function repeatPattern(bytes: number, seed: number) {
  const total = 4 * PATTERN_ELEMENTS;
  const ranges = [];
  for (let done = 0, offset = (4 * 65537 * seed) % total; done < bytes; offset = 0) {
    const count = Math.min(total - offset, bytes - done);
    ranges.push({ file: PATTERN_FILE, offset, bytes: count });
    done += count;
  }
  return ranges;
}
