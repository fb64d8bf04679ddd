// `mergeyard convert SRC --to FORMAT --out DIR`: a checkpoint of any format in another one.
import type { Command } from "commander";
import { InvalidArgumentError, Option } from "commander";
import type { Topology } from "../../core/formats/target.ts";
import { MEMORY_BYTES_DEFAULT } from "../../core/plan/defaults.ts";
import { convertStep } from "../../steps/convert/convert.ts";
import { CONVERSION_TARGETS, type WEIGHT_DTYPES } from "../../steps/schemas.ts";
import { runStep } from "../../steps/step.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { createConvert } from "../../workers/convert-executor.ts";
import { createPool, defaultThreads } from "../../workers/pool.ts";
import {
  familyOption,
  jsonOption,
  memoryOption,
  PATTERNS_HELP,
  parseCount,
  threadsOption,
  toUri,
} from "../arguments.ts";
import { openOutput } from "../output.ts";
import { type PatternOptions, readPatterns } from "../patterns-file.ts";
import { createProgress } from "../progress.ts";
import { locateSource } from "../source.ts";
import { createStepDeps } from "../step-deps.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, formatBytes } from "../text.ts";

type WeightDtype = (typeof WEIGHT_DTYPES)[number];

type Options = PatternOptions & {
  readonly to: (typeof CONVERSION_TARGETS)[number];
  readonly out: string;
  readonly json?: boolean;
  readonly tp?: number;
  readonly pp?: number;
  readonly dp?: number;
  readonly zero?: Topology["zero"];
  readonly vocabMultiple?: number;
  readonly dtype?: WeightDtype;
  readonly threads?: number;
  readonly memory?: number;
};

export function addConvert(program: Command, terminal: Terminal): void {
  program
    .command("convert")
    .description("write a checkpoint of any format in another one")
    .argument("<src>", "a folder, a file, or an s3:// URI")
    .addOption(new Option("--to <format>", "the format to write").choices(CONVERSION_TARGETS).makeOptionMandatory())
    .requiredOption("--out <dir>", "the folder to make; it must be empty or absent")
    .option("--tp <n>", "tensor-parallel ranks of the target (default: 1)", parseCount)
    .option("--pp <n>", "pipeline stages of the target (default: 1)", parseCount)
    .option("--dp <n>", "data-parallel ranks of the target (default: 1)", parseCount)
    .addOption(new Option("--zero <stage>", "stage of ZeRO of the target (default: 1)").argParser(parseZeroStage))
    .option(
      "--vocab-multiple <n>",
      "pad the vocabulary to a multiple of n x tp (default: as the source did)",
      parseCount,
    )
    .addOption(dtypeOption())
    .option("--patterns <file>", PATTERNS_HELP)
    .addOption(familyOption())
    .addOption(threadsOption())
    .addOption(memoryOption())
    .addOption(jsonOption())
    .action((source: string, options: Options) => convert(source, options, terminal));
}

/** Names as recipes and config.json spell them. */
const DTYPE_NAMES = new Map<string, WeightDtype>([
  ["float32", "F32"],
  ["float16", "F16"],
  ["bfloat16", "BF16"],
]);

function dtypeOption(): Option {
  const help = "round the weights to it, for safetensors, torch and dcp: float32, float16 or bfloat16";
  return new Option("--dtype <name>", help).argParser((text: string): WeightDtype => {
    const dtype = DTYPE_NAMES.get(text);
    if (dtype === undefined) throw new InvalidArgumentError("It must be float32, float16 or bfloat16.");
    return dtype;
  });
}

function parseZeroStage(text: string): Topology["zero"] {
  const stage = ([1, 2, 3] as const).find((known) => String(known) === text);
  if (stage === undefined) throw new InvalidArgumentError("It must be 1, 2 or 3.");
  return stage;
}

/** Absent where no option names a rank: then the target is one rank's, or takes no topology. */
function topologyOf({ tp, pp, dp, zero }: Options): { topology?: Topology } {
  if ([tp, pp, dp, zero].every((value) => value === undefined)) return {};
  return { topology: { tp: tp ?? 1, pp: pp ?? 1, dp: dp ?? 1, zero: zero ?? 1 } };
}

async function convert(source: string, options: Options, terminal: Terminal): Promise<void> {
  const openStore = createStoreOpener(terminal.env);
  const patterns = readPatterns(options, terminal.cwd);
  const { folder, file } = locateSource(source, terminal.cwd);
  const output = await openOutput(options.out, terminal);
  const progress = createProgress(terminal, { silent: options.json === true });
  const pool = createPool(openStore);
  const deps = {
    ...createStepDeps(terminal, openStore),
    executeConvert: createConvert(openStore, pool),
    threads: options.threads ?? defaultThreads(),
    memoryBytes: options.memory ?? MEMORY_BYTES_DEFAULT,
    begun: (sourceBytes: number) => progress.begin("convert", sourceBytes),
    progress: ({ bytesRead }: { bytesRead: number }) => progress.update(bytesRead),
  };
  try {
    const { target } = output;
    const input = {
      source: folder,
      target,
      to: options.to,
      ...(file === undefined ? {} : { sourceFile: file }),
      ...(patterns === undefined ? {} : { patterns }),
      ...topologyOf(options),
      ...(options.dtype === undefined ? {} : { dtype: options.dtype }),
      ...(options.vocabMultiple === undefined ? {} : { vocabularyMultiple: options.vocabMultiple }),
    };
    const result = await runStep(convertStep, input, deps);
    await output.commit();
    for (const warning of result.warnings) progress.note(`warning: ${warning}`);
    progress.end();
    printResult(terminal, options.json, { ...result, target: toUri(options.out, terminal.cwd) }, () => {
      const digest = result.digest === null ? "" : `, ${result.digest}`;
      const counts = `${countOf(result.files, "file")}, ${countOf(result.tensors, "tensor")}`;
      return `${options.to} in ${options.out}: ${counts}, ${formatBytes(result.bytes)}${digest}`;
    });
  } catch (error) {
    await output.discard();
    throw error;
  } finally {
    progress.end();
    await pool.close();
  }
}
