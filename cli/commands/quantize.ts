// `mergeyard quantize SRC --scheme ID --out FILE`: a checkpoint as one quantized file.
import path from "node:path";
import type { Command } from "commander";
import { Option } from "commander";
import { MIXES } from "../../core/schemes/mixes.ts";
import { jsonOption, memoryOption, threadsOption, toUri } from "../arguments.ts";
import { createProgress } from "../progress.ts";
import { createStepDeps } from "../step-deps.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, formatBytes } from "../text.ts";

type Options = {
  readonly scheme: string;
  readonly format: string;
  readonly out: string;
  readonly imatrix?: string;
  readonly tokenizer: boolean;
  readonly threads?: number;
  readonly memory?: number;
  readonly json?: boolean;
};

export function addQuantize(program: Command, terminal: Terminal): void {
  program
    .command("quantize")
    .description("write a checkpoint of the llama family as one quantized file")
    .argument("<src>", "a folder, a file, or an s3:// URI")
    .addOption(new Option("--scheme <id>", "how to quantize").choices([...MIXES.keys()]).makeOptionMandatory())
    .addOption(new Option("--format <format>", "the kind of file").choices(["gguf"]).default("gguf"))
    .requiredOption("--out <file>", "the file to write; it must not be there")
    .option("--imatrix <file>", "importance matrix of llama-imatrix, to lose less where it matters")
    .option("--no-tokenizer", "leave the tokenizer out")
    .addOption(threadsOption())
    .addOption(memoryOption())
    .addOption(jsonOption())
    .action((source: string, options: Options) => quantize(source, options, terminal));
}

async function quantize(source: string, options: Options, terminal: Terminal): Promise<void> {
  const [{ createStoreOpener }, { runStep }, { quantizeStep }, { locateSource, openSource }] = await Promise.all([
    import("../../stores/open.ts"),
    import("../../steps/step.ts"),
    import("../../steps/quantize.ts"),
    import("../source.ts"),
  ]);
  const [{ createQuantizeExecutor }, { defaultThreads }, { MEMORY_BYTES_DEFAULT }] = await Promise.all([
    import("../../workers/quantize-executor.ts"),
    import("../../workers/pool.ts"),
    import("../../core/plan/plan-merge.ts"),
  ]);
  const openStore = createStoreOpener(terminal.env);
  const { checkpoint } = await openSource(source, openStore, terminal);
  const { folder, file } = locateSource(source, terminal.cwd);
  const target = toUri(path.posix.dirname(toUri(options.out, terminal.cwd)), terminal.cwd);
  const name = path.basename(options.out);
  const progress = createProgress(terminal, { silent: options.json === true });
  progress.begin(
    "quantize",
    checkpoint.tensorFiles.reduce((sum, { bytes }) => sum + bytes, 0),
  );
  const executor = createQuantizeExecutor(openStore);
  const deps = {
    ...createStepDeps(terminal, openStore),
    executeQuantize: executor.execute,
    threads: options.threads ?? defaultThreads(),
    memoryBytes: options.memory ?? MEMORY_BYTES_DEFAULT,
    progress: ({ bytesRead }: { bytesRead: number }) => progress.update(bytesRead),
  };
  try {
    const { scheme, tokenizer } = options;
    const matrix = options.imatrix === undefined ? undefined : toUri(options.imatrix, terminal.cwd);
    const imatrix =
      matrix === undefined
        ? {}
        : { imatrix: { store: path.posix.dirname(matrix), key: path.basename(options.imatrix ?? "") } };
    const place = { source: folder, target, name, ...(file === undefined ? {} : { sourceFile: file }) };
    const result = await runStep(quantizeStep, { ...place, ...imatrix, scheme, tokenizer }, deps);
    progress.end();
    printResult(terminal, options.json, result, () => {
      const bits = (8 * result.bytes) / result.elements;
      const lost = result.snr === null ? "nothing lost" : `${result.snr.toFixed(1)} dB signal to noise`;
      const { worst } = result;
      const least = worst === null ? "" : `, least ${worst.snr.toFixed(1)} dB in ${worst.tensor} (${worst.scheme})`;
      const tokens = result.hasTokenizer ? "" : "; no tokenizer";
      const counts = `${countOf(result.tensors, "tensor")}, ${formatBytes(result.bytes)}, ${bits.toFixed(2)} bits each`;
      return `${options.scheme} in ${options.out}: ${counts}; ${lost}${least}${tokens}`;
    });
  } finally {
    progress.end();
    await executor.close();
  }
}
