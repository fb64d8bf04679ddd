// `mergeyard convert SRC --to FORMAT --out DIR`: a checkpoint of any format in another one.
import type { Command } from "commander";
import { InvalidArgumentError, Option } from "commander";
import type { Topology } from "../../core/formats/target.ts";
import { MEMORY_BYTES_DEFAULT } from "../../core/plan/defaults.ts";
import { CONVERSION_TARGETS, convertStep, type WEIGHT_DTYPES } from "../../steps/convert/convert.ts";
import { runStep } from "../../steps/step.ts";
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
import { intoFolder } from "../output.ts";
import { type PatternOptions, readPatterns } from "../patterns-file.ts";
import { createProgress } from "../progress.ts";
import { sourceInput } from "../source.ts";
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
  const help = "float32, float16 or bfloat16: of the weights of safetensors, torch and dcp, of computing in deepspeed";
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

/** Undefined where no option names a rank: then the target is one rank's, or takes no topology. */
function topologyOf({ tp, pp, dp, zero }: Options): Topology | undefined {
  if ([tp, pp, dp, zero].every((value) => value === undefined)) return undefined;
  return { tp: tp ?? 1, pp: pp ?? 1, dp: dp ?? 1, zero: zero ?? 1 };
}

async function convert(source: string, options: Options, terminal: Terminal): Promise<void> {
  const input = {
    ...sourceInput(source, terminal.cwd),
    to: options.to,
    patterns: readPatterns(options, terminal.cwd),
    topology: topologyOf(options),
    dtype: options.dtype,
    vocabularyMultiple: options.vocabMultiple,
  };
  const progress = createProgress(terminal, { silent: options.json === true });
  const result = await intoFolder(options, terminal, async ({ target, deps }) => {
    const pool = createPool(deps.openStore);
    const own = {
      ...deps,
      executeConvert: createConvert(deps.openStore, pool),
      threads: options.threads ?? defaultThreads(),
      memoryBytes: options.memory ?? MEMORY_BYTES_DEFAULT,
      begun: (sourceBytes: number) => progress.begin("convert", sourceBytes),
      progress: ({ bytesRead }: { bytesRead: number }) => progress.update(bytesRead),
    };
    return runStep(convertStep, { ...input, target }, own).finally(() => pool.close());
  }).finally(() => progress.end());
  for (const warning of result.warnings) progress.note(`warning: ${warning}`);
  printResult(terminal, options.json, { ...result, target: toUri(options.out, terminal.cwd) }, () => {
    const digest = result.digest === null ? "" : `, ${result.digest}`;
    const counts = `${countOf(result.files, "file")}, ${countOf(result.tensors, "tensor")}`;
    return `${options.to} in ${options.out}: ${counts}, ${formatBytes(result.bytes)}${digest}`;
  });
}
