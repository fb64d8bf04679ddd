// `mergeyard init YARD`: makes a folder or an S3 prefix a yard.
import type { Command } from "commander";
import { initYard } from "../../steps/yard.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { jsonOption, toUri } from "../arguments.ts";
import { printResult, type Terminal } from "../terminal.ts";

export function addInit(program: Command, terminal: Terminal): void {
  program
    .command("init")
    .description("make a folder or an S3 prefix a yard")
    .argument("<yard>", "a folder, or s3://bucket/prefix")
    .addOption(jsonOption())
    .action(async (place: string, options: { json?: boolean }) => {
      const yard = toUri(place, terminal.cwd);
      const { created } = await initYard(createStoreOpener(terminal.env)(yard));
      printResult(terminal, options.json, { yard, created }, () =>
        created
          ? `${place} is a yard now: drop checkpoints into ${place}/incoming/MODEL/UPLOAD/`
          : `${place} is a yard already`,
      );
    });
}
