import type { Command } from "commander";
import { InvalidArgumentError, Option } from "commander";
import { MergeyardError } from "../../core/error.ts";
import { nearestName } from "../../core/recipe/nearest.ts";
import { FORMAT_SCHEMES } from "../../core/schemes/quantized-formats.ts";
import { FOLDER_SCHEMES, PART_SCHEMES, SCHEME_ALIASES } from "../../core/schemes/registry.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { forceOption, jsonOption, memoryOption, parseCount, refuseGiven, threadsOption } from "../arguments.ts";
import {
  addPlanOptions,
  type ChooseSchemes,
  isPlannedFormat,
  type PlanOptions,
  planBits,
  plannedFormat,
  readPlanFile,
} from "../bit-plan.ts";
import { reportOption } from "../quantization-report.ts";
import type { Terminal } from "../terminal.ts";
import { type FileOptions, quantizeFile } from "./quantize-file.ts";
import { type FolderOptions, quantizeFolder } from "./quantize-folder.ts";

type Options = Omit<FolderOptions, "format"> &
  FileOptions &
  PlanOptions & { readonly scheme?: string; readonly format?: string };

export function addQuantize(program: Command, terminal: Terminal): void {
  const command = program
    .command("quantize")
    .description("write a checkpoint as a quantized GGUF file for llama.cpp, or as a folder for servers")
    .argument("<src>", "a folder, a file, or an s3:// URI")
    .addOption(new Option("--scheme <id>", "how to quantize").argParser(parseScheme))
    .addOption(
      new Option("--format <format>", "what to write (default: by the scheme)").choices([...FORMAT_SCHEMES.keys()]),
    )
    .requiredOption("--out <place>", "the file or folder to write")
    .option("--imatrix <file>", "importance matrix of llama-imatrix, to lose less where it matters (gguf, --budget)")
    .option("--hessian <file>", "safetensors with the sum of x x^T of every matrix's inputs, by its name (gptq)")
    .option("--no-tokenizer", "leave the tokenizer out (gguf)")
    .addOption(new Option("--split-max-size <size>", SPLIT_SIZE_HELP).argParser(parseSplitSize))
    .addOption(new Option("--split-max-tensors <n>", "the same, of at most N tensors each").argParser(parseCount))
    .addOption(ignoreOption())
    .addOption(reportOption())
    .addOption(forceOption())
    .addOption(threadsOption())
    .addOption(memoryOption())
    .addOption(jsonOption());
  addPlanOptions(command).action((source: string, options: Options) => dispatch(source, options, terminal));
}

/** `--ignore MODULE`, repeatable. */
function ignoreOption(): Option {
  return new Option("--ignore <module>", "a module to leave as it is: a path, or re:EXPRESSION; repeatable")
    .argParser((text: string, before: readonly string[]) => [...before, text])
    .default([], "none");
}

/** Options that only files of GGUF have. */
function ggufOptions({ imatrix, budget, tokenizer, splitMaxSize, splitMaxTensors }: Options) {
  return {
    "--imatrix": budget === undefined ? imatrix : undefined,
    "--no-tokenizer": tokenizer ? undefined : tokenizer,
    "--split-max-size": splitMaxSize,
    "--split-max-tensors": splitMaxTensors,
  };
}

const SPLIT_SIZE_HELP = "several files, OUT-00001-of-0000N.gguf, of tensors of at most this size, such as 2G (gguf)";

/** Thousands, as llama.cpp counts them: 2G is 2,000,000,000 bytes. */
function parseSplitSize(text: string): number {
  const [, count = "", unit = ""] = /^(\d{1,6})([KMG])$/i.exec(text) ?? [];
  const bytes = Number(count) * 1000 ** (1 + "KMG".indexOf(unit.toUpperCase()));
  if (count !== "" && bytes > 0) return bytes;
  throw new InvalidArgumentError("It must be a size such as 2G or 500M: thousands, as llama.cpp counts them.");
}

/** Ids in any case, and the names that other tools have for some. */
function parseScheme(text: string): string {
  const lower = text.toLowerCase();
  const id = SCHEME_ALIASES.get(lower) ?? lower;
  const known = [...FORMAT_SCHEMES.values()].flat();
  if (known.includes(id)) return id;
  if (PART_SCHEMES.has(id)) throw new InvalidArgumentError("No server loads a folder of it, so none is written.");
  const nearest = nearestName(id, [...known, ...SCHEME_ALIASES.keys()]);
  const meant = nearest === undefined ? "" : ` Did you mean ${nearest}?`;
  throw new InvalidArgumentError(
    `There is no such scheme.${meant} docs/schemes.md lists them, such as q4_k_m and fp8_dynamic.`,
  );
}

async function dispatch(source: string, options: Options, terminal: Terminal): Promise<void> {
  const { scheme, budget, bitPlan } = options;
  if ([scheme, budget, bitPlan].filter((way) => way !== undefined).length !== 1) {
    throw new InvalidArgumentError("Give one of --scheme, --budget and --bit-plan.");
  }
  const { candidates, sensitivity, savePlan } = options;
  const planning = { "--candidates": candidates, "--sensitivity": sensitivity, "--save-plan": savePlan };
  if (budget === undefined) refuseGiven(planning, { expected: "--budget SIZE, which plans" });
  const openStore = createStoreOpener(terminal.env);
  const followed = bitPlan === undefined ? undefined : await readPlanFile(bitPlan, openStore, terminal);
  const holding = [...FORMAT_SCHEMES].find(([, schemes]) => schemes.includes(scheme ?? ""))?.[0];
  const [example] = followed === undefined ? (options.candidates ?? []) : Object.values(followed);
  const format = options.format ?? holding ?? plannedFormat(example);
  if (scheme === undefined && !isPlannedFormat(format)) {
    const expected = "--format gguf or compressed-tensors, for --budget and --bit-plan";
    throw new MergeyardError("CliUsage", { where: { field: "--format" }, found: format, expected });
  }
  const schemes = FORMAT_SCHEMES.get(format) ?? [];
  if (scheme !== undefined && !schemes.includes(scheme)) {
    const expected = `one of ${schemes.join(", ")}`;
    throw new MergeyardError("CliUsage", { where: { field: "--scheme" }, found: scheme, expected });
  }
  if (options.hessian !== undefined && (FOLDER_SCHEMES.get(scheme ?? "")?.hessian ?? "ignored") === "ignored") {
    const taking = [...FOLDER_SCHEMES.values()].filter(({ hessian }) => hessian !== "ignored").map(({ id }) => id);
    const where = { field: "--hessian" };
    throw new MergeyardError("CliUsage", { where, found: scheme, expected: `one of ${taking.join(", ")}` });
  }
  const foreign = format === "gguf" ? { "--ignore": options.ignore[0] } : ggufOptions(options);
  refuseGiven(foreign, { found: format, expected: "another format" });
  const choose: ChooseSchemes = async (place) => {
    const given = scheme ?? followed;
    if (given !== undefined || budget === undefined) return { scheme: given ?? "" };
    const planned = await planBits({ ...place, format }, { ...options, budget }, openStore, terminal);
    return { scheme: Object.fromEntries(planned.tensors.map((each) => [each.tensor, each.scheme])), planned };
  };
  if (format === "gguf") await quantizeFile(source, options, choose, terminal);
  else await quantizeFolder(source, { ...options, format }, choose, terminal);
}
