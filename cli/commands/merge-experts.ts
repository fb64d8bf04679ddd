// `mergeyard merge-experts MODEL --groups N --out DIR`: experts of a mixture-of-experts model merged among themselves.
import type { Command } from "commander";
import { Option } from "commander";
import { MergeyardError } from "../../core/error.ts";
import { mergeExpertsStep } from "../../steps/models/merge-experts.ts";
import { runStep } from "../../steps/step.ts";
import { forceOption, jsonOption, locateFile, lookupOption, parseLocalPath, toUri } from "../arguments.ts";
import { parseNumber } from "../number-arguments.ts";
import { intoFolder } from "../output.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, formatBytes } from "../text.ts";

type Options = {
  readonly out: string;
  readonly force: boolean;
  readonly yard?: string;
  readonly groups?: number;
  readonly statistics?: string;
  readonly dataFree?: boolean;
  readonly align: string;
  readonly rankRatio?: number;
  readonly shrink?: boolean;
  readonly residualRatio: number;
  readonly json?: boolean;
};

export function addMergeExperts(program: Command, terminal: Terminal): void {
  program
    .command("merge-experts")
    .description("merge experts of a mixture-of-experts model that route alike, and perhaps compress them")
    .argument("<model>", "a folder, an s3:// URI, or a name in --yard")
    .requiredOption("--out <dir>", "the folder to make; it must be empty or absent", parseLocalPath)
    .addOption(forceOption())
    .addOption(lookupOption())
    .addOption(new Option("--groups <n>", "groups of experts a layer, on average").argParser(parseNumber))
    .option("--statistics <file>", "router logits and uses on calibration data, as safetensors")
    .option("--data-free", "go by the routers' weights, and take all uses as equal")
    .addOption(
      new Option("--align <to>", "match units to the group's first expert, to the layer's, or not")
        .choices(["group", "layer", "none"])
        .default("group"),
    )
    .option("--shrink", "leave one expert for each group: a smaller model, whose routers keep one row for each")
    .addOption(new Option("--rank-ratio <x>", "compress: share of parameters in low rank").argParser(parseNumber))
    .addOption(
      new Option("--residual-ratio <x>", "with it: share of rows kept of what is left")
        .argParser(parseNumber)
        .default(0.25),
    )
    .addOption(jsonOption())
    .action((model: string, options: Options) => mergeExperts(model, options, terminal));
}

async function mergeExperts(model: string, options: Options, terminal: Terminal): Promise<void> {
  const { groups, statistics, rankRatio, residualRatio, align } = options;
  if (groups !== undefined && (statistics === undefined) === (options.dataFree !== true)) {
    const found = statistics === undefined ? "--groups alone" : "--statistics and --data-free";
    throw new MergeyardError("CliUsage", { found, expected: "--statistics FILE or --data-free" });
  }
  if (options.shrink === true && groups === undefined) {
    throw new MergeyardError("CliUsage", { found: "--shrink alone", expected: "--groups N" });
  }
  const result = await intoFolder(options, terminal, async ({ target, deps, find }) =>
    runStep(
      mergeExpertsStep,
      {
        model: await find(model),
        target,
        groups,
        align,
        shrink: options.shrink === true,
        statistics: statistics === undefined ? undefined : locateFile(statistics, terminal.cwd),
        compress: rankRatio === undefined ? undefined : { rankRatio, residualRatio },
      },
      deps,
    ),
  );
  printResult(terminal, options.json, { ...result, target: toUri(options.out, terminal.cwd) }, () => {
    const lines = result.layers.map(({ prefix, labels, cores }) => {
      return `${prefix}: ${countOf(labels.length, "expert")} in ${countOf(cores.length, "group")}: ${labels.join(" ")}`;
    });
    return [`model in ${options.out}, ${formatBytes(result.bytes)}`, ...lines].join("\n");
  });
}
