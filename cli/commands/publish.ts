// `mergeyard publish DIR MODEL --yard YARD`: a folder that a command made becomes a version of a yard.
import type { Command } from "commander";
import { openSigner } from "../../signing/open-signer.ts";
import { publishFolderStep } from "../../steps/publish-folder.ts";
import { runStep } from "../../steps/step.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { jsonOption, toUri, yardOption } from "../arguments.ts";
import { createProgress } from "../progress.ts";
import { createStepDeps } from "../step-deps.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, formatBytes } from "../text.ts";

type Options = { readonly yard: string; readonly channel: string; readonly json?: boolean };

export function addPublish(program: Command, terminal: Terminal): void {
  program
    .command("publish")
    .description("make a folder with a manifest of Mergeyard's a version, and point a channel to it")
    .argument(
      "<dir>",
      "a folder or an s3:// URI: what merge, align, merge-experts, transplant or lora made, or pull fetched",
    )
    .argument("<model>", "the model that it becomes a version of")
    .addOption(yardOption())
    .option("--channel <name>", "the channel to point to it", "latest")
    .addOption(jsonOption())
    .action((folder: string, model: string, options: Options) => publish(folder, model, options, terminal));
}

async function publish(folder: string, model: string, options: Options, terminal: Terminal): Promise<void> {
  const progress = createProgress(terminal, { silent: options.json === true });
  const deps = {
    ...createStepDeps(terminal, createStoreOpener(terminal.env)),
    signer: await openSigner(terminal.env),
    progress: ({ bytesRead }: { bytesRead: number }) => progress.update(bytesRead),
  };
  const [source, yard] = [toUri(folder, terminal.cwd), toUri(options.yard, terminal.cwd)];
  progress.begin("publish", 0);
  try {
    const result = await runStep(publishFolderStep, { source, yard, model, channel: options.channel }, deps);
    progress.end();
    printResult(terminal, options.json, result, () => {
      const { version, channel, before, outcome, files, bytes } = result;
      const was = before === null || before === version ? "" : `, before ${before}`;
      const what = `${model}@${version} (${countOf(files, "file")}, ${formatBytes(bytes)})`;
      const done = outcome === "present" ? `${what} was published already` : `published ${what}`;
      return `${done}; ${model}:${channel} points to it${was}`;
    });
  } finally {
    progress.end();
  }
}
