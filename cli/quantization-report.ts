// The page of `mergeyard quantize --report FILE`: what every tensor lost, and the plan that the schemes come from.
import { Option } from "commander";
import type { DrawnPlan } from "../core/report/frontier.ts";
import { type DrawnOutput, renderQuantization } from "../core/report/quantization.ts";
import { parseLocalPath } from "./arguments.ts";
import { writeOutputFile } from "./output-file.ts";
import type { Terminal } from "./terminal.ts";

export function reportOption(): Option {
  const help = "draw what every tensor lost as an HTML page, and with --budget size against loss";
  return new Option("--report <file>", help).argParser(parseLocalPath);
}

/** Nothing where no file is asked for. Throws CliFileNotWritten. */
export async function writeQuantizationReport(
  file: string | undefined,
  drawn: DrawnOutput,
  plan: DrawnPlan | undefined,
  terminal: Terminal,
): Promise<void> {
  if (file === undefined) return;
  await writeOutputFile(file, renderQuantization(drawn, plan), terminal);
}
