// `mergeyard lora extract` and `mergeyard lora merge`: adapters made of a fine-tuned model, and of other adapters.
import type { Command } from "commander";
import { Option } from "commander";
import { COMBINATIONS } from "../../core/adapter/combine.ts";
import { MergeyardError } from "../../core/error.ts";
import { extractLoraStep } from "../../steps/models/extract-lora.ts";
import { mergeLoraStep } from "../../steps/models/merge-lora.ts";
import { runStep } from "../../steps/step.ts";
import { forceOption, jsonOption, lookupOption, parseLocalPath, refuseGiven, toUri } from "../arguments.ts";
import { parseNumber, parseNumbers, parsePositive, parseSeed } from "../number-arguments.ts";
import { intoFolder } from "../output.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, formatBytes } from "../text.ts";

type ExtractOptions = {
  readonly base: string;
  readonly out: string;
  readonly force: boolean;
  readonly yard?: string;
  readonly rank: number;
  readonly svEpsilon: number;
  readonly distributeScale: boolean;
  readonly embedLora?: boolean;
  readonly skipUndecomposable?: boolean;
  readonly fanInFanOut?: boolean;
  readonly include?: string;
  readonly exclude?: string;
  readonly json?: boolean;
};

type MergeOptions = {
  readonly out: string;
  readonly force: boolean;
  readonly yard?: string;
  readonly combination: string;
  readonly weights?: readonly number[];
  readonly density: number;
  readonly majoritySign: string;
  readonly rank?: number;
  readonly clamp?: number;
  readonly seed: number;
  readonly peftCompat?: boolean;
  readonly json?: boolean;
};

export function addLora(program: Command, terminal: Terminal): void {
  const lora = program.command("lora").description("extract and combine LoRA adapters").helpCommand(false);
  lora
    .command("extract")
    .description("the change from a base to a fine-tuned model as a LoRA adapter, as PEFT saves it")
    .argument("<model>", "the fine-tuned model: a folder, an s3:// URI, or a name in --yard")
    .requiredOption("--base <model>", "the model that it was tuned from")
    .requiredOption("--out <dir>", "the folder to make; it must be empty or absent", parseLocalPath)
    .addOption(forceOption())
    .addOption(lookupOption())
    .addOption(new Option("--rank <n>", "the largest rank of a module").argParser(parsePositive).default(128))
    .addOption(
      new Option("--sv-epsilon <x>", "leave singular values at or below this out").argParser(parseNumber).default(0),
    )
    .option("--no-distribute-scale", "put the singular values on lora_A alone, instead of their roots on both")
    .option("--embed-lora", "factors for embeddings and heads too, which are otherwise kept whole")
    .option("--skip-undecomposable", "leave out what has no factors: norms, biases, embeddings")
    .option("--fan-in-fan-out", "the weights are stored [inputs, outputs], as GPT-2's are")
    .option("--include <regex>", "only tensors whose names contain a match")
    .option("--exclude <regex>", "no tensors whose names contain a match")
    .addOption(jsonOption())
    .action((model: string, options: ExtractOptions) => extract(model, options, terminal));
  lora
    .command("merge")
    .description("combine adapters of one model into one, as PEFT's add_weighted_adapter does")
    .argument("<adapters...>", "folders of adapters, s3:// URIs, or names in --yard")
    .requiredOption("--out <dir>", "the folder to make; it must be empty or absent", parseLocalPath)
    .addOption(forceOption())
    .addOption(lookupOption())
    .addOption(new Option("--combination <type>", "how to combine").choices([...COMBINATIONS.keys()]).default("cat"))
    .addOption(new Option("--weights <list>", "weights of the adapters, such as 1,0.5").argParser(parseNumbers))
    .addOption(new Option("--density <x>", "share of the elements that is kept").argParser(parseNumber).default(1))
    .addOption(
      new Option("--majority-sign <method>", "how signs are elected").choices(["total", "frequency"]).default("total"),
    )
    .addOption(new Option("--rank <n>", "rank of the result, with svd").argParser(parsePositive))
    .addOption(new Option("--clamp <quantile>", "bound the factors by a quantile, with svd").argParser(parseNumber))
    .addOption(new Option("--seed <n>", "seed of random combinations").argParser(parseSeed).default(0))
    .option("--peft-compat", "PEFT's own numbers, which apply an adapter's scale twice with svd")
    .addOption(jsonOption())
    .action((adapters: readonly string[], options: MergeOptions) => merge(adapters, options, terminal));
}

async function extract(model: string, options: ExtractOptions, terminal: Terminal): Promise<void> {
  const result = await intoFolder(options, terminal, async ({ target, deps, find }) =>
    runStep(
      extractLoraStep,
      {
        model: await find(model),
        base: await find(options.base),
        target,
        baseName: options.base,
        maxRank: options.rank,
        svEpsilon: options.svEpsilon,
        distributeScale: options.distributeScale,
        embeddings: options.embedLora === true,
        skipWhole: options.skipUndecomposable === true,
        inputFirst: options.fanInFanOut === true,
        include: options.include,
        exclude: options.exclude,
      },
      deps,
    ),
  );
  printResult(terminal, options.json, { ...result, target: toUri(options.out, terminal.cwd) }, () => {
    const kept = `${(100 * result.kept).toFixed(1)} % of the factored change kept`;
    const whole = result.whole === 0 ? "" : `, ${countOf(result.whole, "module")} whole`;
    const counts = `${countOf(result.modules, "module")} of rank up to ${result.rank}${whole}`;
    return `adapter in ${options.out}: ${counts}, ${formatBytes(result.bytes)}; ${kept}`;
  });
}

async function merge(adapters: readonly string[], options: MergeOptions, terminal: Terminal): Promise<void> {
  const { weights = adapters.map(() => 1) } = options;
  if (weights.length !== adapters.length) {
    const found = `${countOf(weights.length, "weight")} for ${countOf(adapters.length, "adapter")}`;
    throw new MergeyardError("CliUsage", { found, expected: "one weight for each adapter" });
  }
  refuseIdle(options);
  const result = await intoFolder(options, terminal, async ({ target, deps, find }) => {
    const sources = await Promise.all(adapters.map(find));
    return runStep(
      mergeLoraStep,
      {
        adapters: sources.map((source, i) => ({ source, weight: weights[i] ?? 1 })),
        target,
        combination: options.combination,
        density: options.density,
        majority: options.majoritySign,
        rank: options.rank,
        clamp: options.clamp,
        seed: options.seed,
        strict: options.peftCompat === true,
      },
      deps,
    );
  });
  printResult(terminal, options.json, { ...result, target: toUri(options.out, terminal.cwd) }, () => {
    const counts = `${countOf(result.modules, "module")} of rank up to ${result.rank}, ${formatBytes(result.bytes)}`;
    return `${options.combination} of ${countOf(adapters.length, "adapter")} in ${options.out}: ${counts}`;
  });
}

/** Throws CliUsage for an option that the combination does not use. */
function refuseIdle({ combination, rank, clamp, density }: MergeOptions): void {
  const how = COMBINATIONS.get(combination);
  const bounds = how?.on === "changes" ? {} : { "--rank": rank, "--clamp": clamp };
  const shares = how?.sparsify === "none" && density !== 1 ? { "--density": density } : {};
  refuseGiven({ ...bounds, ...shares }, { found: combination, expected: "a combination that uses it" });
}
