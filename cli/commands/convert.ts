// `mergeyard convert SRC --to FORMAT --out DIR`: a checkpoint of any format as a universal one or a safetensors folder.
import path from "node:path";
import type { Command } from "commander";
import { Option } from "commander";
import { jsonOption, toOutputUri, toUri } from "../arguments.ts";
import { createProgress } from "../progress.ts";
import { createStepDeps } from "../step-deps.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, formatBytes } from "../text.ts";

type Options = { readonly to: "safetensors" | "universal"; readonly out: string; readonly json?: boolean };

const FORMATS = ["safetensors", "universal"] as const;

export function addConvert(program: Command, terminal: Terminal): void {
  program
    .command("convert")
    .description("make a universal checkpoint or a safetensors folder of a checkpoint in any format")
    .argument("<src>", "a folder, a file, or an s3:// URI")
    .addOption(new Option("--to <format>", "the format to write").choices(FORMATS).makeOptionMandatory())
    .requiredOption("--out <dir>", "the folder to make; it must be empty or absent")
    .addOption(jsonOption())
    .action((source: string, options: Options) => convert(source, options, terminal));
}

async function convert(source: string, options: Options, terminal: Terminal): Promise<void> {
  const [{ createStoreOpener }, { runStep }, { convertStep }, { locateSource, openSource }, { beginOutputFolder }] =
    await Promise.all([
      import("../../stores/open.ts"),
      import("../../steps/step.ts"),
      import("../../steps/convert.ts"),
      import("../source.ts"),
      import("../../local/output-folder.ts"),
    ]);
  const openStore = createStoreOpener(terminal.env);
  const { checkpoint } = await openSource(source, openStore, terminal);
  const { folder, file } = locateSource(source, terminal.cwd);
  // An object store has no rename: there the document that makes the target a checkpoint is written last.
  const isRemote = /^[a-z][a-z0-9+.-]*:\/\//.test(options.out);
  const output = isRemote
    ? undefined
    : await beginOutputFolder(path.resolve(terminal.cwd, options.out), { force: false });
  const progress = createProgress(terminal, { silent: options.json === true });
  progress.begin(
    "convert",
    checkpoint.tensorFiles.reduce((sum, { bytes }) => sum + bytes, 0),
  );
  const deps = {
    ...createStepDeps(terminal, openStore),
    progress: ({ bytesRead }: { bytesRead: number }) => progress.update(bytesRead),
  };
  try {
    const target = toOutputUri(output?.path ?? options.out, terminal.cwd);
    const input = { source: folder, target, to: options.to, ...(file === undefined ? {} : { sourceFile: file }) };
    const result = await runStep(convertStep, input, deps);
    await output?.commit();
    progress.end();
    printResult(terminal, options.json, { ...result, target: toUri(options.out, terminal.cwd) }, () => {
      const digest = result.digest === null ? "" : `, ${result.digest}`;
      const counts = `${countOf(result.files, "file")}, ${countOf(result.tensors, "tensor")}`;
      return `${options.to} in ${options.out}: ${counts}, ${formatBytes(result.bytes)}${digest}`;
    });
  } catch (error) {
    await output?.discard();
    throw error;
  } finally {
    progress.end();
  }
}
