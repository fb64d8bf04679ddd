// `mergeyard gc --yard YARD`: removes versions beyond the number that is kept, what was never finished, and old inputs.
import type { Command } from "commander";
import { InvalidArgumentError, Option } from "commander";
import { gcStep } from "../../steps/collect-garbage.ts";
import { runStep } from "../../steps/step.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { jsonOption, parseWhole, toUri, yardOption } from "../arguments.ts";
import { createStepDeps } from "../step-deps.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, formatBytes } from "../text.ts";

type Options = {
  readonly yard: string;
  readonly keep?: number;
  readonly keepUploads?: number;
  readonly keepCheckpoints?: number;
  readonly grace: number;
  readonly dryRun?: boolean;
  readonly json?: boolean;
};

const HOUR_MS = 3_600_000;
const UNITS: Readonly<Record<string, number>> = { m: HOUR_MS / 60, h: HOUR_MS, d: 24 * HOUR_MS };

export function addGc(program: Command, terminal: Terminal): void {
  program
    .command("gc")
    .description("remove old versions, unfinished ones, pushes that nobody goes on with, and old inputs where asked to")
    .addOption(yardOption())
    .addOption(
      new Option(
        "--keep <n>",
        "newest versions of each model to keep (default: publish.keep of the yard's pipelines)",
      ).argParser(parseKeep),
    )
    .addOption(
      new Option(
        "--keep-uploads <n>",
        "newest complete uploads of each model to keep, of those that runs have read (default: all)",
      ).argParser(parseKeep),
    )
    .addOption(
      new Option(
        "--keep-checkpoints <n>",
        "newest universal checkpoints of each model to keep, beside those that anything names (default: all)",
      ).argParser(parseKeep),
    )
    .addOption(
      new Option("--grace <time>", "leave alone what is younger, such as 36h or 7d")
        .argParser(parseGrace)
        .default(7 * 24 * HOUR_MS, "7d"),
    )
    .option("--dry-run", "say what would go, and remove nothing")
    .addOption(jsonOption())
    .action((options: Options) => collect(options, terminal));
}

async function collect(options: Options, terminal: Terminal): Promise<void> {
  const deps = createStepDeps(terminal, createStoreOpener(terminal.env));
  const yard = toUri(options.yard, terminal.cwd);
  const { keep, keepUploads, keepCheckpoints } = options;
  const input = { yard, keep, keepUploads, keepCheckpoints, graceMs: options.grace, isTrial: options.dryRun === true };
  const { removed, bytes } = await runStep(gcStep, input, deps);
  printResult(terminal, options.json, { yard, dryRun: input.isTrial, removed, bytes }, () => {
    const verb = input.isTrial ? "would remove" : "removed";
    const lines = removed.map((entry) => `${verb} ${entry.prefix}  ${entry.kind}, ${formatBytes(entry.bytes)}`);
    return [...lines, `${verb} ${countOf(removed.length, "folder")}, ${formatBytes(bytes)}`].join("\n");
  });
}

function parseKeep(text: string): number {
  const keep = parseWhole(text);
  if (keep < 1) throw new InvalidArgumentError("It must be at least 1.");
  return keep;
}

function parseGrace(text: string): number {
  const [, number, unit = ""] = /^(\d{1,6})([mhd])$/.exec(text) ?? [];
  if (number === undefined) throw new InvalidArgumentError("It must be a time such as 90m, 36h or 7d.");
  return Number(number) * (UNITS[unit] ?? 0);
}
