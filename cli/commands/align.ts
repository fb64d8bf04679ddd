// `mergeyard align MODEL --to REFERENCE --out DIR`: a model with its units permuted to match another's.
import type { Command } from "commander";
import { Option } from "commander";
import { permutationSpecSchema } from "../../core/align/permutation-spec.ts";
import { ARTIFACT_LIMITS } from "../../core/limits.ts";
import { alignStep } from "../../steps/models/align.ts";
import { runStep } from "../../steps/step.ts";
import { readJson } from "../../stores/objects.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { forceOption, jsonOption, locateFile, lookupOption, parseLocalPath, toUri } from "../arguments.ts";
import { parsePositive, parseSeed } from "../number-arguments.ts";
import { intoFolder } from "../output.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, formatBytes } from "../text.ts";

type Options = {
  readonly to: string;
  readonly out: string;
  readonly force: boolean;
  readonly yard?: string;
  readonly spec?: string;
  readonly seed: number;
  readonly maxIter: number;
  readonly json?: boolean;
};

export function addAlign(program: Command, terminal: Terminal): void {
  program
    .command("align")
    .description("permute a model's units to match another model of its build, so that the two can be averaged")
    .argument("<model>", "the model to permute: a folder, an s3:// URI, or a name in --yard")
    .requiredOption("--to <model>", "the model that stays as it is")
    .requiredOption("--out <dir>", "the folder to make; it must be empty or absent", parseLocalPath)
    .addOption(forceOption())
    .addOption(lookupOption())
    .option("--spec <file>", "which axes of which tensors are permuted together, as JSON")
    .addOption(new Option("--seed <n>", "seed of the order of visits").argParser(parseSeed).default(0))
    .addOption(new Option("--max-iter <n>", "rounds at most").argParser(parsePositive).default(100))
    .addOption(jsonOption())
    .action((model: string, options: Options) => align(model, options, terminal));
}

async function align(model: string, options: Options, terminal: Terminal): Promise<void> {
  const spec = options.spec === undefined ? undefined : await readSpec(options.spec, terminal);
  const result = await intoFolder(options, terminal, async ({ target, deps, find }) => {
    const places = { model: await find(model), reference: await find(options.to), target };
    return runStep(alignStep, { ...places, spec, seed: options.seed, maxIterations: options.maxIter }, deps);
  });
  printResult(terminal, options.json, { ...result, target: toUri(options.out, terminal.cwd) }, () => {
    const rounds = `${countOf(result.permutations, "permutation")} in ${countOf(result.iterations, "round")}`;
    const moved = `${result.moved} of ${countOf(result.units, "unit")} moved`;
    return `aligned model in ${options.out}: ${rounds}, ${moved}, ${formatBytes(result.bytes)}`;
  });
}

async function readSpec(file: string, terminal: Terminal) {
  const { store, key } = locateFile(file, terminal.cwd);
  const { signal } = terminal;
  const opened = createStoreOpener(terminal.env)(store);
  return (await readJson(opened, key, permutationSpecSchema, ARTIFACT_LIMITS.documentBytes, { signal })).axes_to_perm;
}
