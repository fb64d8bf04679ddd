// `mergeyard diff A B`: which tensors of two checkpoints differ, and by how much.
import type { Command } from "commander";
import { DIFFERENCE_COLUMNS, type DrawnSide, differenceCells, renderDifference } from "../../core/report/difference.ts";
import type { DiffOutput } from "../../steps/diff.ts";
import { diffStep } from "../../steps/diff.ts";
import type { StoredCheckpoint } from "../../steps/open-checkpoint.ts";
import { runStep } from "../../steps/step.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { jsonOption, parseLocalPath } from "../arguments.ts";
import { checkOutputFile, writeOutputFile } from "../output-file.ts";
import { createProgress, readingProgress } from "../progress.ts";
import { locateSource, openSource } from "../source.ts";
import { createStepDeps } from "../step-deps.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, formatCount, renderTable } from "../text.ts";

type Options = { readonly html?: string; readonly json?: boolean };

export function addDiff(program: Command, terminal: Terminal): void {
  program
    .command("diff")
    .description("compare two checkpoints tensor by tensor, in any formats")
    .argument("<a>", "a folder, a file, or an s3:// URI")
    .argument("<b>", "another one")
    .option("--html <file>", "draw how far they lie apart, and where, as an HTML page", parseLocalPath)
    .addOption(jsonOption())
    .action((a: string, b: string, options: Options) => diff(a, b, options, terminal));
}

async function diff(a: string, b: string, options: Options, terminal: Terminal): Promise<void> {
  await checkOutputFile(options.html, terminal);
  const openStore = createStoreOpener(terminal.env);
  const openSide = (text: string) => openSource(text, openStore, terminal);
  // The page names the tensors that are equal too, and says what the formats are.
  const sides = options.html === undefined ? undefined : await Promise.all([openSide(a), openSide(b)]);
  const progress = createProgress(terminal, { silent: options.json === true });
  const deps = { ...createStepDeps(terminal, openStore), ...readingProgress(progress, "diff") };
  const input = { a: locateSource(a, terminal.cwd), b: locateSource(b, terminal.cwd) };
  const result = await runStep(diffStep, input, deps).finally(() => progress.end());
  try {
    if (options.html !== undefined && sides !== undefined) {
      const page = renderDifference(describeSide(a, sides[0]), describeSide(b, sides[1]), result);
      await writeOutputFile(options.html, page, terminal);
    }
  } finally {
    // A comparison may take hours: it is told even where its page cannot be written.
    printResult(terminal, options.json, result, () => describe(result, a, b));
  }
}

function describeSide(name: string, { checkpoint: { format, tensors } }: StoredCheckpoint): DrawnSide {
  return { name, format, tensors: tensors.map((tensor) => tensor.name) };
}

function describe({ equal, onlyA, onlyB, shapes, changed }: DiffOutput, a: string, b: string): string {
  const lines = [
    ...onlyA.map((name) => `only in ${a}: ${name}`),
    ...onlyB.map((name) => `only in ${b}: ${name}`),
    ...shapes.map(({ name, a: left, b: right }) => `${name}: [${left}] and [${right}]`),
  ];
  const rows = changed.map((difference) => differenceCells(difference, formatCount));
  const columns = DIFFERENCE_COLUMNS.map((title, index) => ({ title, align: index < 2 ? "left" : "right" }) as const);
  const table = rows.length === 0 ? [] : [renderTable(columns, rows)];
  return [...lines, ...table, `${countOf(equal, "tensor")} equal, ${formatCount(changed.length)} changed`].join("\n");
}
