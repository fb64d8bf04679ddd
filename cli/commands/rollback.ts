// `mergeyard rollback MODEL[:CHANNEL] --yard YARD`: a person points a channel to the version before.
import type { Command } from "commander";
import { MergeyardError } from "../../core/error.ts";
import { rollback } from "../../steps/decide-channel.ts";
import { openYard, parseVersionReference } from "../../steps/yard.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { jsonOption, toUri, yardOption } from "../arguments.ts";
import { createStepDeps } from "../step-deps.ts";
import { printResult, type Terminal } from "../terminal.ts";

type Options = { readonly yard: string; readonly to?: string; readonly json?: boolean };

export function addRollback(program: Command, terminal: Terminal): void {
  program
    .command("rollback")
    .description("point a channel back to the version that it pointed to before")
    .argument("<model>", "MODEL (its latest) or MODEL:CHANNEL")
    .option("--to <version>", "to this version instead of the one before")
    .addOption(yardOption())
    .addOption(jsonOption())
    .action((reference: string, options: Options) => rollBack(reference, options, terminal));
}

async function rollBack(reference: string, options: Options, terminal: Terminal): Promise<void> {
  const { model, channel } = parseVersionReference(reference);
  if (channel === undefined) {
    throw new MergeyardError("CliUsage", {
      found: reference,
      expected: "MODEL or MODEL:CHANNEL; a version is named by --to",
    });
  }
  const deps = createStepDeps(terminal, createStoreOpener(terminal.env));
  const yard = await openYard(deps.openStore, toUri(options.yard, terminal.cwd));
  const decision = await rollback(yard, { model, channel }, options.to, deps);
  printResult(terminal, options.json, decision, () => {
    return `${model}:${channel} points to ${model}@${decision.version} again, before ${decision.before}`;
  });
}
