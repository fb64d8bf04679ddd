// `mergeyard merge CONFIG --out DIR`: one merge, file to file, without a yard.
import { statSync } from "node:fs";
import { homedir } from "node:os";
import path from "node:path";
import { type Command, Option } from "commander";
import type { Statistics } from "../../core/artifact/statistics.ts";
import { MergeyardError } from "../../core/error.ts";
import { MEMORY_BYTES_DEFAULT } from "../../core/plan/defaults.ts";
import type { OutputRequest } from "../../core/recipe/outputs.ts";
import { renderInterference } from "../../core/report/interference.ts";
import { type MergeFolderRequest, type MergeFolderResult, mergeFolder } from "../../local/merge-folder.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { createMergeExecutor } from "../../workers/merge-executor.ts";
import { defaultThreads } from "../../workers/pool.ts";
import {
  forceOption,
  isUri,
  jsonOption,
  locateFile,
  memoryOption,
  modelOption,
  parseLocalPath,
  parseSize,
  threadsOption,
  toUri,
} from "../arguments.ts";
import { checkOutputFile, writeOutputFile } from "../output-file.ts";
import { createProgress } from "../progress.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { formatBytes, formatCount, formatDuration } from "../text.ts";

const RATE_SHOWN_MS = 2000;

type Options = {
  readonly out: string;
  readonly model: Readonly<Record<string, string>>;
  readonly threads?: number;
  readonly memory?: number;
  readonly shardSize?: number;
  readonly force: boolean;
  readonly digestInputs: boolean;
  readonly report?: string;
  readonly output?: readonly OutputRequest[];
  readonly json?: boolean;
};

export function addMerge(program: Command, terminal: Terminal): void {
  program
    .command("merge")
    .description("merge checkpoints as a mergekit configuration says")
    .argument("<config>", "a mergekit configuration or a pipeline file; relative paths in it start at its folder")
    .requiredOption("--out <dir>", "the folder to make; it must be empty or absent", parseLocalPath)
    .addOption(modelOption())
    .addOption(threadsOption())
    .addOption(memoryOption())
    .addOption(
      new Option("--shard-size <bytes>", "tensors of one output file, such as 2G (default: 5G)").argParser(parseSize),
    )
    .addOption(forceOption())
    .option("--no-digest-inputs", "leave out the digests of the inputs in the card and the manifest: faster")
    .addOption(outputOption())
    .option("--report <file>", "measure how the models agree, and draw it as an HTML page", parseLocalPath)
    .addOption(jsonOption())
    .action((config: string, options: Options) => merge(config, options, terminal));
}

async function merge(config: string, options: Options, terminal: Terminal): Promise<void> {
  await checkOutputFile(options.report, terminal, options.out);
  const openStore = createStoreOpener(terminal.env);
  const executor = createMergeExecutor(openStore);
  const progress = createProgress(terminal, { silent: options.json === true });
  const startedMs = terminal.now();
  try {
    const result = await mergeFolder(
      {
        recipe: locateRecipe(config, terminal),
        models: options.model,
        currentFolder: toUri(terminal.cwd, terminal.cwd),
        hubCache: toUri(hubCacheFolder(terminal.env), terminal.cwd),
        target: path.resolve(terminal.cwd, options.out),
        force: options.force,
        threads: options.threads ?? defaultThreads(),
        memoryBytes: options.memory ?? MEMORY_BYTES_DEFAULT,
        shardBytes: options.shardSize,
        statistics: options.report !== undefined,
        digestInputs: options.digestInputs,
        outputs: options.output,
      },
      {
        openStore,
        executeMerge: executor.execute,
        executeMeasure: executor.measure,
        digestRanges: executor.digest,
        signal: terminal.signal,
        planned: ({ totalBytes, warnings }) => {
          for (const warning of warnings) progress.note(`warning: ${warning}`);
          progress.begin("merge", totalBytes);
        },
        progress: (doneBytes) => progress.update(doneBytes),
        digesting: (totalBytes) => progress.begin("digest inputs", totalBytes),
      },
    );
    progress.end();
    const { statistics, hidden, ...shown } = result;
    for (const warning of hidden) progress.note(`warning: ${warning}`);
    if (options.report !== undefined) await writeReport(options.report, statistics, terminal);
    const elapsedMs = terminal.now() - startedMs;
    printResult(terminal, options.json, { ...shown, elapsedMs }, () => describe(result, options.out, elapsedMs));
  } finally {
    progress.end();
    await executor.close();
  }
}

/** Models are named in the recipe: a folder in its place is a common mistake. */
function locateRecipe(config: string, { cwd }: Terminal): MergeFolderRequest["recipe"] {
  if (!isUri(config) && statSync(path.resolve(cwd, config), { throwIfNoEntry: false })?.isDirectory()) {
    const expected = "a file, a mergekit configuration";
    throw new MergeyardError("CliSourceMissing", { where: { file: config }, found: "a folder", expected });
  }
  return locateFile(config, cwd);
}

/** Draws the report. A merge that only copies has nothing to draw: that is said, not left out. */
async function writeReport(file: string, statistics: Statistics | undefined, terminal: Terminal): Promise<void> {
  const hasAny = statistics !== undefined && (statistics.tensors.length > 0 || statistics.quantized.length > 0);
  if (!hasAny) throw new MergeyardError("CliNothingToReport", { where: { file } });
  await writeOutputFile(file, renderInterference(statistics), terminal);
}

/** Where Hugging Face's tools keep what they download, by the variables that they read. */
function hubCacheFolder({ HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME }: Terminal["env"]): string {
  const home = HF_HOME || path.join(XDG_CACHE_HOME || path.join(homedir(), ".cache"), "huggingface");
  return HF_HUB_CACHE || path.join(home, "hub");
}

/** `FORMAT` or `FORMAT:SCHEME`, once for each output; in place of the recipe's own outputs. */
function outputOption(): Option {
  const add = (text: string, before: readonly OutputRequest[] = []): readonly OutputRequest[] => {
    const [format = "", scheme] = text.split(":");
    return [...before, { format, scheme }];
  };
  return new Option(
    "--output <format[:scheme]>",
    "an artifact to make in the same pass, such as gguf:q4_k_m",
  ).argParser(add);
}

function describe(result: MergeFolderResult, out: string, elapsedMs: number): string {
  // Below that, the time is the program's start, and the rate would say nothing.
  const isTelling = elapsedMs >= RATE_SHOWN_MS;
  const rate = isTelling ? ` (${formatBytes((result.bytesRead / elapsedMs) * 1000)}/s)` : "";
  const lines = [
    `${result.method}: ${formatCount(result.tensors)} tensors, ${formatBytes(result.bytes)} in ${out}`,
    `version ${result.version}, ${formatBytes(result.bytesRead)} read in ${formatDuration(elapsedMs)}${rate}`,
  ];
  for (const { file, bytes } of result.derived) lines.push(`${file}: ${formatBytes(bytes)}`);
  if (result.nonFinite > 0) lines.push(`${formatCount(result.nonFinite)} values of the output are NaN or infinite`);
  return lines.join("\n");
}
