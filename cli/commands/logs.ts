// `mergeyard logs [RUN] --yard YARD`: what happened in a run, from its folder in the yard; without a run, which runs
// there are.
import type { Command } from "commander";
import { findRun } from "../../steps/runs/find-run.ts";
import { type LoggedEvent, listRuns, type RunListing, readRunLog } from "../../steps/runs/log.ts";
import { openYard } from "../../steps/yard.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { jsonOption, toUri, yardOption } from "../arguments.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { renderTable } from "../text.ts";

export function addLogs(program: Command, terminal: Terminal): void {
  program
    .command("logs")
    .description("show what happened in a run: units, failures, workers' last words, the result")
    .argument("[run]", "a run, or the beginning of its name; without one, lists the runs of the yard")
    .addOption(yardOption())
    .addOption(jsonOption())
    .action((run: string | undefined, options: { yard: string; json?: boolean }) => logs(run, options, terminal));
}

async function logs(
  text: string | undefined,
  options: { yard: string; json?: boolean },
  terminal: Terminal,
): Promise<void> {
  const yard = await openYard(createStoreOpener(terminal.env), toUri(options.yard, terminal.cwd));
  if (text === undefined) {
    const runs = await listRuns(yard, terminal.signal);
    printResult(terminal, options.json, { runs }, () => renderRuns(runs));
    return;
  }
  const run = await findRun(yard, text, terminal.signal);
  const events = await readRunLog(yard, run, terminal);
  printResult(terminal, options.json, { run, events }, () => events.map(renderEvent).join("\n"));
}

function renderRuns(runs: readonly RunListing[]): string {
  if (runs.length === 0) return "the yard has no runs";
  const rows = runs.map(({ run, plannedMs, state, end }) => [run, timeOf(plannedMs), state, end ?? ""]);
  const left = (title: string) => ({ title, align: "left" as const });
  return renderTable([left("run"), left("planned"), left("state"), left("end")], rows);
}

/** `2026-11-24 02:00:03  unit-finished  stage 2 unit 7 op merge …`; nested values as JSON. */
function renderEvent({ event, atMs, ...fields }: LoggedEvent): string {
  const words = Object.entries(fields)
    .filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : String(value)}`);
  return `${timeOf(atMs)}  ${event.padEnd(16)} ${words.join("  ")}`;
}

function timeOf(ms: number): string {
  return new Date(ms).toISOString().slice(0, 19).replace("T", " ");
}
