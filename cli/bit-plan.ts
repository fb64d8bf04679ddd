// Bit plans of the quantize command: reading one from a file, or planning one under a budget and showing it.
import type { Command } from "commander";
import { InvalidArgumentError, Option } from "commander";
import type * as z from "zod";
import { renderBitPlan, UNQUANTIZED } from "../core/bit-plan/document.ts";
import { SENSITIVITIES } from "../core/bit-plan/sensitivity.ts";
import { BLOCK_SCHEMES, COMPRESSED_SCHEMES } from "../core/schemes/registry.ts";
import { planBitsStep } from "../steps/quantize/plan-bits.ts";
import { readBitPlan } from "../steps/quantize/read-bit-plan.ts";
import { runStep } from "../steps/step.ts";
import type { OpenStore } from "../stores/store.ts";
import { createMeasureSchemes } from "../workers/measure-executor.ts";
import { locateFile, parseLocalPath } from "./arguments.ts";
import { checkOutputFile, writeOutputFile } from "./output-file.ts";
import { createStepDeps } from "./step-deps.ts";
import type { Terminal } from "./terminal.ts";
import { formatBytes } from "./text.ts";

export type PlanOptions = {
  readonly budget?: string;
  readonly bitPlan?: string;
  readonly candidates?: readonly string[];
  readonly sensitivity?: string;
  readonly savePlan?: string;
};

export type PlannedBits = z.output<typeof planBitsStep.output>;

/** The options of planning bits, for the quantize command. */
export function addPlanOptions(command: Command): Command {
  const sensitivities = [...SENSITIVITIES.values()].map(({ id, title }) => `${id}: ${title}`).join("; ");
  return command
    .addOption(new Option("--budget <size>", "plan the best scheme for every matrix: 4.5bpw, 4.2GB"))
    .addOption(new Option("--bit-plan <file>", "follow a plan, as --save-plan wrote it").argParser(parseLocalPath))
    .addOption(new Option("--candidates <ids>", "schemes to plan with, separated by commas").argParser(parseSchemes))
    .addOption(new Option("--sensitivity <id>", sensitivities).choices([...SENSITIVITIES.keys()]))
    .addOption(new Option("--save-plan <file>", "write the plan, to be edited").argParser(parseLocalPath));
}

/** Ids that plans of a format may have. */
const PLANNED: ReadonlyMap<string, ReadonlySet<string>> = new Map([
  ["gguf", new Set(Object.keys(BLOCK_SCHEMES))],
  ["compressed-tensors", new Set([...COMPRESSED_SCHEMES.keys(), UNQUANTIZED])],
]);

function parseSchemes(text: string): readonly string[] {
  const ids = text.split(",");
  const unknown = ids.find((id) => ![...PLANNED.values()].some((known) => known.has(id)));
  if (unknown !== undefined) throw new InvalidArgumentError(`there is no scheme ${unknown} to plan with`);
  return ids;
}

/** The format whose plans have a scheme, or GGUF where none has. */
export function plannedFormat(scheme: string | undefined): string {
  return [...PLANNED].find(([, known]) => known.has(scheme ?? ""))?.[0] ?? "gguf";
}

/** True of a format that bits are planned for. */
export function isPlannedFormat(format: string): boolean {
  return PLANNED.has(format);
}

/** The schemes of a plan file by matrix. Throws BitPlanInvalid and what the store throws. */
export async function readPlanFile(file: string, openStore: OpenStore, terminal: Terminal) {
  const { store, key } = locateFile(file, terminal.cwd);
  return readBitPlan(openStore(store), key, terminal.signal);
}

/** What is planned: a model, and what else decides its size and errors. */
export type PlanPlace = {
  readonly source: string;
  readonly sourceFile: string | undefined;
  readonly imatrix: object | undefined;
  readonly format: string;
  readonly tokenizer?: boolean;
  readonly ignore?: readonly string[];
};

/** The scheme that was named, or that of every matrix: from a plan's file, or planned under the budget. */
export type ChooseSchemes = (place: Omit<PlanPlace, "format">) => Promise<{
  readonly scheme: string | Readonly<Record<string, string>>;
  readonly planned?: PlannedBits;
}>;

/** Plans bits under the options' budget; writes the plan where it is asked for. Throws CliFileNotWritten. */
export async function planBits(
  place: PlanPlace,
  options: PlanOptions & { readonly budget: string },
  openStore: OpenStore,
  terminal: Terminal,
): Promise<PlannedBits> {
  const { budget, candidates, sensitivity, savePlan } = options;
  // Measuring takes long.
  await checkOutputFile(savePlan, terminal);
  const input: object = {
    ...place,
    budget,
    ...(candidates === undefined ? {} : { candidates }),
    ...(sensitivity === undefined ? {} : { sensitivity }),
  };
  const deps = { ...createStepDeps(terminal, openStore), measureSchemes: createMeasureSchemes(openStore) };
  const planned = await runStep(planBitsStep, input, deps);
  if (savePlan !== undefined) {
    await writeOutputFile(savePlan, renderBitPlan(headline(planned), planned.tensors), terminal);
  }
  return planned;
}

function headline({ bits, budget, sensitivity, isOptimal }: PlannedBits): string {
  const claim = isOptimal ? "the least loss there is" : "close to the least loss there is";
  return `${bits.toFixed(3)} bits a weight for a budget of ${budget}: ${claim}, by ${sensitivity} error`;
}

/** The plan as a table, the costliest matrix first. */
export function describePlan(planned: PlannedBits): string {
  const widest = Math.max(...planned.tensors.map(({ tensor }) => tensor.length));
  const wide = Math.max(6, ...planned.tensors.map(({ scheme }) => scheme.length));
  const rows = [...planned.tensors]
    .sort((a, b) => b.bytes - a.bytes)
    .map(({ tensor, scheme, bytes, relativeError, marginalLoss }) => {
      const price = marginalLoss === null ? "-" : (marginalLoss * 2 ** 20).toExponential(1);
      const cells = [formatBytes(bytes).padStart(9), relativeError.toExponential(1).padStart(8), price.padStart(8)];
      return `${tensor.padEnd(widest)}  ${scheme.padEnd(wide)}  ${cells.join("  ")}`;
    });
  const head = `${"matrix".padEnd(widest)}  ${"scheme".padEnd(wide)}  ${"bytes".padStart(9)}     error  loss/MiB`;
  return `${headline(planned)}\n${head}\n${rows.join("\n")}`;
}
