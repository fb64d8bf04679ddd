// `mergeyard transplant MODEL --tokenizer DONOR --out DIR`: a model with the tokenizer of another.
import type { Command } from "commander";
import { Option } from "commander";
import { MEMORY_BYTES_DEFAULT } from "../../core/plan/defaults.ts";
import { SUBWORD_WEIGHTINGS } from "../../core/transplant/subwords.ts";
import { WEIGHTINGS } from "../../engine/approximate-request.ts";
import { MATCH_SIDES, TRANSPLANT_METHODS, transplantStep } from "../../steps/models/transplant.ts";
import { runStep } from "../../steps/step.ts";
import { createApproximate } from "../../workers/approximate-executor.ts";
import { defaultThreads } from "../../workers/pool.ts";
import {
  forceOption,
  jsonOption,
  lookupOption,
  memoryOption,
  parseLocalPath,
  refuseGiven,
  threadsOption,
  toUri,
} from "../arguments.ts";
import { parsePositive } from "../number-arguments.ts";
import { intoFolder } from "../output.ts";
import { createProgress, readingProgress } from "../progress.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, formatBytes } from "../text.ts";

type Options = {
  readonly tokenizer: string;
  readonly out: string;
  readonly force: boolean;
  readonly yard?: string;
  readonly method: (typeof TRANSPLANT_METHODS)[number];
  readonly k?: number;
  readonly weightScheme?: (typeof WEIGHTINGS)[number];
  readonly cosineSimilarity?: boolean;
  readonly subwordMethod?: (typeof SUBWORD_WEIGHTINGS)[number];
  readonly byteMatch: (typeof MATCH_SIDES)[number];
  readonly prefixMatch: (typeof MATCH_SIDES)[number];
  readonly threads?: number;
  readonly memory?: number;
  readonly json?: boolean;
};

export function addTransplant(program: Command, terminal: Terminal): void {
  program
    .command("transplant")
    .description("give a model the tokenizer of another, with rows for the tokens that it does not know")
    .argument("<model>", "a folder, an s3:// URI, or a name in --yard")
    .requiredOption("--tokenizer <donor>", "the model whose tokenizer is taken")
    .requiredOption("--out <dir>", "the folder to make; it must be empty or absent", parseLocalPath)
    .addOption(forceOption())
    .addOption(lookupOption())
    .addOption(
      new Option("--method <name>", "how rows of unknown tokens are made").choices(TRANSPLANT_METHODS).default("omp"),
    )
    .addOption(new Option("--k <n>", "rows that one is combined of (default: 64)").argParser(parsePositive))
    .addOption(
      new Option("--weight-scheme <name>", "of common_interpolation: how the nearest rows are weighed").choices(
        WEIGHTINGS,
      ),
    )
    .option("--cosine-similarity", "of common_interpolation: the nearest are those of the most like direction")
    .addOption(
      new Option("--subword-method <name>", "of subword: how the pieces of a token are weighed").choices(
        SUBWORD_WEIGHTINGS,
      ),
    )
    .addOption(matchOption("--byte-match <where>", "a token of the same byte counts as the same"))
    .addOption(matchOption("--prefix-match <where>", "so does the longest token that a token begins with"))
    .addOption(threadsOption())
    .addOption(memoryOption())
    .addOption(jsonOption())
    .action((model: string, options: Options) => transplant(model, options, terminal));
}

function matchOption(flags: string, help: string): Option {
  return new Option(flags, help).choices(MATCH_SIDES).default("no");
}

async function transplant(model: string, options: Options, terminal: Terminal): Promise<void> {
  const { method } = options;
  refuseIdle(options);
  const progress = createProgress(terminal, { silent: options.json === true });
  const result = await intoFolder(options, terminal, async ({ target, deps, find }) => {
    const own = {
      ...deps,
      executeApproximate: createApproximate(deps.openStore),
      threads: options.threads ?? defaultThreads(),
      memoryBytes: options.memory ?? MEMORY_BYTES_DEFAULT,
      ...readingProgress(progress, "transplant"),
    };
    const places = { model: await find(model), donor: await find(options.tokenizer), target };
    return runStep(transplantStep, { ...places, ...settingsOf(options) }, own);
  }).finally(() => progress.end());
  printResult(terminal, options.json, { ...result, target: toUri(options.out, terminal.cwd) }, () => {
    const tokens = `${countOf(result.rows, "token")}, ${result.shared} of them the model's own`;
    const lines = result.matrices.map(({ tensor, same, byte, prefix, approximated, unknown }) => {
      const others = [...(byte > 0 ? [`${byte} by byte`] : []), ...(prefix > 0 ? [`${prefix} by prefix`] : [])];
      const means = unknown > 0 ? [`${unknown} the mean`] : [];
      const made = [`${same} rows as they were`, ...others, `${approximated} by ${method}`, ...means];
      return `${tensor}: ${made.join(", ")}`;
    });
    return [`model in ${options.out}: ${tokens}, ${formatBytes(result.bytes)}`, ...lines].join("\n");
  });
}

/** Throws CliUsage for an option that the method does not use. */
function refuseIdle({ method, k, weightScheme, cosineSimilarity, subwordMethod }: Options): void {
  const found = `--method ${method}`;
  const nearest = method === "common_interpolation";
  if (method !== "omp" && !nearest) {
    refuseGiven({ "--k": k }, { found, expected: "--method omp or common_interpolation" });
  }
  if (!nearest) {
    const own = { "--weight-scheme": weightScheme, "--cosine-similarity": cosineSimilarity };
    refuseGiven(own, { found, expected: "--method common_interpolation" });
  }
  if (method !== "subword") refuseGiven({ "--subword-method": subwordMethod }, { found, expected: "--method subword" });
}

function settingsOf({ method, k, byteMatch, prefixMatch, ...options }: Options) {
  const { weightScheme: weighting, cosineSimilarity: cosine, subwordMethod: subwordWeighting } = options;
  return { method, k, weighting, cosine, subwordWeighting, byteMatch, prefixMatch };
}
