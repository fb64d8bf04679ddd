// `mergeyard convert SRC --to FORMAT --out PLACE`: a checkpoint of any format in another one, a folder or a GGUF file.
import type { Command } from "commander";
import { InvalidArgumentError, Option } from "commander";
import type { Topology } from "../../core/formats/target.ts";
import { TARGETS } from "../../core/formats/targets.ts";
import { FLOAT_NAMES } from "../../core/ops/cast.ts";
import { MEMORY_BYTES_DEFAULT } from "../../core/plan/defaults.ts";
import { elementCount } from "../../core/tensor.ts";
import { CONVERSION_TARGETS, convertStep, WEIGHT_DTYPES } from "../../steps/convert/convert.ts";
import { runStep } from "../../steps/step.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { createConvert } from "../../workers/convert-executor.ts";
import { createPool, defaultThreads } from "../../workers/pool.ts";
import {
  familyOption,
  forceOption,
  jsonOption,
  memoryOption,
  PATTERNS_HELP,
  parseCount,
  refuseGiven,
  threadsOption,
  toUri,
} from "../arguments.ts";
import { intoFolder } from "../output.ts";
import { type PatternOptions, readPatterns } from "../patterns-file.ts";
import { createProgress, readingProgress } from "../progress.ts";
import { openSource, sourceInput } from "../source.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, formatBytes } from "../text.ts";

const GGUF = "gguf";

type WeightDtype = (typeof WEIGHT_DTYPES)[number];

type Options = PatternOptions & {
  readonly to: (typeof CONVERSION_TARGETS)[number] | typeof GGUF;
  readonly out: string;
  readonly force: boolean;
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

const FORMATS = [...CONVERSION_TARGETS, GGUF] as const;

export function addConvert(program: Command, terminal: Terminal): void {
  program
    .command("convert")
    .description("write a checkpoint of any format in another one")
    .argument("<src>", "a folder, a file, or an s3:// URI")
    .addOption(new Option("--to <format>", "the format to write").choices(FORMATS).makeOptionMandatory())
    .requiredOption("--out <place>", "the folder to make; of gguf the file")
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
    .addOption(forceOption())
    .addOption(jsonOption())
    .action((source: string, { to, ...options }: Options) => {
      refuseRanks({ ...options, to });
      return to === GGUF ? convertToGguf(source, options, terminal) : convert(source, { ...options, to }, terminal);
    });
}

function dtypeOption(): Option {
  const help =
    "float32, float16 or bfloat16: of the weights of safetensors, torch, dcp and gguf, of computing in deepspeed";
  return new Option("--dtype <name>", help).argParser((text: string): WeightDtype => {
    const dtype = WEIGHT_DTYPES.find((known) => FLOAT_NAMES[known] === text);
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

/** Throws CliUsage for what is said of ranks, where the format has none; of GGUF also of those of the source. */
function refuseRanks({ to, tp, pp, dp, zero, vocabMultiple, patterns, family }: Omit<Options, "out">): void {
  if (TARGETS.get(to)?.isSharded === true) return;
  const formats = [...TARGETS.values()].flatMap(({ id, isSharded }) => (isSharded ? [id] : []));
  const ranks = { "--tp": tp, "--pp": pp, "--dp": dp, "--zero": zero, "--vocab-multiple": vocabMultiple };
  refuseGiven(ranks, { found: to, expected: formats.join(" or ") });
  if (to !== GGUF) return;
  const expected = "another format; `convert --to universal` joins ranks first";
  refuseGiven({ "--patterns": patterns, "--family": family }, { found: to, expected });
}

/** The same file as `quantize` makes with a scheme that rounds to a float: unless asked for, as most weights are. */
async function convertToGguf(source: string, options: Omit<Options, "to">, terminal: Terminal): Promise<void> {
  const scheme = options.dtype ?? (await storedDtype(source, terminal));
  const { quantizeFile } = await import("./quantize-file.ts");
  await quantizeFile(source, { ...options, tokenizer: true }, async () => ({ scheme: scheme.toLowerCase() }), terminal);
}

/** What most elements are stored as; F32 where that is none of the three. */
async function storedDtype(source: string, terminal: Terminal): Promise<WeightDtype> {
  const { checkpoint } = await openSource(source, createStoreOpener(terminal.env), terminal);
  const counts = new Map<string, number>();
  for (const { dtype, shape } of checkpoint.tensors) counts.set(dtype, (counts.get(dtype) ?? 0) + elementCount(shape));
  const [most] = [...counts].sort(([, a], [, b]) => b - a)[0] ?? [];
  return WEIGHT_DTYPES.find((known) => known === most) ?? "F32";
}

async function convert(
  source: string,
  options: Omit<Options, "to"> & { readonly to: (typeof CONVERSION_TARGETS)[number] },
  terminal: Terminal,
): Promise<void> {
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
      ...readingProgress(progress, "convert"),
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
