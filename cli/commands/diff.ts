// `mergeyard diff A B`: which tensors of two checkpoints differ, and by how much.
import type { Command } from "commander";
import type { DiffOutput } from "../../steps/diff.ts";
import { diffStep } from "../../steps/diff.ts";
import { runStep } from "../../steps/step.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { jsonOption } from "../arguments.ts";
import { createProgress } from "../progress.ts";
import { locateSource, openSource, tensorBytes } from "../source.ts";
import { createStepDeps } from "../step-deps.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, formatCount, renderTable } from "../text.ts";

export function addDiff(program: Command, terminal: Terminal): void {
  program
    .command("diff")
    .description("compare two checkpoints tensor by tensor, in any formats")
    .argument("<a>", "a folder, a file, or an s3:// URI")
    .argument("<b>", "another one")
    .addOption(jsonOption())
    .action((a: string, b: string, options: { json?: boolean }) => diff(a, b, options, terminal));
}

async function diff(a: string, b: string, options: { json?: boolean }, terminal: Terminal): Promise<void> {
  const openStore = createStoreOpener(terminal.env);
  const sides = await Promise.all([openSource(a, openStore, terminal), openSource(b, openStore, terminal)]);
  const progress = createProgress(terminal, { silent: options.json === true });
  progress.begin("diff", tensorBytes(sides[0]) + tensorBytes(sides[1]));
  const deps = {
    ...createStepDeps(terminal, openStore),
    progress: ({ bytesRead }: { bytesRead: number }) => progress.update(bytesRead),
  };
  const input = { a: locateSource(a, terminal.cwd), b: locateSource(b, terminal.cwd) };
  const result = await runStep(diffStep, input, deps).finally(() => progress.end());
  printResult(terminal, options.json, result, () => describe(result, a, b));
}

function describe({ equal, onlyA, onlyB, shapes, changed }: DiffOutput, a: string, b: string): string {
  const lines = [
    ...onlyA.map((name) => `only in ${a}: ${name}`),
    ...onlyB.map((name) => `only in ${b}: ${name}`),
    ...shapes.map(({ name, a: left, b: right }) => `${name}: [${left}] and [${right}]`),
  ];
  const rows = changed.map(({ name, dtypes: [left, right], elements, changed: count, maxAbs, relative }) => [
    name,
    left === right ? left : `${left} ${right}`,
    count === null ? "bytes" : `${formatCount(count)} of ${formatCount(elements)}`,
    maxAbs === null ? "" : maxAbs.toPrecision(3),
    relative === null ? "" : relative.toPrecision(3),
  ]);
  const columns = [
    { title: "tensor", align: "left" as const },
    { title: "dtype", align: "left" as const },
    { title: "changed", align: "right" as const },
    { title: "largest", align: "right" as const },
    { title: "relative", align: "right" as const },
  ];
  const table = rows.length === 0 ? [] : [renderTable(columns, rows)];
  return [...lines, ...table, `${countOf(equal, "tensor")} equal, ${formatCount(changed.length)} changed`].join("\n");
}
