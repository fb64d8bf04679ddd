// `mergeyard report RUN --yard YARD --out FILE.html`: the report of a run as it is now, also of one that goes on.
import type { Command } from "commander";
import { findRun } from "../../steps/runs/find-run.ts";
import { makeRunReport } from "../../steps/runs/report.ts";
import { openYard } from "../../steps/yard.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { jsonOption, parseLocalPath, toUri, yardOption } from "../arguments.ts";
import { writeOutputFile } from "../output-file.ts";
import { printResult, type Terminal } from "../terminal.ts";

type Options = { readonly yard: string; readonly out: string; readonly json?: boolean };

export function addReport(program: Command, terminal: Terminal): void {
  program
    .command("report")
    .description("draw a run as an HTML page: timeline, retries, cost, failures, how the models agree")
    .argument("<run>", "the run, or the beginning of its name")
    .addOption(yardOption())
    .requiredOption("--out <file>", "the page to write", parseLocalPath)
    .addOption(jsonOption())
    .action(async (text: string, options: Options) => {
      const yard = await openYard(createStoreOpener(terminal.env), toUri(options.yard, terminal.cwd));
      const run = await findRun(yard, text, terminal.signal);
      const page = await makeRunReport(yard, run, terminal.signal);
      const file = await writeOutputFile(options.out, page, terminal);
      printResult(terminal, options.json, { run, file, bytes: Buffer.byteLength(page) }, () => `wrote ${options.out}`);
    });
}
