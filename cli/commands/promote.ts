// `mergeyard promote MODEL CHANNEL --yard YARD`: a person points a channel to a version.
import type { Command } from "commander";
import { promote } from "../../steps/decide-channel.ts";
import { openYard } from "../../steps/yard.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { jsonOption, toUri, yardOption } from "../arguments.ts";
import { createStepDeps } from "../step-deps.ts";
import { printResult, type Terminal } from "../terminal.ts";

export function addPromote(program: Command, terminal: Terminal): void {
  program
    .command("promote")
    .description("point a channel to a version; no run that was planned before moves it away")
    .argument("<model>", "MODEL (its latest), MODEL@VERSION or MODEL:CHANNEL")
    .argument("<channel>", "the channel to point to that version")
    .addOption(yardOption())
    .addOption(jsonOption())
    .action(async (reference: string, channel: string, options: { yard: string; json?: boolean }) => {
      const deps = createStepDeps(terminal, createStoreOpener(terminal.env));
      const yard = await openYard(deps.openStore, toUri(options.yard, terminal.cwd));
      const decision = await promote(yard, reference, channel, deps);
      printResult(terminal, options.json, decision, () => {
        const { model, version, before } = decision;
        const was = before === null || before === version ? "" : `, before ${before}`;
        return `${model}:${channel} points to ${model}@${version}${was}`;
      });
    });
}
